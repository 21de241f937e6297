// Matrix products and convolutions through oneDNN. This file hides its headers and its two C++ interfaces (2.x and 3.x).
// A result depends on shapes, layouts and the processor, never on the number of threads.
#pragma once
#include <retape/core/kernel_args.h>

namespace retape::onednn {

/// c = a b + bias, or c += a b + bias, for `batch` independent products of a (m, k) and b (k, n).
/// Strides count elements. Of a's row and column stride one is 1 and the other covers that run without overlap, and so for b: a
/// transposed operand needs no copy. A batch stride of 0 uses one matrix for all products. Rows of c are contiguous and
/// disjoint; c overlaps neither operand.
struct Gemm {
  int64_t batch, m, n, k;
  const void* a;
  int64_t a_row, a_col, a_batch;
  const void* b;
  int64_t b_row, b_col, b_batch;
  void* c;
  int64_t c_row, c_batch;
  bool accumulate;
  const void* bias;  // n elements of the type of a and b, or null
};

/// f32 operands and result. Throws Error if oneDNN fails.
void gemm_f32(const Gemm& gemm);

/// Whether the processor multiplies bf16 in hardware. Where it does not, oneDNN emulates at a quarter of the f32 speed or
/// refuses, so callers convert to f32 and use gemm_f32 (core/matmul.cpp does).
bool has_bf16();

/// bf16 operands, sums in f32, a bf16 or f32 result. Throws Error if oneDNN has no such product for this processor.
void gemm_bf16(const Gemm& gemm, bool output_f32);

/// A convolution of f32, with the channels last: x (batch, in, in_channels), y (batch, out, out_channels), weight row-major (out_channels,
/// in_channels / groups, kernel); in, out and kernel are the last `rank` dims of the window's.
struct Convolution {
  int rank;
  int64_t batch, groups, in_channels, out_channels;
  WindowArgs window;
};
/// The convolution itself, its gradient with respect to x, and that with respect to the weight.
enum class ConvolutionPass : uint8_t { forward, input, weight };
/// Whether oneDNN has a kernel for it that is worth calling.
bool convolves(const Convolution& c, ConvolutionPass pass);
/// bias (out_channels), or null. These throw Error if oneDNN fails.
void convolution(const Convolution& c, const float* x, const float* weight, const float* bias, float* y);
void convolution_backward_input(const Convolution& c, const float* dy, const float* weight, float* dx);
void convolution_backward_weight(const Convolution& c, const float* dy, const float* x, float* dweight);

}  // namespace retape::onednn
