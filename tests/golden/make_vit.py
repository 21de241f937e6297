"""Makes the folders beside this file: models of random tiny configurations as Hugging Face's transformers saves them, with inputs and what
the models make of them in expected.safetensors. Made with transformers 5.23.0 and PyTorch 2.15.0:

    python make_vit.py
"""
import pathlib

import torch
from safetensors.torch import save_file
from transformers import ViTConfig, ViTForImageClassification, ViTMAEConfig, ViTMAEForPreTraining

here = pathlib.Path(__file__).parent


def randomize(model):
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "pos_embed" not in name and "position_embeddings" not in name or p.requires_grad:
                p.copy_(torch.randn_like(p) * (0.3 if p.dim() > 1 else 0.2) + (1 if "norm" in name and name.endswith("weight") else 0))


def finish(name, model, tensors):
    folder = here / name
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "expected.safetensors")


def vit(name, **config):
    config = ViTConfig(**config)
    model = ViTForImageClassification(config).eval()
    randomize(model)
    images = torch.randn(2, config.num_channels, config.image_size, config.image_size)
    with torch.no_grad():
        out = model(images, output_hidden_states=True)
        finish(name, model, {"images": images, "logits": out.logits, "last_hidden_state": model.vit(images).last_hidden_state})


def mae(name, **config):
    config = ViTMAEConfig(**config)
    model = ViTMAEForPreTraining(config).eval()
    model.vit.embeddings.patch_embeddings.projection._is_hf_initialized = False
    model.vit.embeddings.initialize_weights()  # this version leaves the positions at 0
    model.decoder.initialize_weights((config.image_size // config.patch_size) ** 2)
    randomize(model)
    images = torch.randn(2, config.num_channels, config.image_size, config.image_size)
    noise = torch.rand(2, (config.image_size // config.patch_size) ** 2)
    with torch.no_grad():
        out = model(images, noise=noise)
    finish(name, model, {"images": images, "noise": noise, "pred": out.logits, "loss": out.loss.reshape(1), "hidden": out.mask, "ids_restore": out.ids_restore})


torch.manual_seed(1)
vit("vit_a", hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=20, image_size=12, patch_size=4, num_channels=3, num_labels=5)
vit("vit_b", hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, image_size=6, patch_size=3, num_channels=1, num_labels=3,
    hidden_act="gelu_new", qkv_bias=False, layer_norm_eps=1e-5)
mae("mae_a", hidden_size=12, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, image_size=8, patch_size=2, num_channels=3, mask_ratio=0.75,
    decoder_hidden_size=8, decoder_num_hidden_layers=1, decoder_num_attention_heads=4, decoder_intermediate_size=12, norm_pix_loss=True)
mae("mae_b", hidden_size=16, num_hidden_layers=1, num_attention_heads=4, intermediate_size=20, image_size=9, patch_size=3, num_channels=1, mask_ratio=0.5,
    decoder_hidden_size=12, decoder_num_hidden_layers=2, decoder_num_attention_heads=3, decoder_intermediate_size=16, norm_pix_loss=False, hidden_act="relu")
