// Images read at positions that a tensor gives: spatial transformers (Jaderberg et al. 2015), optical flow, lens correction.
#pragma once
#include <retape/core/kernel_args.h>

namespace retape {

struct GridSampleOptions {
  GridSampleMode mode = GridSampleMode::bilinear;             ///< bilinear (over three dims trilinear), nearest, bicubic (two dims only)
  GridSamplePadding padding_mode = GridSamplePadding::zeros;  ///< outside of the image: zeros, the border's places, or the image mirrored
  bool align_corners = false;                                 ///< whether -1 and 1 are the outermost places, or the outermost edges
};
/// y[n, :, i, j] = x[n] at grid[n, i, j]. x (N, C, H, W) or (N, C, D, H, W); grid (N, OH, OW, 2) or (N, OD, OH, OW, 3) in x's dtype, whose
/// last dim has the position along the width, the height and, if there is one, the depth, from -1 to 1. Returns (N, C, OH, OW) or (N, C,
/// OD, OH, OW), channels-last in memory. Gradients of x and grid, second derivatives, too. Positions that are nan are outside of the image
/// among zeros, else at place 0; in bicubic mode those that are nan or infinite then give nan. Throws Error for other shapes and dtypes and
/// for an image without places. torch: functional.grid_sample.
Tensor grid_sample(const Tensor& x, const Tensor& grid, const GridSampleOptions& options = {});

/// The grid that makes grid_sample() an affine map: grid[n, i, j] = theta[n] (x, y, 1), with the positions x and y of place (i, j) in an
/// image of this size. theta (N, 2, 3) and size (N, C, H, W), or theta (N, 3, 4) and size (N, C, D, H, W): (N, H, W, 2) or (N, D, H, W, 3).
/// torch: functional.affine_grid.
Tensor affine_grid(const Tensor& theta, const Shape& size, bool align_corners = false);

}  // namespace retape
