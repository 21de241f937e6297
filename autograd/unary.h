// Elementwise functions of one value, from the list in core/unary_ops.h. x may have any shape and strides; integer tensors are
// converted to f32 first, except by neg, abs, sign, square, relu, floor, ceil, round and trunc, which keep them.
#pragma once
#include <retape/core/tensor.h>
#include <retape/core/unary_ops.h>

namespace retape {

#define RETAPE_X(name, ...) Tensor name(const Tensor& x);
RETAPE_UNARY_OPS(RETAPE_X)
#undef RETAPE_X

/// logit of x limited to [eps, 1 - eps]. torch: logit(eps).
Tensor logit(const Tensor& x, double eps);
/// Angles in other units. torch: deg2rad, rad2deg.
Tensor deg2rad(const Tensor& x);
Tensor rad2deg(const Tensor& x);

inline Tensor operator-(const Tensor& x) { return neg(x); }

}  // namespace retape
