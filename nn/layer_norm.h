// Layer normalisation.
#pragma once
#include <retape/nn/module.h>

namespace retape::nn {

struct LayerNormOptions {
  double eps = 1e-5;
  bool elementwise_affine = true;
  bool bias = true;
};
/// (x - mean) / sqrt(var + eps) * weight + bias over the trailing dims, which must be `normalized_shape`. weight starts at 1, bias at 0.
/// Ba et al. 2016; torch: nn.LayerNorm.
struct LayerNorm : Module {
  Shape normalized_shape;
  double eps;
  Parameter weight, bias;
  LayerNorm(const Shape& normalized_shape, LayerNormOptions options = {});
  LayerNorm(int64_t size, LayerNormOptions options = {}) : LayerNorm(Shape{size}, options) {}
  Tensor forward(const Tensor& x) const;
  RETAPE_FIELDS(weight, bias)
};

}  // namespace retape::nn
