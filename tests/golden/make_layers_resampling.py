"""Writes layers_resampling.safetensors, which tests/nn/resampling_test.cpp compares with: PyTorch 2.15's functions that put images on
other grids, in f64, with their gradients. Entries as layer_cases.py makes them. Run with PyTorch and safetensors; building and testing
need neither.
"""

import pathlib

import torch
import torch.nn.functional as F

from layer_cases import case, save, wave

shapes = {1: (2, 2, 5), 2: (1, 2, 3, 4), 3: (1, 1, 3, 4, 2)}


def interpolate(name, rank, **options):
    case(name, lambda x: F.interpolate(x, **options), dict(x=wave(*shapes[rank])))


for mode in ("nearest", "nearest-exact", "area"):
    for rank, size in {1: 7, 2: (3, 9), 3: (5, 2, 4)}.items():
        interpolate(f"{mode.replace('-', '_')}{rank}d", rank, size=size, mode=mode)
for mode, rank, size in (("linear", 1, 8), ("bilinear", 2, (7, 3)), ("bicubic", 2, (3, 11)), ("trilinear", 3, (5, 3, 1))):
    interpolate(mode, rank, size=size, mode=mode)
    interpolate(mode + "_corners", rank, size=size, mode=mode, align_corners=True)
    interpolate(mode + "_factor", rank, scale_factor=(2.3, 0.7, 1.5)[:rank], mode=mode)
    interpolate(mode + "_recomputed", rank, scale_factor=2.3, mode=mode, recompute_scale_factor=True)
interpolate("nearest_factor", 2, scale_factor=(2.3, 0.7))
interpolate("nearest_exact_factor", 2, scale_factor=(2.3, 0.7), mode="nearest-exact")
interpolate("bilinear_same_size", 2, scale_factor=(1.2, 2.0), mode="bilinear")
interpolate("bicubic_same_size", 2, scale_factor=(1.2, 2.0), mode="bicubic")
interpolate("bilinear_far_down", 2, size=(1, 2), mode="bilinear")
case("upsampling_nearest2d", torch.nn.UpsamplingNearest2d(scale_factor=2), dict(input=wave(1, 2, 4, 5)))
case("upsampling_bilinear2d", torch.nn.UpsamplingBilinear2d(size=(5, 9)), dict(input=wave(1, 2, 4, 5)))

case("pixel_shuffle", torch.nn.PixelShuffle(2), dict(input=wave(2, 12, 2, 3)))
case("pixel_unshuffle", torch.nn.PixelUnshuffle(3), dict(input=wave(2, 2, 6, 3)))
case("channel_shuffle", torch.nn.ChannelShuffle(3), dict(input=wave(2, 6, 2, 3)))

grid, grid_3d = 1.3 * wave(2, 3, 2, 2, k=0.2), 1.3 * wave(1, 2, 2, 1, 3, k=0.2)
for mode in ("bilinear", "nearest", "bicubic"):
    for padding in ("zeros", "border", "reflection"):
        for corners in (False, True):
            options = dict(mode=mode, padding_mode=padding, align_corners=corners)
            f = lambda x, grid, options=options: F.grid_sample(x, grid, **options)
            name = f"{mode}_{padding}{'_corners' * corners}"
            case(f"grid_sample_{name}", f, dict(x=wave(2, 1, 3, 4), grid=grid))
            if mode != "bicubic":
                case(f"grid_sample_3d_{name}", f, dict(x=wave(1, 2, 2, 3, 4), grid=grid_3d))
far = lambda x, grid: F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
case("grid_sample_far", far, dict(x=wave(1, 2, 3, 4), grid=9 * wave(1, 3, 3, 2)))
for corners in (False, True):
    name = "_corners" * corners
    case(f"affine_grid{name}", lambda theta: F.affine_grid(theta, (2, 1, 3, 4), align_corners=corners), dict(theta=wave(2, 2, 3)))
    case(f"affine_grid_3d{name}", lambda theta: F.affine_grid(theta, (1, 2, 2, 1, 3), align_corners=corners), dict(theta=wave(1, 3, 4)))

save(pathlib.Path(__file__).parent / "layers_resampling.safetensors")
