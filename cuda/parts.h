// Sums whose order depends on the shape alone: parts that lie one behind the other, added from the first to the last.
#pragma once
#include <retape/cuda/launch.h>

namespace retape::cuda {
namespace {

template <class C, class To> __global__ void add_parts(const C* parts, int64_t count, int64_t n, To* y) {
  for (int64_t i = thread_index(); i < n; i += thread_count()) {
    C sum = 0;
    for (int64_t p = 0; p < count; ++p) sum += parts[p * n + i];
    y[i] = To(sum);
  }
}

}  // namespace
}  // namespace retape::cuda
