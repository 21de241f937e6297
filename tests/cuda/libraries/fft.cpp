// The host's version of cuda/libraries/fft.cpp: by the prime factors of n, in double. It destroys what cuFFT may destroy, and refuses
// what cuFFT refuses.
#include <retape/cuda/libraries/fft.h>

#include <complex>
#include <numbers>
#include <vector>

#include <retape/cuda/device.h>

namespace retape::cuda::library {
namespace {

using Complex = std::complex<double>;

// y[k] = sum over t of x[t * stride] w^(k t), where w = circle[circle.size() / n].
void transform(const Complex* x, int64_t stride, int64_t n, const std::vector<Complex>& circle, Complex* y) {
  if (n == 1) {
    y[0] = x[0];
    return;
  }
  int64_t p = 2;
  while (n % p && p * p <= n) ++p;
  if (n % p) p = n;
  const int64_t m = n / p, step = int64_t(circle.size()) / n;
  std::vector<Complex> part(size_t(n), 0);
  for (int64_t j = 0; j < p; ++j) transform(x + j * stride, stride * p, m, circle, &part[size_t(j * m)]);
  for (int64_t k = 0; k < n; ++k) {
    y[k] = 0;
    for (int64_t j = 0; j < p; ++j) y[k] += part[size_t(j * m + k % m)] * circle[size_t(j * k % n * step)];
  }
}

template <class T> void transform_rows(Fourier kind, int64_t n, int64_t batch, T* x, T* y) {
  const int64_t half = n / 2 + 1;
  const double turn = (kind == Fourier::forward || kind == Fourier::from_real ? -2 : 2) * std::numbers::pi / double(n);
  std::vector<Complex> circle(size_t(n), 0), in(size_t(n), 0), out(size_t(n), 0);
  for (int64_t k = 0; k < n; ++k) circle[size_t(k)] = std::polar(1.0, turn * double(k));
  for (int64_t row = 0; row < batch; ++row) {
    for (int64_t k = 0; k < n; ++k) {
      Complex& value = in[size_t(k)];
      if (kind == Fourier::from_real) value = double(x[row * n + k]);
      else if (kind == Fourier::to_real) {
        const int64_t i = 2 * (row * half + (k < half ? k : n - k));
        value = {double(x[i]), double(k < half ? x[i + 1] : -x[i + 1])};
        if ((k == 0 || 2 * k == n) && x[i + 1] != 0) throw emulation::Mistake("fourier: an imaginary part that has to be 0");
      } else value = {double(x[2 * (row * n + k)]), double(x[2 * (row * n + k) + 1])};
    }
    transform(in.data(), 1, n, circle, out.data());
    for (int64_t k = 0; k < (kind == Fourier::from_real ? half : n); ++k) {
      const Complex value = out[size_t(k)];
      if (kind == Fourier::to_real) y[row * n + k] = T(value.real());
      else {
        T* const to = y + 2 * (row * (kind == Fourier::from_real ? half : n) + k);
        to[0] = T(value.real()), to[1] = T(value.imag());
      }
    }
  }
  if (kind == Fourier::to_real)
    for (int64_t i = 0; i < batch * half * 2; ++i) x[i] = T(NAN);
}

}  // namespace

template <class T> void fourier(Fourier kind, int64_t n, int64_t batch, T* x, T* y) {
  if (n < 1 || batch < 1 || (uintptr_t(x) | uintptr_t(y)) % (2 * sizeof(T))) throw emulation::Mistake("fourier: what cuFFT does not take");
  emulation::enqueue(current_stream(), [=] { transform_rows(kind, n, batch, x, y); });
}
template void fourier(Fourier, int64_t, int64_t, float*, float*);
template void fourier(Fourier, int64_t, int64_t, double*, double*);

}  // namespace retape::cuda::library
