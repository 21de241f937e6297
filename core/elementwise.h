// Walking over tensors element by element: dims are merged where the strides allow, the innermost one goes to a small typed loop,
// and large work is cut into chunks for threads. For kernel files only.
#pragma once
#include <retape/core/kernel.h>
#include <retape/core/put.h>

namespace retape::RETAPE_LEVEL {

// The typed loop: pointers and byte strides of N operands, n elements, and what the kernel wants to pass.
using InnerLoop = void (*)(char* const* p, const int64_t* stride, int64_t n, const void* argument);

template <int N> struct Loops {
  int rank;
  char* base[N];
  int64_t size[Shape::max_rank];
  int64_t stride[Shape::max_rank][N];  // in bytes
};

RETAPE_INLINE char* bytes_of(const Tensor& t) {
  return reinterpret_cast<char*>(t->storage->data) + t->layout.offset * int64_t(size_of(t->layout.dtype));
}

// All operands have `shape`, broadcast dims by stride 0.
template <int N> RETAPE_INLINE Loops<N> make_loops(const Shape& shape, const Tensor* const (&t)[N]) {
  Loops<N> loops;
  bool flat = true;
  for (int k = 0; k < N; ++k) {
    loops.base[k] = bytes_of(*t[k]);
    flat = flat && t[k]->is_contiguous();
  }
  if (flat) {
    loops.rank = 1;
    loops.size[0] = shape.numel();
    for (int k = 0; k < N; ++k) loops.stride[0][k] = int64_t(size_of(t[k]->dtype()));
    return loops;
  }
  loops.rank = 0;
  for (int d = 0; d < shape.rank(); ++d) {
    if (shape[d] == 1) continue;
    int64_t here[N];
    bool merge = loops.rank > 0;
    for (int k = 0; k < N; ++k) {
      here[k] = t[k]->strides()[d] * int64_t(size_of(t[k]->dtype()));
      merge = merge && loops.stride[loops.rank - 1][k] == here[k] * shape[d];
    }
    if (merge) loops.size[loops.rank - 1] *= shape[d];
    else loops.size[loops.rank++] = shape[d];
    for (int k = 0; k < N; ++k) loops.stride[loops.rank - 1][k] = here[k];
  }
  if (loops.rank == 0) {
    loops.rank = 1;
    loops.size[0] = 1;
    for (int k = 0; k < N; ++k) loops.stride[0][k] = int64_t(size_of(t[k]->dtype()));
  }
  return loops;
}

template <int N> RETAPE_INLINE void walk(const Loops<N>& loops, InnerLoop inner, const void* argument = nullptr) {
  constexpr int64_t chunk = 16384;
  const int last = loops.rank - 1;
  const int64_t n = loops.size[last];
  int64_t rows = 1;
  for (int d = 0; d < last; ++d) rows *= loops.size[d];
  if (rows * n == 0) return;
  if (rows == 1 && n <= chunk) {
    inner(loops.base, loops.stride[last], n, argument);
    return;
  }
  const int64_t pieces = (n + chunk - 1) / chunk, grain = n >= chunk ? 1 : chunk / n;
  parallel_for(rows * pieces, grain, [&](int64_t begin, int64_t end) {
    int64_t index[Shape::max_rank], row = begin / pieces;
    for (int d = last; d-- > 0; row /= loops.size[d]) index[d] = row % loops.size[d];
    for (int64_t task = begin; task < end; ++task) {
      const int64_t from = task % pieces * chunk;
      char* p[N];
      for (int k = 0; k < N; ++k) {
        p[k] = loops.base[k] + from * loops.stride[last][k];
        for (int d = 0; d < last; ++d) p[k] += index[d] * loops.stride[d][k];
      }
      inner(p, loops.stride[last], min_of(chunk, n - from), argument);
      if (task % pieces != pieces - 1) continue;
      for (int d = last; d-- > 0;) {
        if (++index[d] < loops.size[d]) break;
        index[d] = 0;
      }
    }
  });
}

// The typed loops for functions of one and two values. Strides 0 and one element are the common ones and get loops of their own.
template <class T, class Out, class F> RETAPE_INLINE void map1(char* const* p, const int64_t* stride, int64_t n, const F& f) {
  if (stride[0] == int64_t(sizeof(T)) && stride[1] == int64_t(sizeof(Out))) {
    const T* x = reinterpret_cast<const T*>(p[0]);
    Out* y = reinterpret_cast<Out*>(p[1]);
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) put(y[i], f(compute_t<T>(x[i])));
    return;
  }
  for (int64_t i = 0; i < n; ++i)
    *reinterpret_cast<Out*>(p[1] + i * stride[1]) = Out(f(compute_t<T>(*reinterpret_cast<const T*>(p[0] + i * stride[0]))));
}
template <class T, class Out, class F> RETAPE_INLINE void map2(char* const* p, const int64_t* stride, int64_t n, const F& f) {
  using C = compute_t<T>;
  const T *a = reinterpret_cast<const T*>(p[0]), *b = reinterpret_cast<const T*>(p[1]);
  Out* y = reinterpret_cast<Out*>(p[2]);
  constexpr int64_t one = sizeof(T);
  if (stride[2] == int64_t(sizeof(Out)) && stride[0] == one && stride[1] == one) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) put(y[i], f(C(a[i]), C(b[i])));
  } else if (stride[2] == int64_t(sizeof(Out)) && stride[0] == one && stride[1] == 0) {
    const C v = C(*b);
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) put(y[i], f(C(a[i]), v));
  } else if (stride[2] == int64_t(sizeof(Out)) && stride[0] == 0 && stride[1] == one) {
    const C v = C(*a);
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) put(y[i], f(v, C(b[i])));
  } else {
    for (int64_t i = 0; i < n; ++i)
      *reinterpret_cast<Out*>(p[2] + i * stride[2]) =
          Out(f(C(*reinterpret_cast<const T*>(p[0] + i * stride[0])), C(*reinterpret_cast<const T*>(p[1] + i * stride[1]))));
  }
}

}  // namespace retape::RETAPE_LEVEL
