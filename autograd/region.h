// Pooling of regions of images (N, C, H, W) into bins, output_size of them, as detectors do: (K, C, output_size). Gradients are x's; boxes have none. All run in
// f32 under autocast. Results lie channels-last in memory. Throws Error for shapes that do not fit and images that are not there. Regions may reach, or
// lie, outside of the image.
#pragma once
#include <retape/autograd/convolution.h>

namespace retape {

/// Regions of images: rows (image, x1, y1, x2, y2) of a tensor (K, 5), or for every image rows (x1, y1, x2, y2) of a tensor (L, 4).
struct Boxes {
  Boxes(Tensor rows) : rows(std::move(rows)) {}
  Boxes(std::vector<Tensor> of_images) : of_images(std::move(of_images)) {}
  Tensor rows;
  std::vector<Tensor> of_images;
};

struct RoIAlignOptions {
  double spatial_scale = 1;     ///< pixels of x a unit of the boxes
  int64_t sampling_ratio = -1;  ///< samples of a bin in each dim; if not positive, its size in pixels, rounded up
  bool aligned = false;         ///< pixels are at (0.5, 0.5) instead of (0, 0), and a region may be smaller than a pixel
};
/// The means of bilinear samples of the bins. A sample up to a pixel outside takes the image's border, others are 0. A region with a coordinate that is
/// nan or infinite, or more than 2^24 samples of a bin in a dim, gives nan. He et al. 2017; torchvision: ops.roi_align.
Tensor roi_align(const Tensor& x, const Boxes& boxes, const PerDim& output_size, const RoIAlignOptions& options = {});
/// The largest element of the bins, whose borders are rounded to pixels; 0 for a bin without pixels. nan is the largest; a nan in a box gives nan. There is no
/// second derivative. Girshick 2015; torchvision: ops.roi_pool.
Tensor roi_pool(const Tensor& x, const Boxes& boxes, const PerDim& output_size, double spatial_scale = 1);

struct PSRoIAlignOptions {
  double spatial_scale = 1;
  int64_t sampling_ratio = -1;
};
/// Aligned means where bin b of channel c of the result is that of channel c * bins + b of x, whose channels are a multiple of the bins: (K, C / bins,
/// output_size). Li et al. 2018; torchvision: ops.ps_roi_align.
Tensor ps_roi_align(const Tensor& x, const Boxes& boxes, const PerDim& output_size, const PSRoIAlignOptions& options = {});
/// The same with means of the pixels of the bins, whose borders are rounded as in roi_pool(). Dai et al. 2016; torchvision: ops.ps_roi_pool.
Tensor ps_roi_pool(const Tensor& x, const Boxes& boxes, const PerDim& output_size, double spatial_scale = 1);

}  // namespace retape
