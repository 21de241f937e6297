// Normalisation by the root of the mean square.
#pragma once
#include <optional>

#include <retape/nn/module.h>

namespace retape::nn {

struct RMSNormOptions {
  std::optional<double> eps = {};  ///< absent: the machine epsilon of x's dtype
  bool elementwise_affine = true;
};
/// x / sqrt(mean(x^2) + eps) * weight over the trailing dims, which must be `normalized_shape`. weight starts at 1. Zhang & Sennrich
/// 2019; torch: nn.RMSNorm.
struct RMSNorm : Module {
  Shape normalized_shape;
  std::optional<double> eps;
  Parameter weight;
  RMSNorm(const Shape& normalized_shape, RMSNormOptions options = {});
  RMSNorm(int64_t size, RMSNormOptions options = {}) : RMSNorm(Shape{size}, options) {}
  Tensor forward(const Tensor& x) const;
  RETAPE_FIELDS(weight)
};

}  // namespace retape::nn
