// What a Fourier transform of size n needs besides its data, made once and kept: factors, twiddles, Bluestein's filter.
#pragma once
#include <cstdint>

namespace retape::fft_plan {

constexpr int max_passes = 64;

struct Pass {
  int64_t radix, m;  // the pass cuts pieces of radix * m values
  int64_t twiddles;  // where its begin: for j = 1 ... radix - 1, m real parts of exp(-2 pi i j p / (radix m)), then m imaginary ones
};
template <class T> struct Plan {
  int64_t n;
  int passes;
  Pass pass[max_passes];
  const T* twiddles;
  // exp(-pi i k / n): n + 1 real parts, then n + 1 imaginary ones; a real transform of size 2 n combines its halves with them
  const T* circle;
  // Bluestein (1970), for an n with prime factors above 7, else null: the plan of the convolution; exp(-pi i k^2 / n), n real parts and
  // n imaginary ones; the filter's spectrum over the convolution's size, in the same form
  const Plan* convolution;
  const T *chirp, *filter;
};

/// The plan of size n >= 1, from a cache that all threads share; to be given back by release(). `transform` replaces (re, im), of the
/// plan's n values, by their transform; it is called to make a filter.
template <class T> const Plan<T>* acquire(int64_t n, void (*transform)(const Plan<T>& plan, T* re, T* im));
template <class T> void release(const Plan<T>* plan);

extern template const Plan<float>* acquire(int64_t, void (*)(const Plan<float>&, float*, float*));
extern template const Plan<double>* acquire(int64_t, void (*)(const Plan<double>&, double*, double*));
extern template void release(const Plan<float>*);
extern template void release(const Plan<double>*);

}  // namespace retape::fft_plan
