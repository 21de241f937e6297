// The largest element of a row and the sum of e^(x - max), in one pass over memory. For kernel files only.
#pragma once
#include <retape/core/put.h>

namespace retape::RETAPE_LEVEL {

/// e^x for x <= 0 (in truth up to 80), -inf and nan; 0 below -87. The error is about 1 ulp. Unlike a call of libmvec it is inlined,
/// so that the loop around it keeps its registers.
RETAPE_INLINE float exp_nonpositive(float x) {
  const float t = x < -87.0f ? -87.0f : x;
  const float shifted = t * 0x1.715476p0f + (0x1.8p23f + 127.0f);  // its last bits are round(t / log 2) + 127
  const float n = shifted - (0x1.8p23f + 127.0f);
  const float r = (t - n * 0.693359375f) + n * 2.12194440e-4f;  // log 2 in two parts; the product with the first is exact
  float y = r * 0.0013814320554956794f + 0.00836885068565607f;  // minimax for the relative error on |r| <= log(2) / 2
  y = y * r + 0.041668400168418884f;
  y = y * r + 0.1666651964187622f;
  y = y * r + 0.4999999403953552f;
  y = y * r * r + r + 1.0f;
  const float scaled = y * detail::bits<float>(detail::bits<uint32_t>(shifted) << 23);
  return x < -87.0f ? 0.0f : scaled;
}
RETAPE_INLINE double exp_nonpositive(double x) { return m::exp(x); }

template <class C> struct LogSumExp {
  C max;  // 0 if every element is -inf
  C sum;  // of e^(x - max)
};

// Blocks are small enough to stay in the first-level cache between their maximum and their exponentials.
template <class T, class C = compute_t<T>> RETAPE_INLINE LogSumExp<C> log_sum_exp(const T* x, int64_t n) {
  constexpr int64_t block = 1024;
  const C infinity = C(__builtin_inf());
  LogSumExp<C> all{-infinity, C(0)};
  for (int64_t from = 0; from < n; from += block) {
    const int64_t end = min_of(n, from + block);
    C top = all.max;
#pragma omp simd reduction(max : top)
    for (int64_t i = from; i < end; ++i) top = C(x[i]) > top ? C(x[i]) : top;
    const C base = top == -infinity ? C(0) : top;  // -inf - -inf would be nan
    C sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = from; i < end; ++i) sum += exp_nonpositive(C(x[i]) - base);
    all.sum = sum + (from == 0 ? C(0) : all.sum * m::exp(all.max - base));
    all.max = top;
  }
  if (all.max == -infinity) all.max = C(0);
  return all;
}

}  // namespace retape::RETAPE_LEVEL
