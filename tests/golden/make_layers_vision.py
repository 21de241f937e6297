"""Writes layers_vision.safetensors, which tests/nn/convolution_test.cpp compares with: outputs and gradients of PyTorch 2.15's layers for images, in f64.
Run with PyTorch and NumPy; building and testing need neither.

The input of a case is wave(shape), the i-th entry of its state_dict wave(shape, 0.3 * (i + 1)), and the gradient of the output wave(shape, 0.5), with
wave(shape, k) = sin(0.7 i + k). Entries: CASE.y, CASE.dx, CASE.d.NAME, and CASE.indices where there are some.
"""

import pathlib

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import nn

torch.set_default_dtype(torch.float64)
out = {}


def wave(shape, k=0.0):
    return torch.tensor(np.sin(0.7 * np.arange(int(np.prod(shape))) + k).reshape(shape))


def run(case, module, shape, **kw):
    with torch.no_grad():
        for i, t in enumerate(module.state_dict().values()):
            t.copy_(wave(t.shape, 0.3 * (i + 1)))
    x = wave(shape).requires_grad_()
    y = module(x, **kw)
    if isinstance(y, tuple):
        y, indices = y
        out[f"{case}.indices"] = indices.numpy()
    y.backward(wave(y.shape, 0.5))
    out[f"{case}.y"] = y.detach().numpy()
    out[f"{case}.dx"] = x.grad.numpy()
    for name, p in module.named_parameters():
        out[f"{case}.d.{name}"] = p.grad.numpy()


run("conv1d", nn.Conv1d(4, 6, 3, stride=2, padding=1), (2, 4, 9))
run("conv1d_same", nn.Conv1d(2, 3, 4, padding="same", dilation=2), (2, 2, 9))
run("conv2d", nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 0)), (2, 3, 7, 6))
run("conv2d_groups", nn.Conv2d(4, 6, 3, padding=2, dilation=2, groups=2, bias=False), (2, 4, 6, 5))
run("conv2d_depthwise", nn.Conv2d(3, 6, 3, padding=1, groups=3), (2, 3, 5, 5))
for mode in ("reflect", "replicate", "circular"):
    run(f"conv2d_{mode}", nn.Conv2d(2, 2, 3, padding=(1, 2), padding_mode=mode), (2, 2, 5, 6))
run("conv3d", nn.Conv3d(2, 3, (2, 3, 1), stride=(1, 2, 1), padding=(1, 0, 0)), (1, 2, 3, 5, 3))
run("conv_transpose1d", nn.ConvTranspose1d(3, 2, 4, stride=3, padding=1, output_padding=2), (2, 3, 4))
run("conv_transpose2d", nn.ConvTranspose2d(4, 6, (3, 4), stride=2, padding=1, groups=2, dilation=(2, 1)), (2, 4, 3, 4))
run("conv_transpose3d", nn.ConvTranspose3d(2, 2, 2, stride=2, bias=False), (1, 2, 2, 1, 3))
run("unfold", nn.Unfold((2, 3), dilation=(2, 1), padding=1, stride=(1, 2)), (2, 2, 4, 5))
run("fold", nn.Fold((4, 5), 2, stride=(1, 2), padding=(0, 1)), (2, 8, 9))
run("max_pool1d", nn.MaxPool1d(3, stride=2, padding=1, return_indices=True), (2, 2, 8))
run("max_pool2d", nn.MaxPool2d((3, 2), stride=(2, 2), padding=(1, 0), dilation=(1, 2), ceil_mode=True, return_indices=True), (2, 3, 6, 7))
run("max_pool3d", nn.MaxPool3d(2, return_indices=True), (1, 2, 4, 5, 4))
run("avg_pool1d", nn.AvgPool1d(3, stride=2, padding=1, ceil_mode=True), (2, 2, 8))
run("avg_pool2d", nn.AvgPool2d(3, stride=2, padding=1, ceil_mode=True), (2, 2, 6, 8))
run("avg_pool2d_inside", nn.AvgPool2d(3, stride=2, padding=1, ceil_mode=True, count_include_pad=False), (2, 2, 6, 8))
run("avg_pool3d", nn.AvgPool3d((1, 2, 3), divisor_override=5), (1, 2, 2, 4, 6))
run("lp_pool1d", nn.LPPool1d(2, 3, ceil_mode=True), (2, 2, 8))
run("lp_pool2d", nn.LPPool2d(2, (2, 3), stride=1), (1, 2, 4, 5))
run("lp_pool3d", nn.LPPool3d(2, 2), (1, 2, 4, 4, 2))
run("adaptive_avg_pool1d", nn.AdaptiveAvgPool1d(3), (2, 2, 7))
run("adaptive_avg_pool2d", nn.AdaptiveAvgPool2d((3, 7)), (2, 2, 5, 4))
run("adaptive_avg_pool3d", nn.AdaptiveAvgPool3d((2, 1, 3)), (1, 2, 3, 4, 5))
run("adaptive_max_pool1d", nn.AdaptiveMaxPool1d(3, return_indices=True), (2, 2, 7))
run("adaptive_max_pool2d", nn.AdaptiveMaxPool2d((3, None), return_indices=True), (2, 2, 5, 4))
run("adaptive_max_pool3d", nn.AdaptiveMaxPool3d((2, 1, 3), return_indices=True), (1, 2, 3, 4, 5))
unpool = nn.MaxPool2d(2, return_indices=True)(wave((1, 2, 4, 5)))[1]
run("max_unpool2d", nn.MaxUnpool2d(2), (1, 2, 2, 2), indices=unpool, output_size=(1, 2, 4, 5))
out["max_unpool2d.at"] = unpool.numpy()

save_file({k: np.ascontiguousarray(v) for k, v in out.items()}, pathlib.Path(__file__).parent / "layers_vision.safetensors")
