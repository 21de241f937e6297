// Copies between any strides and dtypes, and constants.
#include <retape/core/elementwise.h>

namespace retape::RETAPE_LEVEL {
namespace {

// x as To, or for half types as the float from which put() makes one.
template <class From, class To> RETAPE_INLINE compute_t<To> convert(From x) {
  const compute_t<From> v = compute_t<From>(x);
  if constexpr (std::is_same_v<To, bool>) return v != compute_t<From>(0);
  else return static_cast<compute_t<To>>(v);
}
template <class From, class To> void convert_loop(char* const* p, const int64_t* stride, int64_t n, const void*) {
  const From* x = reinterpret_cast<const From*>(p[0]);
  To* y = reinterpret_cast<To*>(p[1]);
  if (stride[0] == int64_t(sizeof(From)) && stride[1] == int64_t(sizeof(To))) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) put(y[i], convert<From, To>(x[i]));
  } else if (stride[0] == 0 && stride[1] == int64_t(sizeof(To))) {
    const To v = To(convert<From, To>(*x));
    for (int64_t i = 0; i < n; ++i) y[i] = v;
  } else {
    for (int64_t i = 0; i < n; ++i)
      put(*reinterpret_cast<To*>(p[1] + i * stride[1]), convert<From, To>(*reinterpret_cast<const From*>(p[0] + i * stride[0])));
  }
}

// Two dims of which one is dense in x and the other in y: going along either would touch a new cache line with every element of the
// other, so blocks go through a buffer that holds whole lines of both.
struct Plane {
  int from, to;  // the dims that are dense in x and in y; -1: there are none
};
RETAPE_INLINE Plane transposed_plane(const Loops<2>& loops, int64_t bytes) {
  Plane plane{-1, -1};
  for (int d = 0; d < loops.rank; ++d) {
    if (loops.stride[d][0] == bytes && loops.stride[d][1] != bytes && loops.size[d] >= 8) plane.from = d;
    if (loops.stride[d][1] == bytes && loops.stride[d][0] != bytes && loops.stride[d][0] != 0 && loops.size[d] >= 8) plane.to = d;
  }
  return plane.from < 0 || plane.to < 0 ? Plane{-1, -1} : plane;
}
// 16 bytes of elements, as any vector unit can hold.
template <class T> struct Lanes {
  static constexpr int64_t count = 16 / sizeof(T);
  typedef T Vector __attribute__((vector_size(16)));
  template <int... I> static RETAPE_INLINE Vector low(Vector a, Vector b, std::integer_sequence<int, I...>) {
    return __builtin_shufflevector(a, b, (I / 2 + I % 2 * int(count))...);
  }
  template <int... I> static RETAPE_INLINE Vector high(Vector a, Vector b, std::integer_sequence<int, I...>) {
    return __builtin_shufflevector(a, b, (int(count) / 2 + I / 2 + I % 2 * int(count))...);
  }
};
// y[i * step + j] = x[j * step + i] for i, j < Lanes<T>::count: shuffling the upper half of the rows into the lower one, as cards,
// turns (row, column) by one bit; after as many rounds as there are bits they have changed places.
template <class T> RETAPE_INLINE void transpose_lanes(const T* x, T* y, int64_t step) {
  using L = Lanes<T>;
  constexpr int n = int(L::count);
  constexpr auto order = std::make_integer_sequence<int, n>{};
  typename L::Vector rows[n], next[n];
  for (int j = 0; j < n; ++j) __builtin_memcpy(&rows[j], x + j * step, 16);
#pragma GCC unroll 4
  for (int round = 1; round < n; round *= 2) {
#pragma GCC unroll 16
    for (int k = 0; k < n / 2; ++k) {
      next[2 * k] = L::low(rows[k], rows[k + n / 2], order);
      next[2 * k + 1] = L::high(rows[k], rows[k + n / 2], order);
    }
#pragma GCC unroll 16
    for (int k = 0; k < n; ++k) rows[k] = next[k];
  }
  for (int i = 0; i < n; ++i) __builtin_memcpy(y + i * step, &rows[i], 16);
}
template <class T> void copy_plane(const Loops<2>& loops, const Plane& plane) {
  constexpr int64_t block = sizeof(T) == 8 ? 32 : sizeof(T) == 1 ? 128 : 64, lanes = Lanes<T>::count, row_bytes = block * sizeof(T);
  const int a = plane.from, b = plane.to;
  const int64_t na = loops.size[a], nb = loops.size[b], x_step = loops.stride[b][0], y_step = loops.stride[a][1];
  const int64_t blocks_a = (na + block - 1) / block, blocks_b = (nb + block - 1) / block;
  int64_t planes = 1;
  for (int d = 0; d < loops.rank; ++d) planes *= d == a || d == b ? 1 : loops.size[d];
  parallel_for(planes * blocks_a * blocks_b, max_of<int64_t>(1, 16384 / (block * block)), [&](int64_t begin, int64_t end) {
    // Through buffers, since rows whose distance is a power of two would push each other out of the cache.
    alignas(64) T held[block][block], turned[block][block];
    for (int64_t task = begin; task < end; ++task) {
      const int64_t i0 = task % blocks_a * block, j0 = task / blocks_a % blocks_b * block;
      const int64_t ni = min_of(block, na - i0), nj = min_of(block, nb - j0);
      const char* x = loops.base[0] + i0 * int64_t(sizeof(T)) + j0 * x_step;
      char* y = loops.base[1] + j0 * int64_t(sizeof(T)) + i0 * y_step;
      int64_t rest = task / blocks_b / blocks_a;
      for (int d = loops.rank; d-- > 0;) {
        if (d == a || d == b) continue;
        x += rest % loops.size[d] * loops.stride[d][0];
        y += rest % loops.size[d] * loops.stride[d][1];
        rest /= loops.size[d];
      }
      for (int64_t i = 0; i < ni; ++i)
        for (int64_t at = 0; at < row_bytes; at += 64) __builtin_prefetch(y + i * y_step + at, 1);
      for (int64_t j = 0; j < nj; ++j) {
        const char* row = x + j * x_step;
        if (ni == block) __builtin_memcpy(held[j], row, row_bytes);
        else __builtin_memcpy(held[j], row, size_t(ni) * sizeof(T));
        for (int64_t at = 0; at < row_bytes; at += 64) __builtin_prefetch(row + row_bytes + at);
      }
      for (int64_t i = 0; i < ni; i += lanes)
        for (int64_t j = 0; j < nj; j += lanes) transpose_lanes(&held[j][i], &turned[i][j], block);
      for (int64_t i = 0; i < ni; ++i) {
        if (nj == block) __builtin_memcpy(y + i * y_step, turned[i], row_bytes);
        else __builtin_memcpy(y + i * y_step, turned[i], size_t(nj) * sizeof(T));
      }
    }
  });
}
// Short rows that are dense in both but apart from each other in x: the processor does not guess where the next one is.
void short_row_loop(char* const* p, const int64_t*, int64_t n, const void* distance) {
  const char* next = p[0] + *static_cast<const int64_t*>(distance);
  for (int64_t at = 0; at < n; at += 64) __builtin_prefetch(next + at);
  __builtin_memcpy(p[1], p[0], size_t(n));
}
template <class T> RETAPE_INLINE void move_all(const Tensor& x, Tensor& y) {
  Loops<2> loops = make_loops(y.shape(), {&x, &y});
  const Plane plane = transposed_plane(loops, sizeof(T));
  if (plane.from >= 0) return copy_plane<T>(loops, plane);
  const int last = loops.rank - 1;
  const bool dense = loops.stride[last][0] == int64_t(sizeof(T)) && loops.stride[last][1] == int64_t(sizeof(T));
  if (!dense || last == 0 || loops.size[last] * int64_t(sizeof(T)) > 2048) return walk(loops, convert_loop<T, T>);
  loops.size[last] *= int64_t(sizeof(T));  // in bytes
  loops.stride[last][0] = loops.stride[last][1] = 1;
  const int64_t distance = 8 * loops.stride[last - 1][0];
  walk(loops, short_row_loop, &distance);
}

template <class T> void fill_loop(char* const* p, const int64_t* stride, int64_t n, const void* value) {
  const T v = *static_cast<const T*>(value);
  for (int64_t i = 0; i < n; ++i) *reinterpret_cast<T*>(p[0] + i * stride[0]) = v;
}

}  // namespace

void copy(const Tensor& x, Tensor& y) {
  if (x.dtype() == y.dtype()) {
    switch (size_of(x.dtype())) {
      case 1: return move_all<uint8_t>(x, y);
      case 2: return move_all<uint16_t>(x, y);
      case 4: return move_all<uint32_t>(x, y);
      default: return move_all<uint64_t>(x, y);
    }
  }
  InnerLoop loop = nullptr;
  with_any(x.dtype(), [&](auto from) { with_any(y.dtype(), [&](auto to) { loop = convert_loop<decltype(from), decltype(to)>; }); });
  walk(make_loops(y.shape(), {&x, &y}), loop);
}

void fill(double value, Tensor& y) {
  with_any(y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T v = T(convert<double, T>(value));
    walk(make_loops(y.shape(), {&y}), fill_loop<T>, &v);
  });
}

void arange(double start, double step, Tensor& y) {
  with_any(y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    T* out = reinterpret_cast<T*>(bytes_of(y));
    const int64_t n = y.numel();
    for (int64_t i = 0; i < n; ++i) out[i] = T(convert<double, T>(start + double(i) * step));
  });
}

}  // namespace retape::RETAPE_LEVEL
