// Fourier transforms by the library, which does not scale, wants whole pairs at aligned addresses, and destroys what it makes real values
// of: what it must not read or write as it is, goes through scratch memory.
#include <retape/cuda/launch.h>
#include <retape/cuda/libraries/fft.h>

namespace retape::cuda {
namespace {

using library::Fourier;

template <class F> void with_f32_or_f64(const char* kernel, DType d, const F& f) {
  if (d == DType::f64) f(double{});
  else if (d == DType::f32) f(float{});
  else retape::detail::unsupported_dtype(kernel, d);
}

template <class T> __global__ void scale_values(int64_t n, T scale, const T* x, T* y) {
  for (int64_t i = thread_index(); i < n; i += thread_count()) y[i] = x[i] * scale;
}
// The first n / 2 + 1 values of rows of n: the imaginary part of value 0 does not count, nor that of n / 2.
template <class T> __global__ void scale_half_rows(int64_t rows, int64_t n, T scale, const T* x, T* y) {
  const int64_t row = 2 * (n / 2 + 1);
  for (int64_t i = thread_index(); i < rows * row; i += thread_count()) {
    const int64_t k = i % row;
    y[i] = k == 1 || k == n + 1 ? T(0) : x[i] * scale;
  }
}

template <class T> bool at_pair(const T* p) { return reinterpret_cast<uintptr_t>(p) % (2 * sizeof(T)) == 0; }

// y = the scaled transform of `rows` rows of n; x has in_size values, and y out_size.
template <class T> void transform(Fourier kind, int64_t n, int64_t rows, T scale, const T* x, int64_t in_size, T* y, int64_t out_size) {
  const bool to_real = kind == Fourier::to_real, x_serves = at_pair(x) && !to_real, y_serves = at_pair(y);
  const Scratch<T> other_x(x_serves ? 0 : in_size), other_y(y_serves ? 0 : out_size);
  T* const in = x_serves ? const_cast<T*>(x) : other_x;  // the library writes there for to_real only
  T* const out = y_serves ? y : other_y;
  if (to_real) launch(scale_half_rows<T>, blocks_for(in_size), 256, 0, rows, n, scale, x, in);
  else if (!x_serves) launch(scale_values<T>, blocks_for(in_size), 256, 0, in_size, T(1), x, in);
  library::fourier(kind, n, rows, in, out);
  const T left = to_real ? T(1) : scale;
  if (left != 1 || !y_serves) launch(scale_values<T>, blocks_for(out_size), 256, 0, out_size, left, out, y);
}

template <class T> __global__ void angles(int64_t n, const T* x, T* y) {
  for (int64_t i = thread_index(); i < n; i += thread_count()) y[i] = T(m::atan2(compute_t<T>(x[2 * i + 1]), compute_t<T>(x[2 * i])));
}

}  // namespace

// x, y (..., n, 2)
void fft(const Tensor& x, bool inverse, double scale, Tensor& y) {
  const int64_t n = x.shape()[-2];
  if (x.numel() == 0) return;
  with_f32_or_f64("fft", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    transform<T>(inverse ? Fourier::inverse : Fourier::forward, n, x.numel() / (2 * n), T(scale), data<T>(x), x.numel(), data<T>(y),
                 y.numel());
  });
}

// x (..., n), y (..., n / 2 + 1, 2)
void rfft(const Tensor& x, double scale, Tensor& y) {
  const int64_t n = x.shape()[-1];
  if (x.numel() == 0) return;
  with_f32_or_f64("rfft", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    transform<T>(Fourier::from_real, n, x.numel() / n, T(scale), data<T>(x), x.numel(), data<T>(y), y.numel());
  });
}

// x (..., n / 2 + 1, 2), y (..., n)
void irfft(const Tensor& x, double scale, Tensor& y) {
  const int64_t n = y.shape()[-1];
  if (y.numel() == 0) return;
  with_f32_or_f64("irfft", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    transform<T>(Fourier::to_real, n, y.numel() / n, T(scale), data<T>(x), x.numel(), data<T>(y), y.numel());
  });
}

// x (..., 2), y (...)
void complex_angle(const Tensor& x, Tensor& y) {
  with_floating("angle", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    if (y.numel()) launch(angles<T>, blocks_for(y.numel()), 256, 0, y.numel(), data<T>(x), data<T>(y));
  });
}

}  // namespace retape::cuda
