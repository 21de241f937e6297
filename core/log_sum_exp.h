// The largest element of a row and the sum of e^(x - max), in one pass over memory. For kernel files only.
#pragma once
#include <retape/core/put.h>

namespace retape::RETAPE_LEVEL {

using m::exp_nonpositive;

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
