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

// Short rows that are dense in both but apart from each other in x: the processor does not guess where the next one is.
void short_row_loop(char* const* p, const int64_t*, int64_t n, const void* distance) {
  const char* next = p[0] + *static_cast<const int64_t*>(distance);
  for (int64_t at = 0; at < n; at += 64) __builtin_prefetch(next + at);
  __builtin_memcpy(p[1], p[0], size_t(n));
}
template <class T> RETAPE_INLINE void move_all(const Tensor& x, Tensor& y) {
  Loops<2> loops = make_loops(y.shape(), {&x, &y});
  const int last = loops.rank - 1;
  const bool dense = loops.stride[last][0] == int64_t(sizeof(T)) && loops.stride[last][1] == int64_t(sizeof(T));
  if (!dense || last == 0 || loops.size[last] * int64_t(sizeof(T)) > 2048) return walk(loops, convert_loop<T, T>);
  loops.size[last] *= int64_t(sizeof(T));  // in bytes
  loops.bytes[0] = loops.bytes[1] = 1;
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
