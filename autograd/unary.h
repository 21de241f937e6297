// Elementwise functions of one value, from the list in core/unary_ops.h. x may have any shape and strides; integer tensors are
// converted to f32 first, except by neg, abs, sign and square, which keep them.
#pragma once
#include <retape/core/tensor.h>
#include <retape/core/unary_ops.h>

namespace retape {

#define RETAPE_X(name, ...) Tensor name(const Tensor& x);
RETAPE_UNARY_OPS(RETAPE_X)
#undef RETAPE_X

inline Tensor operator-(const Tensor& x) { return neg(x); }

}  // namespace retape
