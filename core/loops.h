// How operands of one shape lie in memory, with dims merged where the strides allow. For kernel files of every backend.
#pragma once
#include <retape/core/kernel_args.h>

namespace retape::RETAPE_LEVEL {

template <int N> struct Loops {
  int rank;
  char* base[N];
  int64_t bytes[N];  // of an element
  int64_t size[Shape::max_rank];
  int64_t stride[Shape::max_rank][N];  // in bytes
};

RETAPE_INLINE char* bytes_of(const Tensor& t) {
  return reinterpret_cast<char*>(t->storage->data) + t->layout.offset * int64_t(size_of(t->layout.dtype));
}

// All operands have `shape`, broadcast dims by stride 0.
template <int N> [[gnu::noinline]] Loops<N> make_loops(const Shape& shape, const Tensor* const (&t)[N]) {
  Loops<N> loops;
  bool flat = true;
  for (int k = 0; k < N; ++k) {
    loops.base[k] = bytes_of(*t[k]);
    loops.bytes[k] = int64_t(size_of(t[k]->dtype()));
    flat = flat && t[k]->is_contiguous();
  }
  if (flat) {
    loops.rank = 1;
    loops.size[0] = shape.numel();
    for (int k = 0; k < N; ++k) loops.stride[0][k] = loops.bytes[k];
    return loops;
  }
  int order[Shape::max_rank];  // as the last operand, the output, lies in memory
  for (int d = 0; d < shape.rank(); ++d) {
    int at = d;
    for (; at > 0 && t[N - 1]->strides()[order[at - 1]] < t[N - 1]->strides()[d]; --at) order[at] = order[at - 1];
    order[at] = d;
  }
  loops.rank = 0;
  for (int i = 0; i < shape.rank(); ++i) {
    const int d = order[i];
    if (shape[d] == 1) continue;
    int64_t here[N];
    bool merge = loops.rank > 0;
    for (int k = 0; k < N; ++k) {
      here[k] = t[k]->strides()[d] * loops.bytes[k];
      merge = merge && loops.stride[loops.rank - 1][k] == here[k] * shape[d];
    }
    if (merge) loops.size[loops.rank - 1] *= shape[d];
    else loops.size[loops.rank++] = shape[d];
    for (int k = 0; k < N; ++k) loops.stride[loops.rank - 1][k] = here[k];
  }
  if (loops.rank == 0) {
    loops.rank = 1;
    loops.size[0] = 1;
    for (int k = 0; k < N; ++k) loops.stride[0][k] = loops.bytes[k];
  }
  return loops;
}

}  // namespace retape::RETAPE_LEVEL
