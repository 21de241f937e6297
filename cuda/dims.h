// Sizes and strides of some of a tensor's dims, merged where the strides allow, and where element i of their row-major order lies.
#pragma once
#include <retape/cuda/elementwise.h>

namespace retape::cuda {

#ifndef __grid_constant__
#define __grid_constant__  // the emulation's parameters are all in memory
#endif

/// Made on the host, used on the device, where it is a `const __grid_constant__` parameter or part of one. Strides in elements, one for
/// each of N operands.
template <int N = 1> struct Dims {
  int rank = 0;
  int64_t count = 1;
  int64_t size[Shape::max_rank] = {}, stride[Shape::max_rank][N] = {};
  Divider divider[Shape::max_rank];

  /// The next dim inwards. What does not fit to the last dim counts as a dim of its own.
  template <class... S> void add(int64_t n, S... s) {
    static_assert(sizeof...(S) == N);
    const int64_t here[N] = {int64_t(s)...};
    count *= n;
    if (n == 1) return;
    bool merge = rank > 0;
    for (int k = 0; k < N; ++k) merge = merge && stride[rank - 1][k] == here[k] * n;
    if (!merge) ++rank;
    size[rank - 1] = merge ? size[rank - 1] * n : n;
    for (int k = 0; k < N; ++k) stride[rank - 1][k] = here[k];
    divider[rank - 1] = Divider(uint32_t(size[rank - 1] > 0 && size[rank - 1] < int64_t{1} << 31 ? size[rank - 1] : 1));
  }
  __device__ __forceinline__ void at(int64_t i, int64_t (&offset)[N]) const {
    if (rank <= 1) {
      for (int k = 0; k < N; ++k) offset[k] = i * stride[0][k];
    } else if (rank == 2 && count < int64_t{1} << 31) {
      const uint32_t outer = divider[1].quotient(uint32_t(i)), inner = uint32_t(i) - outer * divider[1].divisor;
      for (int k = 0; k < N; ++k) offset[k] = int64_t(outer) * stride[0][k] + int64_t(inner) * stride[1][k];
    } else {
      for (int k = 0; k < N; ++k) offset[k] = any(i, k);
    }
  }
  __device__ __forceinline__ int64_t offset(int64_t i) const {
    int64_t all[N];
    at(i, all);
    return all[0];
  }

 private:
  // Called, since it is long.
  __device__ __attribute__((noinline)) int64_t any(int64_t i, int k) const {
    int64_t at = 0;
#pragma unroll 1
    for (int d = rank - 1; d > 0; --d) {
      const int64_t next = count < int64_t{1} << 31 ? int64_t(divider[d].quotient(uint32_t(i))) : i / size[d];
      at += (i - next * size[d]) * stride[d][k];
      i = next;
    }
    return at + i * stride[0][k];
  }
};

/// Block sizes are powers of two.
inline int power_of_two_from(int64_t n, int at_most) {
  int p = 1;
  while (p < n && p < at_most) p *= 2;
  return p;
}

}  // namespace retape::cuda
