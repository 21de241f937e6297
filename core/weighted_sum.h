// Sums of rows, each times a weight: what resampling consists of where the channels lie side by side. For CPU kernel files only.
#pragma once
#include <retape/core/kernel.h>
#include <retape/core/put.h>

namespace retape::RETAPE_LEVEL {

/// y[i] = sum over k < n of weight(k) * row(k)[i], for i < size, in the order of k; 0 if n = 0. Rows and y may be of different types; y is
/// none of the rows.
template <class C, class Row, class Weight, class Y>
RETAPE_INLINE void weighted_sum(int64_t n, const Row& row, const Weight& weight, int64_t size, Y* y) {
  if (n == 1) {
    const auto* const a = row(0);
    const C u = weight(0);
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) put(y[i], u * C(a[i]));
    return;
  }
  if (n == 2) {
    const auto *const a = row(0), *const b = row(1);
    const C u = weight(0), v = weight(1);
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) put(y[i], u * C(a[i]) + v * C(b[i]));
    return;
  }
  constexpr int64_t block = 64;
  for (int64_t from = 0; from < size; from += block) {
    const int64_t width = min_of(block, size - from);
    C sum[block];
    for (int64_t i = 0; i < width; ++i) sum[i] = 0;
    int64_t k = 0;
    for (; k + 4 <= n; k += 4) {
      const auto *const a = row(k) + from, *const b = row(k + 1) + from, *const c = row(k + 2) + from, *const d = row(k + 3) + from;
      const C u = weight(k), v = weight(k + 1), w = weight(k + 2), z = weight(k + 3);
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) sum[i] = sum[i] + u * C(a[i]) + v * C(b[i]) + w * C(c[i]) + z * C(d[i]);
    }
    for (; k < n; ++k) {
      const auto* const a = row(k) + from;
      const C u = weight(k);
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) sum[i] += u * C(a[i]);
    }
    for (int64_t i = 0; i < width; ++i) put(y[from + i], sum[i]);
  }
}

}  // namespace retape::RETAPE_LEVEL
