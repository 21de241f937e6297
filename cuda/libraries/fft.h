// Fourier transforms through cuFFT. This file hides its headers; tests/cuda/libraries/fft.cpp is the same in plain C++.
#pragma once
#include <cstdint>

namespace retape::cuda::library {

enum class Fourier : uint8_t { forward, inverse, from_real, to_real };  // to_real: inverse, of the first n / 2 + 1 values

/// Transforms `batch` rows of n values each from x to y, not scaled, on the current stream of the current device. T is float or double.
/// Complex values are pairs, and at addresses of whole pairs; x may be y only for forward and inverse. `to_real` destroys x, in which the
/// imaginary parts of the values 0 and, for even n, n / 2 must be 0. Neither n nor batch is 0. Equal inputs give equal bits. Throws Error.
template <class T> void fourier(Fourier kind, int64_t n, int64_t batch, T* x, T* y);

}  // namespace retape::cuda::library
