// Pooling of regions as modules; autograd/region.h says what each does and what it throws.
#pragma once
#include <retape/autograd/region.h>
#include <retape/nn/module.h>

namespace retape::nn {

/// torchvision: ops.RoIAlign.
struct RoIAlign : Module {
  PerDim output_size;
  RoIAlignOptions options;
  explicit RoIAlign(PerDim size, RoIAlignOptions o = {}) : output_size(std::move(size)), options(o) {}
  Tensor forward(const Tensor& x, const Boxes& boxes) const { return roi_align(x, boxes, output_size, options); }
  RETAPE_FIELDS()
};
/// torchvision: ops.RoIPool.
struct RoIPool : Module {
  PerDim output_size;
  double spatial_scale;
  explicit RoIPool(PerDim size, double scale = 1) : output_size(std::move(size)), spatial_scale(scale) {}
  Tensor forward(const Tensor& x, const Boxes& boxes) const { return roi_pool(x, boxes, output_size, spatial_scale); }
  RETAPE_FIELDS()
};
/// torchvision: ops.PSRoIAlign.
struct PSRoIAlign : Module {
  PerDim output_size;
  PSRoIAlignOptions options;
  explicit PSRoIAlign(PerDim size, PSRoIAlignOptions o = {}) : output_size(std::move(size)), options(o) {}
  Tensor forward(const Tensor& x, const Boxes& boxes) const { return ps_roi_align(x, boxes, output_size, options); }
  RETAPE_FIELDS()
};
/// torchvision: ops.PSRoIPool.
struct PSRoIPool : Module {
  PerDim output_size;
  double spatial_scale;
  explicit PSRoIPool(PerDim size, double scale = 1) : output_size(std::move(size)), spatial_scale(scale) {}
  Tensor forward(const Tensor& x, const Boxes& boxes) const { return ps_roi_pool(x, boxes, output_size, spatial_scale); }
  RETAPE_FIELDS()
};

}  // namespace retape::nn
