// The host version of cuda/libraries/blas.cpp for builds without a GPU: plain loops in the order of the stream.
#include <retape/cuda/libraries/blas.h>

#include <retape/core/device.h>
#include <retape/core/unary_ops.h>
#include <retape/cuda/device.h>

namespace retape::cuda::blas {
namespace {

float round_to_tf32(float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  if ((u & 0x7f800000u) != 0x7f800000u) u = (u + 0xfffu + (u >> 13 & 1u)) & ~0x1fffu;
  std::memcpy(&x, &u, 4);
  return x;
}

template <class T> void multiply(const Gemm& g, bool rounded) {
  using S = compute_t<T>;
  const auto operand = [&](const T& x) {
    if constexpr (std::is_same_v<T, float>) return rounded ? round_to_tf32(x) : x;
    else return S(x);
  };
  const auto *const a = static_cast<const T*>(g.a), *const b = static_cast<const T*>(g.b), *const bias = static_cast<const T*>(g.bias);
  auto* const c = static_cast<T*>(g.c);
  for (int64_t q = 0; q < g.batch; ++q)
    for (int64_t i = 0; i < g.m; ++i)
      for (int64_t j = 0; j < g.n; ++j) {
        S sum = 0;
        for (int64_t l = 0; l < g.k; ++l)
          sum += operand(a[q * g.a_batch + i * g.a_row + l * g.a_col]) * operand(b[q * g.b_batch + l * g.b_row + j * g.b_col]);
        T& out = c[q * g.c_batch + i * g.c_row + j];
        if (g.accumulate) sum += S(out);
        if (bias) sum += S(bias[j]);
        T* const extra = static_cast<T*>(g.extra);
        if (g.epilogue == Epilogue::gelu) extra[i * g.n + j] = T(sum), sum = functor::GeluTanh::value(sum);
        if (g.epilogue == Epilogue::gelu_backward) sum *= functor::GeluTanh::slope(S(extra[i * g.n + j]));
        out = T(sum);
      }
  if (g.epilogue != Epilogue::row_sums) return;
  for (int64_t i = 0; i < g.m; ++i) {
    S sum = 0;
    for (int64_t l = 0; l < g.k; ++l) sum += S(a[i * g.a_row + l * g.a_col]);
    static_cast<T*>(g.extra)[i] = T(sum);
  }
}

}  // namespace

// As with cuBLASLt, f64 has no bias, and operands must lie by rows or by columns.
bool gemm(const Gemm& g) {
  const auto runs = [](int64_t rows, int64_t cols, int64_t row, int64_t col) {
    return ((col == 1 || cols == 1) && (row >= cols || rows == 1)) || ((row == 1 || rows == 1) && (col >= rows || cols == 1));
  };
  if (!runs(g.m, g.k, g.a_row, g.a_col) || !runs(g.k, g.n, g.b_row, g.b_col) || g.m * g.n * g.k * g.batch == 0)
    throw emulation::Mistake("gemm: operands that cuBLASLt cannot express");
  if (g.dtype == DType::f64 && g.bias) return false;
  if (g.epilogue != Epilogue::none && (g.dtype == DType::f64 || g.n % 8)) return false;
  if (g.epilogue != Epilogue::none && (g.batch != 1 || g.accumulate || !g.extra))
    throw emulation::Mistake("gemm: an epilogue with a batch");
  emulation::enqueue(current_stream(), [g, rounded = allow_tf32()] {
    switch (g.dtype) {
      case DType::f64: return multiply<double>(g, false);
      case DType::f16: return multiply<f16>(g, false);
      case DType::bf16: return multiply<bf16>(g, false);
      default: return multiply<float>(g, rounded);
    }
  });
  return true;
}

}  // namespace retape::cuda::blas
