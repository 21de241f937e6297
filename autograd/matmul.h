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
/// The two layers of a transformer's MLP as one op: linear(gelu_tanh(linear(x, weight1, bias1)), weight2, bias2). x (..., in), weight1 (hidden, in), weight2
/// (out, hidden): (..., out). On CUDA the products apply GELU, its gradient and the biases' as they are made. torch has it in pieces
/// (ops.aten._addmm_activation); apex: fused_dense.
Tensor feed_forward(const Tensor& x, const Tensor& weight1, const Tensor& bias1, const Tensor& weight2, const Tensor& bias2);

}  // namespace retape
