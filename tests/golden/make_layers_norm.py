"""Writes layers_norm.safetensors, which tests/nn/norm_test.cpp compares with: normalisation of PyTorch 2.15 in f64. Run with PyTorch, NumPy and
safetensors; building and testing need none of them.

Inputs and parameters are sin(0.7 i + k), inputs with 3 added. A case runs some training steps on different inputs and then an evaluation; the
loss is the sum of all outputs, each times sin(0.7 i + step).
Entries: CASE.x.STEP, CASE.y.STEP, CASE.d.x.STEP, CASE.eval.x, CASE.eval.y, CASE.eval.d.x, CASE.p.NAME (before), CASE.d.p.NAME (of all steps),
CASE.b.NAME (buffers before), CASE.after.NAME (buffers after).
"""

import pathlib

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

torch.set_default_dtype(torch.float64)
out = {}


def wave(shape, k):
    n = 1
    for size in shape:
        n *= size
    return torch.sin(0.7 * torch.arange(n) + k).reshape(shape)


def case(name, module, shape, steps=2, offset=3.0, spectral=False):
    for i, (key, p) in enumerate(module.named_parameters()):
        p.data = 1.5 * wave(p.shape, 0.3 * (i + 1))
        out[f"{name}.p.{key}"] = p.detach().clone()
    for i, (key, b) in enumerate(module.named_buffers()):
        if spectral:
            b.copy_(nn.functional.normalize(wave(b.shape, 0.5 * (i + 1)), dim=0))
        out[f"{name}.b.{key}"] = b.detach().clone()
    inputs, loss = [], 0
    for step in range(steps + 1):
        last = step == steps
        module.train(not last)
        x = (wave(shape, 0.2 + step) + offset).requires_grad_()
        y = module(x)
        loss = loss + (y * wave(y.shape, step)).sum()
        inputs.append(x)
        prefix, end = (f"{name}.eval.", "") if last else (f"{name}.", f".{step}")
        out[f"{prefix}x{end}"], out[f"{prefix}y{end}"] = x.detach(), y.detach()
    loss.backward()
    for step, x in enumerate(inputs):
        out[f"{name}.eval.d.x" if step == steps else f"{name}.d.x.{step}"] = x.grad
    for key, p in module.named_parameters():
        out[f"{name}.d.p.{key}"] = p.grad
    for key, b in module.named_buffers():
        out[f"{name}.after.{key}"] = b.detach().clone()


case("batch_norm_1d", nn.BatchNorm1d(3), (5, 3))
case("batch_norm_1d_length", nn.BatchNorm1d(3, eps=1e-3, momentum=0.3), (2, 3, 4))
case("batch_norm_2d", nn.BatchNorm2d(4), (2, 4, 3, 2))
case("batch_norm_2d_cumulative", nn.BatchNorm2d(4, momentum=None), (2, 4, 3, 2), steps=3)
case("batch_norm_2d_plain", nn.BatchNorm2d(4, affine=False, track_running_stats=False), (2, 4, 3, 2))
case("batch_norm_3d", nn.BatchNorm3d(2), (2, 2, 3, 2, 2))
case("group_norm", nn.GroupNorm(2, 6), (2, 6, 3, 2))
case("group_norm_plain", nn.GroupNorm(3, 6, eps=1e-2, affine=False), (2, 6))
case("instance_norm_1d", nn.InstanceNorm1d(3), (2, 3, 4))
case("instance_norm_2d", nn.InstanceNorm2d(3, affine=True, track_running_stats=True), (2, 3, 3, 2))
case("instance_norm_3d", nn.InstanceNorm3d(2, affine=True), (2, 2, 2, 2, 2))
case("instance_norm_unbatched", nn.InstanceNorm2d(3, track_running_stats=True), (3, 3, 2))
case("local_response_norm", nn.LocalResponseNorm(3, alpha=0.5, beta=0.6, k=2), (2, 5, 3))
case("local_response_norm_even", nn.LocalResponseNorm(4), (2, 5, 2, 2), offset=0)
case("weight_norm", weight_norm(nn.Linear(3, 4)), (2, 3))
case("weight_norm_columns", weight_norm(nn.Linear(3, 4), dim=1), (2, 3))
case("weight_norm_whole", weight_norm(nn.Linear(3, 4, bias=False), dim=None), (2, 3))
case("spectral_norm", spectral_norm(nn.Linear(3, 4)), (2, 3), spectral=True)
case("spectral_norm_columns", spectral_norm(nn.Linear(3, 4, bias=False), n_power_iterations=3, dim=1), (2, 3), spectral=True)

save_file({k: v.detach().contiguous() for k, v in out.items()}, pathlib.Path(__file__).parent / "layers_norm.safetensors")
