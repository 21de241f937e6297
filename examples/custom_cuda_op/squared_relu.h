// relu(x + bias)^2 as one op (So et al. 2021, Primer), with a kernel of its own on CUDA.
#pragma once
#include <retape/core/tensor.h>

/// x (..., features) and bias (features), both f32, f16, bf16 or f64, on the CPU or on a CUDA device; the same shape as x. Throws
/// retape::Error for anything else.
retape::Tensor squared_relu(const retape::Tensor& x, const retape::Tensor& bias);

namespace kernels {  // squared_relu.cu; all contiguous
void squared_relu(const retape::Tensor& x, const retape::Tensor& bias, retape::Tensor& y);
void squared_relu_backward(const retape::Tensor& dy, const retape::Tensor& x, const retape::Tensor& bias, retape::Tensor& dx);
}  // namespace kernels
