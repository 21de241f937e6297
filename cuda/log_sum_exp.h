// The largest element of a row and the sum of e^(x - max), in one pass over memory.
#pragma once
#include <retape/cuda/rows.h>

namespace retape::cuda {

template <class C> struct LogSumExp {
  C max;  // 0 if every element is -inf
  C sum;  // of e^(x - max)
};

// A thread's sum is kept relative to the largest element that it has seen. nan is never the largest, but reaches the sum.
template <class T, class C = compute_t<T>> __device__ __forceinline__ LogSumExp<C> log_sum_exp(const Rows<T, 1>& row, C* shared) {
  const C infinity = C(__builtin_inf());
  C top = -infinity, sum = 0;
  row.each([&](const Place& place, const Values<T>* v) {
    C here = top, part = 0;
#pragma unroll
    for (int j = 0; j < pack_width<T>; ++j)
      if (place.has(j) && v->at[j] > here) here = v->at[j];
    const C base = here == -infinity ? C(0) : here;  // -inf - -inf would be nan
#pragma unroll
    for (int j = 0; j < pack_width<T>; ++j)
      if (place.has(j)) part += m::exp(v->at[j] - base);
    sum = sum * m::exp(top - base) + part;
    top = here;
  });
  C all = block_reduce(top, shared, Largest{});
  if (all == -infinity) all = C(0);
  return {all, block_reduce(sum * m::exp(top - all), shared, Plus{})};
}

}  // namespace retape::cuda
