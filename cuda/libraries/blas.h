// Matrix products through cuBLASLt. This file hides its headers; tests/cuda/libraries/blas.cpp is the same in plain C++.
// The algorithm depends on shapes, layouts, dtypes and the device alone, and none adds in an order that varies: equal inputs give
// equal bits.
#pragma once
#include <retape/core/dtype.h>

namespace retape::cuda::blas {

/// c = a b + bias, or c += a b + bias, for `batch` independent products of a (m, k) and b (k, n), all of one floating dtype; half types
/// are summed in float and rounded once. Strides count elements. Of a's row and column stride one is 1 and the other covers that run
/// without overlap, and so for b: a transposed operand needs no copy. A batch stride of 0 uses one matrix for all products. Rows of c
/// are contiguous and disjoint; c overlaps neither operand. No size is 0.
/// What is done with a product on its way to c; `extra` is contiguous, of the same dtype.
enum class Epilogue : uint8_t {
  none,
  gelu,           ///< c = gelu_tanh(a b + bias); extra (m, n) gets a b + bias
  gelu_backward,  ///< c = (a b) * slope of gelu_tanh at extra (m, n)
  row_sums,       ///< extra (m) gets the sums of a's rows
};
struct Gemm {
  DType dtype;
  int64_t batch, m, n, k;
  const void* a;
  int64_t a_row, a_col, a_batch;
  const void* b;
  int64_t b_row, b_col, b_batch;
  void* c;
  int64_t c_row, c_batch;
  bool accumulate;
  const void* bias;                    // n elements, or null
  Epilogue epilogue = Epilogue::none;  // others: batch 1, no accumulation
  void* extra = nullptr;
};

/// Runs on the current stream of the current device. False, and nothing has happened, if the library has no such product. Throws
/// Error if it fails.
bool gemm(const Gemm& gemm);

}  // namespace retape::cuda::blas
