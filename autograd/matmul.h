// Matrix products.
#pragma once
#include <retape/core/tensor.h>

namespace retape {

/// Matrix product of a (..., M, K) and b (..., K, N): (..., M, N), leading dims broadcast. A 1-dim operand is a row (a) or a column (b)
/// whose dim is removed again. Transposed views are not copied. Floating dtypes, promoted. Throws Error unless inner sizes agree.
/// torch: matmul.
Tensor matmul(const Tensor& a, const Tensor& b);
/// x weight^T + bias: x (..., in), weight (out, in), bias (out) or undefined: (..., out). torch: functional.linear.
Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias = {});

}  // namespace retape
