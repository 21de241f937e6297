#include "roofs.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <map>

#include <retape/retape.h>
#include "timing.h"

namespace retape::bench {
namespace {

// One loop for each kind of processor. 12 independent chains of multiply-adds hide the latency of a core's two units, whatever the
// width of a vector.
#if defined(__GLIBC__) && defined(__x86_64__) && !defined(__clang__)
extern "C" __attribute__((simd("notinbranch"), const)) float expf(float) noexcept;
#endif
#define RETAPE_LOOPS(level, flags, bytes)                                                                                    \
  __attribute__((target(flags), noinline)) float fma_loop_##level(int64_t rounds) {                                          \
    typedef float V __attribute__((vector_size(bytes)));                                                                     \
    V x = V{} + 0.999f, y = V{} + 1e-3f, a = x, b = x, c = x, d = x, e = x, f = x, g = x, h = x, p = x, q = x, r = x, s = x; \
    for (int64_t i = 0; i < rounds; ++i) {                                                                                   \
      a = a * x + y, b = b * x + y, c = c * x + y, d = d * x + y, e = e * x + y, f = f * x + y;                              \
      g = g * x + y, h = h * x + y, p = p * x + y, q = q * x + y, r = r * x + y, s = s * x + y;                              \
      asm volatile("" : "+x"(a), "+x"(b), "+x"(c), "+x"(d), "+x"(e), "+x"(f)); /* in registers, one step after the other */  \
      asm volatile("" : "+x"(g), "+x"(h), "+x"(p), "+x"(q), "+x"(r), "+x"(s));                                               \
    }                                                                                                                        \
    return (a + b + c + d + e + f + g + h + p + q + r + s)[0];                                                               \
  }                                                                                                                          \
  __attribute__((target(flags), noinline)) void exp_loop_##level(const float* x, float* y, int n) {                          \
    _Pragma("omp simd") for (int i = 0; i < n; ++i) y[i] = expf(x[i]);                                                       \
  }
#if defined(__x86_64__)
RETAPE_LOOPS(v4, "avx512f,avx512bw,avx512vl,avx512dq,fma", 64)
RETAPE_LOOPS(v3, "avx2,fma", 32)
RETAPE_LOOPS(base, "sse2", 16)
struct Loops {
  decltype(&fma_loop_v4) fma;
  decltype(&exp_loop_v4) exp;
  int width;
};
Loops loops() {
  if (__builtin_cpu_supports("avx512dq")) return {fma_loop_v4, exp_loop_v4, 16};
  if (__builtin_cpu_supports("fma")) return {fma_loop_v3, exp_loop_v3, 8};
  return {fma_loop_base, exp_loop_base, 4};
}
#else
#error "the roofs are measured on x86-64 only"
#endif

// An array of at least this many bytes, the same one for every call with this number and size.
float* array(int which, int64_t bytes) {
  static std::map<std::pair<int, int64_t>, Tensor> all;
  Tensor& t = all[{which, bytes}];
  if (!t) t = ones({bytes / 4});
  return t.mutable_data<float>();
}

}  // namespace

double fma_peak() {
  constexpr int64_t rounds = 400'000;
  const Loops l = loops();
  const double seconds = seconds_of([&] {
#pragma omp parallel
    do_not_optimize(l.fma(rounds));
  });
  return 2.0 * 12 * l.width * rounds * omp_get_max_threads() / seconds;
}

double copy_bandwidth(int64_t bytes) {
  const float* x = array(0, bytes);
  float* y = array(1, bytes);
  const int64_t n = bytes / 4;
  const int times = int(std::max<int64_t>(1, (64 << 20) / bytes));
  const auto copy = [&] {
#pragma omp parallel for simd schedule(static)
    for (int64_t i = 0; i < n; ++i) y[i] = x[i];
  };
  copy();
  const double seconds = seconds_of([&] {
    for (int t = 0; t < times; ++t) copy();
  });
  return 2.0 * double(bytes) * times / seconds;
}

double in_place_bandwidth(int64_t bytes) {
  float* x = array(2, bytes);
  const int64_t n = bytes / 4;
  const auto scale = [&] {
#pragma omp parallel for simd schedule(static)
    for (int64_t i = 0; i < n; ++i) x[i] *= 0.999999f;
  };
  scale();
  const double seconds = seconds_of(scale);
  return 2.0 * double(bytes) / seconds;
}

double exp_rate() {
  constexpr int n = 2048, times = 2000;
  const Loops l = loops();
  const double seconds = seconds_of([&] {
#pragma omp parallel
    {
      alignas(64) float x[n], y[n];
      for (int i = 0; i < n; ++i) x[i] = float(i) / n;
      for (int t = 0; t < times; ++t) {
        l.exp(x, y, n);
        do_not_optimize(y[t % n]);
      }
    }
  });
  return double(n) * times * omp_get_max_threads() / seconds;
}

}  // namespace retape::bench
