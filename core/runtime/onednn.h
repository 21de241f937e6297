// Matrix products through oneDNN. This file hides its headers and its two C++ interfaces (2.x and 3.x).
// A result depends on shapes, layouts and the processor, never on the number of threads.
#pragma once
#include <cstdint>

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

}  // namespace retape::onednn
