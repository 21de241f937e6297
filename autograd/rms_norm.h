// Root mean square normalisation.
#pragma once
#include <optional>

#include <retape/core/tensor.h>

namespace retape {

/// x / sqrt(mean(x^2) + eps) * weight, the mean over the last dims, whose sizes are normalized_shape; weight has that shape or is
/// undefined. eps defaults to the machine epsilon of x's dtype. x floating; weight is cast to its dtype, means are computed in f32
/// (f64 for f64). Throws Error unless the shapes fit. Zhang & Sennrich 2019; torch: rms_norm.
Tensor rms_norm(const Tensor& x, const Shape& normalized_shape, const Tensor& weight = {}, std::optional<double> eps = {});

}  // namespace retape
