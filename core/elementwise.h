// Walking over tensors element by element: dims are merged where the strides allow, the innermost one goes to a small typed loop,
// and large work is cut into chunks for threads. For kernel files only.
#pragma once
#include <retape/core/loops.h>
#include <retape/core/put.h>
#include <retape/core/transpose.h>

namespace retape::RETAPE_LEVEL {

// The typed loop: pointers and byte strides of N operands, n elements, and what the kernel wants to pass.
using InnerLoop = void (*)(char* const* p, const int64_t* stride, int64_t n, const void* argument);

// Walks along two dims at once: `across`, in which some operands lie dense, and the last one, in which they would touch a new cache
// line with every element. A tile takes a line's width of `across`; those operands are transposed into buffers of it.
template <int N> [[gnu::noinline]] void walk_tiles(const Loops<N>& loops, int across, InnerLoop inner, const void* argument) {
  constexpr int64_t line = 64, length = 256;
  const int last = loops.rank - 1;
  const auto is_turned = [&](int k) {
    return k < N - 1 && loops.stride[last][k] >= line && loops.stride[across][k] > 0 && loops.stride[across][k] < line;
  };
  int64_t widest = 1, stride[N];
  for (int k = 0; k < N; ++k) {
    if (is_turned(k)) widest = max_of(widest, loops.bytes[k]);
    stride[k] = is_turned(k) ? loops.bytes[k] : loops.stride[last][k];
  }
  const int64_t width = line / widest, na = loops.size[across], nb = loops.size[last];
  const int64_t tiles_a = (na + width - 1) / width, tiles_b = (nb + length - 1) / length;
  int64_t planes = 1;
  for (int d = 0; d < last; ++d) planes *= d == across ? 1 : loops.size[d];
  parallel_for(planes * tiles_a * tiles_b, max_of<int64_t>(1, 16384 / (width * length)), [&](int64_t begin, int64_t end) {
    alignas(64) char turned[N - 1][line * length];
    for (int64_t task = begin; task < end; ++task) {
      const int64_t i0 = task % tiles_a * width, j0 = task / tiles_a % tiles_b * length;
      const int64_t ni = min_of(width, na - i0), nj = min_of(length, nb - j0);
      int64_t rest = task / tiles_b / tiles_a;
      char* p[N];
      for (int k = 0; k < N; ++k) p[k] = loops.base[k] + i0 * loops.stride[across][k] + j0 * loops.stride[last][k];
      for (int d = last; d-- > 0;) {
        if (d == across) continue;
        for (int k = 0; k < N; ++k) p[k] += rest % loops.size[d] * loops.stride[d][k];
        rest /= loops.size[d];
      }
      int64_t step[N];
      for (int k = 0; k < N; ++k) {
        step[k] = loops.stride[across][k];
        if (!is_turned(k)) {
          for (int64_t i = 0; i < ni && stride[k] == loops.bytes[k]; ++i) {  // the rows of the next tile
            const char* next = p[k] + (ni + i) * step[k];
            for (int64_t at = 0; at < nj * stride[k]; at += line)
              k == N - 1 ? __builtin_prefetch(next + at, 1) : __builtin_prefetch(next + at);
          }
          continue;
        }
        const auto transpose = stride[k] == 1   ? transpose_block<1>
                               : stride[k] == 2 ? transpose_block<2>
                               : stride[k] == 4 ? transpose_block<4>
                                                : transpose_block<8>;
        transpose(p[k], loops.stride[last][k], step[k], ni, nj, turned[k], length * stride[k], width * step[k]);
        p[k] = turned[k];
        step[k] = length * stride[k];
      }
      for (int64_t i = 0; i < ni; ++i) {
        inner(p, stride, nj, argument);
        for (int k = 0; k < N; ++k) p[k] += step[k];
      }
    }
  });
}

// The dim in which another operand is dense than the output (the last operand), whose dense dim is the last; or -1.
template <int N> RETAPE_INLINE int dim_across(const Loops<N>& loops) {
  const int last = loops.rank - 1;
  if (loops.size[last] < 8) return -1;
  for (int k = 0; k < N - 1; ++k) {
    if (loops.stride[last][k] < 64) continue;
    for (int d = 0; d < last; ++d)
      if (loops.stride[d][k] > 0 && loops.stride[d][k] < 64 && loops.size[d] >= 8) return d;
  }
  return -1;
}

template <int N> [[gnu::noinline]] void walk(Loops<N> loops, InnerLoop inner, const void* argument = nullptr) {
  constexpr int64_t chunk = 16384, worth_tiles = 4096;
  const int last = loops.rank - 1;
  int64_t rows = 1;
  for (int d = 0; d < last; ++d) rows *= loops.size[d];
  if constexpr (N > 1) {
    if (last > 0 && rows * loops.size[last] >= worth_tiles)
      if (const int across = dim_across(loops); across >= 0) return walk_tiles(loops, across, inner, argument);
  }
  const int64_t n = loops.size[last];
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

// ---- functions of one, two or three values -----------------------------------------------------------------------------
//
// A function is compiled as a `row`: a plain loop over contiguous elements of float, double or an integer type. One loop a storage
// type brings operands into that form, block by block where strides or half types ask for it, so that a strided or half operand
// runs the same vector code.

enum class Shared : uint8_t { none, first, second };  // which operand is one value for the whole row

template <class C, class Out> using Row1 = void (*)(const C* x, Out* y, int64_t n);
template <class C, class Out> using Row2 = void (*)(const C* a, const C* b, Out* y, int64_t n, Shared shared);

constexpr int64_t block_size = 512;  // elements

template <class T, class C> RETAPE_INLINE void load_block(const char* p, int64_t stride, int64_t n, C* to) {
  if (stride == int64_t(sizeof(T))) {
    const T* x = reinterpret_cast<const T*>(p);
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) to[i] = C(x[i]);
  } else {
    for (int64_t i = 0; i < n; ++i) to[i] = C(*reinterpret_cast<const T*>(p + i * stride));
  }
}
template <class T, class C> RETAPE_INLINE void store_block(const C* from, int64_t n, char* p, int64_t stride) {
  if (stride == int64_t(sizeof(T))) {
    T* y = reinterpret_cast<T*>(p);
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) put(y[i], from[i]);
  } else {
    for (int64_t i = 0; i < n; ++i) *reinterpret_cast<T*>(p + i * stride) = T(from[i]);
  }
}

// `argument` points to a Row1<compute_t<T>, compute_t<T>>.
template <class T> void loop1(char* const* p, const int64_t* stride, int64_t n, const void* argument) {
  using C = compute_t<T>;
  const auto row = *static_cast<const Row1<C, C>*>(argument);
  if constexpr (std::is_same_v<T, C>) {
    if (stride[0] == int64_t(sizeof(T)) && stride[1] == int64_t(sizeof(T)))
      return row(reinterpret_cast<const C*>(p[0]), reinterpret_cast<C*>(p[1]), n);
  }
  C x[block_size];
  for (int64_t i = 0; i < n; i += block_size) {
    const int64_t m = min_of(block_size, n - i);
    load_block<T>(p[0] + i * stride[0], stride[0], m, x);
    row(x, x, m);
    store_block<T>(x, m, p[1] + i * stride[1], stride[1]);
  }
}

// `argument` points to a Row2<compute_t<T>, Out>. Out is T's compute type, or a type of its own that is stored as it is.
template <class T, class Out = compute_t<T>> void loop2(char* const* p, const int64_t* stride, int64_t n, const void* argument) {
  using C = compute_t<T>;
  using Stored = std::conditional_t<std::is_same_v<Out, C>, T, Out>;
  const auto row = *static_cast<const Row2<C, Out>*>(argument);
  constexpr int64_t one = sizeof(T);
  const bool whole = n > 1;
  const Shared shared = whole && stride[1] == 0 ? Shared::second : whole && stride[0] == 0 ? Shared::first : Shared::none;
  if constexpr (std::is_same_v<T, C>) {
    if (stride[2] == int64_t(sizeof(Out)) && (stride[0] == one || shared == Shared::first) &&
        (stride[1] == one || shared == Shared::second))
      return row(reinterpret_cast<const C*>(p[0]), reinterpret_cast<const C*>(p[1]), reinterpret_cast<Out*>(p[2]), n, shared);
  }
  C a[block_size], b[block_size];
  Out y[block_size];
  for (int64_t i = 0; i < n; i += block_size) {
    const int64_t m = min_of(block_size, n - i);
    load_block<T>(p[0] + i * stride[0], stride[0], shared == Shared::first ? 1 : m, a);
    load_block<T>(p[1] + i * stride[1], stride[1], shared == Shared::second ? 1 : m, b);
    row(a, b, y, m, shared);
    store_block<Stored>(y, m, p[2] + i * stride[2], stride[2]);
  }
}

// The rows of a function that is given as f(x), or f(a, b).
template <class C, class Out, class F> RETAPE_INLINE void row1(const C* x, Out* y, int64_t n, const F& f) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] = f(x[i]);
}
template <class C, class Out, class F> RETAPE_INLINE void row2(const C* a, const C* b, Out* y, int64_t n, Shared shared, const F& f) {
  if (shared == Shared::none) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) y[i] = f(a[i], b[i]);
  } else if (shared == Shared::second) {
    const C v = *b;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) y[i] = f(a[i], v);
  } else {
    const C v = *a;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) y[i] = f(v, b[i]);
  }
}

}  // namespace retape::RETAPE_LEVEL
