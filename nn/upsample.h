// Images of other sizes as modules; autograd/interpolate.h says what each does and what it throws.
#pragma once
#include <retape/autograd/interpolate.h>
#include <retape/nn/module.h>

namespace retape::nn {

/// torch: nn.Upsample.
struct Upsample : Module {
  InterpolateOptions options;
  explicit Upsample(InterpolateOptions o) : options(std::move(o)) {}
  Tensor forward(const Tensor& x) const { return interpolate(x, options); }
  RETAPE_FIELDS()
};

struct UpsamplingOptions {
  PerDim size = {};
  ScaleFactor scale_factor = {};
};
/// torch: nn.UpsamplingNearest2d.
struct UpsamplingNearest2d : Upsample {
  explicit UpsamplingNearest2d(UpsamplingOptions o) : Upsample({.size = std::move(o.size), .scale_factor = std::move(o.scale_factor)}) {}
  RETAPE_FIELDS()
};
/// The corners' places coincide. torch: nn.UpsamplingBilinear2d.
struct UpsamplingBilinear2d : Upsample {
  explicit UpsamplingBilinear2d(UpsamplingOptions o)
      : Upsample({.size = std::move(o.size),
                  .scale_factor = std::move(o.scale_factor),
                  .mode = InterpolateMode::bilinear,
                  .align_corners = true}) {}
  RETAPE_FIELDS()
};

}  // namespace retape::nn
