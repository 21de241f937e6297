// A parallel loop over the elements of many tensors at once: each is cut into chunks, so that many small ones cost no more than a large
// one. For kernel files only.
#pragma once
#include <retape/core/kernel.h>

namespace retape::RETAPE_LEVEL {

constexpr int64_t chunk = 16384;  // elements

RETAPE_INLINE int64_t chunks_of(const Tensor& x) { return (x.numel() + chunk - 1) / chunk; }

// Calls f(i, begin, end, c) for every chunk c, which holds elements [begin, end) of tensor i.
template <class TensorAt, class F> RETAPE_INLINE void for_chunks(int64_t count, const TensorAt& tensor_at, const F& f) {
  Scratch<int64_t> first(count + 1);  // the number of each tensor's first chunk
  first[0] = 0;
  for (int64_t i = 0; i < count; ++i) first[i + 1] = first[i] + chunks_of(tensor_at(i));
  const int64_t* starts = first;
  parallel_for(starts[count], 1, [&](int64_t c, int64_t) {
    int64_t low = 0, high = count;  // the last tensor whose first chunk is at most c
    while (high - low > 1) {
      const int64_t middle = (low + high) / 2;
      (starts[middle] <= c ? low : high) = middle;
    }
    const int64_t begin = (c - starts[low]) * chunk;
    f(low, begin, min_of(begin + chunk, tensor_at(low).numel()), c);
  });
}

// Kernels write through this, since mutable_data() may throw, which must not happen inside a parallel loop.
template <class T> RETAPE_INLINE T* elements(const Tensor& x) { return reinterpret_cast<T*>(x->storage->data) + x->layout.offset; }
RETAPE_INLINE void count_write(const Tensor& x) { ++x->storage->version; }

RETAPE_INLINE DType state_dtype(DType d) { return d == DType::f64 ? d : DType::f32; }

}  // namespace retape::RETAPE_LEVEL
