#!/usr/bin/env python3
"""Writes state_dicts.json and resnet.safetensors: names, shapes and dtypes of PyTorch's state_dicts, and numbers of torchvision's ResNets.

usage: tests/golden/make_resnet.py (PyTorch, torchvision, safetensors)

Parameters are waves as in tests/nn/golden.h, so that only results are in the file: logits, and each parameter's gradient as three numbers, its norm,
its sum, and its product with a wave.
"""
import json
import math
import pathlib

import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

here = pathlib.Path(__file__).parent


def wave(shape, k=0.0):
    return torch.sin(0.7 * torch.arange(math.prod(shape), dtype=torch.float64) + k).reshape(tuple(shape))


def waved(module):
    with torch.no_grad():
        k = 0.0
        for t in module.state_dict().values():
            k += 0.3
            t.copy_(wave(t.shape, k))
    return module


modules = {
    "resnet18": torchvision.models.resnet18(),
    "resnet34": torchvision.models.resnet34(num_classes=10),
    "resnet50": torchvision.models.resnet50(num_classes=10),
    "lstm": nn.LSTM(3, 5, 2, bidirectional=True, proj_size=2),
    "transformer": nn.Transformer(8, 2, 2, 1, 16),
}
dicts = {name: [[key, list(t.shape), str(t.dtype).removeprefix("torch.")] for key, t in m.state_dict().items()] for name, m in modules.items()}
lines = ",\n".join(f'"{name}": [\n' + ",\n".join(json.dumps(entry) for entry in entries) + "\n]" for name, entries in dicts.items())
(here / "state_dicts.json").write_text("{\n" + lines + "\n}\n")

out = {}
for name, channels, size in (("resnet18", 3, (33, 40)), ("resnet50", 3, (40, 33))):
    model = waved(getattr(torchvision.models, name)(num_classes=4).double())
    for training in (True, False):
        model.train(training)
        model.zero_grad()
        x = wave((3, channels, *size), 0.1).requires_grad_()
        y = model(x)
        (y * wave(y.shape, 0.5)).sum().backward()
        tag = f"{name}.{'train' if training else 'eval'}"
        out[f"{tag}.y"] = y.detach()
        out[f"{tag}.dx"] = x.grad[:, :, ::7, ::7].clone()
        out[f"{tag}.gradients"] = torch.stack([torch.stack([p.grad.norm(), p.grad.sum(), (p.grad * wave(p.shape, 0.2)).sum()]) for p in model.parameters()])
        if training:
            with torch.no_grad():  # variances of an evaluation are positive
                for key, t in model.state_dict().items():
                    if key.endswith("running_var"):
                        t.copy_(wave(t.shape) ** 2 * 100 + 50)
                    if key.endswith("running_mean"):
                        t.copy_(wave(t.shape) * 10)

transformer = waved(nn.Transformer(8, 2, 2, 1, 16, batch_first=True).double()).eval()
out["transformer.y"] = transformer(wave((2, 3, 8), 0.1), wave((2, 4, 8), 0.2), tgt_mask=nn.Transformer.generate_square_subsequent_mask(4, dtype=torch.float64)).detach()
save_file({k: v.contiguous() for k, v in out.items()}, here / "resnet.safetensors")
(here / "resnet.safetensors").chmod(0o644)
