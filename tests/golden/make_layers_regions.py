"""Writes layers_regions.safetensors, which tests/nn/region_test.cpp compares with: outputs and gradients of torchvision 0.29's deformable convolution
and pooling of regions, in f64. Run with PyTorch and torchvision; building and testing need neither.

A case has inputs CASE.x.NAME and CASE.k.NAME, the result CASE.y and, for wave(shape, 0.5) as its gradient, CASE.d.NAME; layer_cases.py has the rest.
"""

import math
import pathlib

import torch
from layer_cases import case, save, wave
from torchvision import ops


def deform(name, channels, outputs, kernel, size, out_size, groups=1, offset_groups=1, masked=True, bias=True, spread=1.5, **k):
    n, places = 2, kernel[0] * kernel[1]
    x = {
        "x": wave(n, channels, *size),
        "offset": spread * wave(n, 2 * offset_groups * places, *out_size, k=0.3),
        "weight": wave(outputs, channels // groups, *kernel, k=0.6),
    }
    if bias:
        x["bias"] = wave(outputs, k=0.9)
    if masked:
        x["mask"] = 0.5 + 0.5 * wave(n, offset_groups * places, *out_size, k=1.2)
    case(name, lambda x, offset, weight, bias=None, mask=None: ops.deform_conv2d(x, offset, weight, bias, mask=mask, **k), x)


deform("deform", 4, 3, (3, 3), (5, 6), (5, 6), masked=False, padding=1)
deform("deform_mask", 4, 6, (3, 2), (6, 5), (3, 2), padding=(1, 0), stride=(2, 2), dilation=(1, 2))
deform("deform_groups", 12, 4, (2, 2), (4, 5), (3, 4), groups=2, offset_groups=3, bias=False)
deform("deform_depthwise", 4, 4, (3, 3), (4, 4), (4, 4), groups=4, offset_groups=2, padding=1, spread=4)
deform("deform_zero_offsets", 2, 2, (3, 3), (4, 4), (4, 4), padding=1, spread=0)

boxes = torch.tensor(
    [
        [0, 1.2, 0.7, 9.3, 7.1],
        [1, -3.1, -2.3, 4.4, 5.2],  # partly outside
        [0, 3.3, 2.2, 3.4, 2.3],  # smaller than a pixel
        [1, 6.1, 5.3, 14.7, 11.9],
        [0, 30.2, 30.4, 40.1, 41.3],  # outside
        [1, 5.2, 4.1, 2.3, 1.2],  # the wrong way round
        [0, 1.3, 1.1, 6.4, 5.7],
    ]
)
sized = boxes[[0, 1, 2, 3, 4, 6]]


class PSRoIPool(torch.autograd.Function):
    """torchvision's, with the gradient of what its forward does: its own counts a last row and column that forward leaves out."""

    @staticmethod
    def forward(ctx, x, boxes, scale):
        ctx.args = x.shape, boxes, scale
        return ops.ps_roi_pool(x, boxes, (2, 3), scale)

    @staticmethod
    def backward(ctx, dy):
        shape, boxes, scale = ctx.args
        units = torch.eye(math.prod(shape)).reshape(-1, *shape)  # the op is linear
        return torch.stack([(dy * ops.ps_roi_pool(x, boxes, (2, 3), scale)).sum() for x in units]).reshape(shape), None, None


for scale in (1.0, 0.5):
    tag = "" if scale == 1 else "_half"
    x = {"x": wave(2, 2, 7, 9)}
    parts = {"x": wave(2, 6, 7, 9)}
    case("roi_align" + tag, lambda x, boxes: ops.roi_align(x, boxes, (3, 2), scale), x, {"boxes": boxes})
    case("roi_align_samples" + tag, lambda x, boxes: ops.roi_align(x, boxes, 2, scale, sampling_ratio=2), x, {"boxes": boxes})
    case("roi_align_aligned" + tag, lambda x, boxes: ops.roi_align(x, boxes, (2, 3), scale, aligned=True), x, {"boxes": boxes})
    case("roi_align_aligned_samples" + tag, lambda x, boxes: ops.roi_align(x, boxes, (2, 3), scale, sampling_ratio=3, aligned=True), x, {"boxes": boxes})
    case("roi_pool" + tag, lambda x, boxes: ops.roi_pool(x, boxes, (3, 2), scale), x, {"boxes": boxes})
    case("ps_roi_align" + tag, lambda x, boxes: ops.ps_roi_align(x, boxes, (3, 2), scale), parts, {"boxes": sized})
    case("ps_roi_align_samples" + tag, lambda x, boxes: ops.ps_roi_align(x, boxes, (1, 3), scale, sampling_ratio=2), parts, {"boxes": boxes})
    case("ps_roi_pool" + tag, lambda x, boxes: PSRoIPool.apply(x, boxes, scale), parts, {"boxes": boxes})

save(pathlib.Path(__file__).parent / "layers_regions.safetensors")
