// Copies between any strides and dtypes, and constants.
#include <retape/core/elementwise.h>

namespace retape::RETAPE_LEVEL {
namespace {

template <class From, class To> RETAPE_INLINE To convert(From x) {
  constexpr bool from_half = std::is_same_v<From, f16> || std::is_same_v<From, bf16>;
  constexpr bool to_half = std::is_same_v<To, f16> || std::is_same_v<To, bf16>;
  if constexpr (std::is_same_v<From, To>) return x;
  else if constexpr (from_half) return convert<float, To>(float(x));
  else if constexpr (to_half) return To(float(x));
  else if constexpr (std::is_same_v<To, bool>) return x != From(0);
  else return static_cast<To>(x);
}
template <class From, class To> void convert_loop(char* const* p, const int64_t* stride, int64_t n, const void*) {
  if (stride[0] == int64_t(sizeof(From)) && stride[1] == int64_t(sizeof(To))) {
    const From* x = reinterpret_cast<const From*>(p[0]);
    To* y = reinterpret_cast<To*>(p[1]);
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) y[i] = convert<From, To>(x[i]);
    return;
  }
  for (int64_t i = 0; i < n; ++i)
    *reinterpret_cast<To*>(p[1] + i * stride[1]) = convert<From, To>(*reinterpret_cast<const From*>(p[0] + i * stride[0]));
}
template <class T> void fill_loop(char* const* p, const int64_t* stride, int64_t n, const void* value) {
  const T v = *static_cast<const T*>(value);
  for (int64_t i = 0; i < n; ++i) *reinterpret_cast<T*>(p[0] + i * stride[0]) = v;
}

}  // namespace

void copy(const Tensor& x, Tensor& y) {
  InnerLoop loop = nullptr;
  if (x.dtype() == y.dtype()) {
    switch (size_of(x.dtype())) {
      case 1: loop = convert_loop<uint8_t, uint8_t>; break;
      case 2: loop = convert_loop<uint16_t, uint16_t>; break;
      case 4: loop = convert_loop<uint32_t, uint32_t>; break;
      default: loop = convert_loop<uint64_t, uint64_t>; break;
    }
  } else {
    with_any(x.dtype(), [&](auto from) { with_any(y.dtype(), [&](auto to) { loop = convert_loop<decltype(from), decltype(to)>; }); });
  }
  walk(make_loops(y.shape(), {&x, &y}), loop);
}

void fill(double value, Tensor& y) {
  with_any(y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T v = convert<double, T>(value);
    walk(make_loops(y.shape(), {&y}), fill_loop<T>, &v);
  });
}

void arange(double start, double step, Tensor& y) {
  with_any(y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    T* out = reinterpret_cast<T*>(bytes_of(y));
    const int64_t n = y.numel();
    for (int64_t i = 0; i < n; ++i) out[i] = convert<double, T>(start + double(i) * step);
  });
}

}  // namespace retape::RETAPE_LEVEL
