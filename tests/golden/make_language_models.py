"""Makes the folders beside this file: language models of random tiny configurations as Hugging Face's transformers saves them, with ids and the logits
that the models give in expected.safetensors. Made with transformers 5.23.0 and PyTorch 2.15.0:

    python make_language_models.py
"""
import os
import pathlib

import torch
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, MambaConfig, MambaForCausalLM

here = pathlib.Path(__file__).parent


def make(name, kind, config, length, shards=None):
    model = kind(config).eval()
    with torch.no_grad():
        for key, p in model.named_parameters():
            if key.endswith("A_log") or "dt_proj.bias" in key:
                p.add_(torch.randn_like(p) * 0.2)
            else:
                p.copy_(torch.randn_like(p) * (0.3 if p.dim() > 1 else 0.2) + (1 if "norm" in key or "ln_" in key else 0) * key.endswith("weight"))
        ids = torch.randint(0, config.vocab_size, (2, length))
        logits = model(ids).logits
    folder = here / name
    model.save_pretrained(folder, **({"max_shard_size": shards} if shards else {}))
    (folder / "generation_config.json").unlink(missing_ok=True)
    save_file({"ids": ids, "logits": logits.contiguous()}, folder / "expected.safetensors")
    for f in folder.iterdir():
        os.chmod(f, 0o644)


torch.manual_seed(1)
make("gpt2_a", GPT2LMHeadModel, GPT2Config(vocab_size=23, n_positions=16, n_embd=12, n_layer=2, n_head=3), 16)
make("gpt2_b", GPT2LMHeadModel, GPT2Config(vocab_size=19, n_positions=8, n_embd=8, n_layer=1, n_head=2, n_inner=20, activation_function="gelu", layer_norm_epsilon=1e-3,
                                           tie_word_embeddings=False), 7)
make("llama_a", LlamaForCausalLM, LlamaConfig(vocab_size=23, hidden_size=16, intermediate_size=28, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                                              max_position_embeddings=64, rms_norm_eps=1e-5), 17, shards="4KB")
make("llama_b", LlamaForCausalLM, LlamaConfig(vocab_size=21, hidden_size=12, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, head_dim=8,
                                              attention_bias=True, mlp_bias=True, tie_word_embeddings=True, max_position_embeddings=64,
                                              rope_parameters={"rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                                               "original_max_position_embeddings": 16}), 40)
make("mamba_a", MambaForCausalLM, MambaConfig(vocab_size=23, hidden_size=12, state_size=5, num_hidden_layers=2, expand=2, conv_kernel=4), 19)
make("mamba_b", MambaForCausalLM, MambaConfig(vocab_size=17, hidden_size=8, state_size=3, num_hidden_layers=1, expand=3, conv_kernel=3, use_bias=True, use_conv_bias=False,
                                              time_step_rank=2, layer_norm_epsilon=1e-3, tie_word_embeddings=False), 9)
