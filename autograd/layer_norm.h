// Layer normalisation.
#pragma once
#include <retape/core/tensor.h>

namespace retape {

/// (x - mean) / sqrt(variance + eps) * weight + bias, mean and variance (divisor n) over the last dims, whose sizes are
/// normalized_shape; weight and bias have that shape, or are undefined. x floating; weight and bias are cast to its dtype, means and
/// deviations are computed in f32 (f64 for f64). Throws Error unless the shapes fit. Ba et al. 2016; torch: layer_norm.
Tensor layer_norm(const Tensor& x, const Shape& normalized_shape, const Tensor& weight = {}, const Tensor& bias = {}, double eps = 1e-5);

}  // namespace retape
