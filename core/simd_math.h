// Math functions that functors and kernels call as m::exp(x). For float under GCC they are declared with the `simd` attribute,
// so that loops over them use glibc's vector versions without -ffast-math (which would break inf and nan detection).
#pragma once
#include <cmath>

#include <retape/core/config.h>

#if defined(__GNUC__) && !defined(__clang__) && !defined(__CUDACC__) && defined(__x86_64__)
extern "C" {
#define RETAPE_SIMD __attribute__((simd("notinbranch"), const))
RETAPE_SIMD float expf(float) noexcept;
RETAPE_SIMD float exp2f(float) noexcept;
RETAPE_SIMD float expm1f(float) noexcept;
RETAPE_SIMD float logf(float) noexcept;
RETAPE_SIMD float log1pf(float) noexcept;
RETAPE_SIMD float sinf(float) noexcept;
RETAPE_SIMD float cosf(float) noexcept;
RETAPE_SIMD float tanhf(float) noexcept;
RETAPE_SIMD float erfcf(float) noexcept;
RETAPE_SIMD float log2f(float) noexcept;
RETAPE_SIMD float log10f(float) noexcept;
RETAPE_SIMD float tanf(float) noexcept;
RETAPE_SIMD float asinf(float) noexcept;
RETAPE_SIMD float acosf(float) noexcept;
RETAPE_SIMD float atanf(float) noexcept;
RETAPE_SIMD float sinhf(float) noexcept;
RETAPE_SIMD float coshf(float) noexcept;
RETAPE_SIMD float asinhf(float) noexcept;
RETAPE_SIMD float acoshf(float) noexcept;
RETAPE_SIMD float atanhf(float) noexcept;
RETAPE_SIMD float powf(float, float) noexcept;
RETAPE_SIMD float atan2f(float, float) noexcept;
RETAPE_SIMD float hypotf(float, float) noexcept;
RETAPE_SIMD double exp(double) noexcept;
RETAPE_SIMD double log(double) noexcept;
RETAPE_SIMD double sin(double) noexcept;
RETAPE_SIMD double cos(double) noexcept;
RETAPE_SIMD double tanh(double) noexcept;
RETAPE_SIMD double erf(double) noexcept;
#undef RETAPE_SIMD
}
#endif

#include <retape/core/erf.h>  // after the declarations above

namespace retape::m {
#define RETAPE_MATH1(name)                               \
  RETAPE_HD float name(float x) { return ::name##f(x); } \
  RETAPE_HD double name(double x) { return ::name(x); }
RETAPE_MATH1(exp)
RETAPE_MATH1(exp2)
RETAPE_MATH1(expm1)
RETAPE_MATH1(log)
RETAPE_MATH1(log1p)
RETAPE_MATH1(sin)
RETAPE_MATH1(cos)
RETAPE_MATH1(tanh)
RETAPE_MATH1(erfc)
RETAPE_MATH1(log2)
RETAPE_MATH1(log10)
RETAPE_MATH1(tan)
RETAPE_MATH1(asin)
RETAPE_MATH1(acos)
RETAPE_MATH1(atan)
RETAPE_MATH1(sinh)
RETAPE_MATH1(cosh)
RETAPE_MATH1(asinh)
RETAPE_MATH1(acosh)
RETAPE_MATH1(atanh)
RETAPE_MATH1(sqrt)
RETAPE_MATH1(floor)
RETAPE_MATH1(ceil)
RETAPE_MATH1(trunc)
#undef RETAPE_MATH1
RETAPE_HD float round(float x) { return ::rintf(x); }  // to even, as NumPy and PyTorch
RETAPE_HD double round(double x) { return ::rint(x); }
RETAPE_HD float abs(float x) { return ::fabsf(x); }
RETAPE_HD double abs(double x) { return ::fabs(x); }
#define RETAPE_MATH2(name)                                           \
  RETAPE_HD float name(float x, float y) { return ::name##f(x, y); } \
  RETAPE_HD double name(double x, double y) { return ::name(x, y); }
RETAPE_MATH2(pow)
RETAPE_MATH2(atan2)
RETAPE_MATH2(hypot)
RETAPE_MATH2(fmod)
RETAPE_MATH2(copysign)
#undef RETAPE_MATH2
}  // namespace retape::m

namespace retape {
/// v + d * e with e^2 = 0: a formula run on Dual{x, 1} gives its own derivative in d.
template <class T> struct Dual {
  T v, d;
  RETAPE_HD Dual(T value, T derivative = T(0)) : v(value), d(derivative) {}
  RETAPE_HD Dual(int value) requires(!__is_same(T, int)) : v(T(value)), d(T(0)) {}
  RETAPE_HD Dual(double value) requires(!__is_same(T, double)) : v(T(value)), d(T(0)) {}
  friend RETAPE_HD Dual operator+(Dual a, Dual b) { return {a.v + b.v, a.d + b.d}; }
  friend RETAPE_HD Dual operator-(Dual a, Dual b) { return {a.v - b.v, a.d - b.d}; }
  friend RETAPE_HD Dual operator-(Dual a) { return {-a.v, -a.d}; }
  friend RETAPE_HD Dual operator*(Dual a, Dual b) { return {a.v * b.v, a.d * b.v + a.v * b.d}; }
  friend RETAPE_HD Dual operator/(Dual a, Dual b) { return {a.v / b.v, (a.d * b.v - a.v * b.d) / (b.v * b.v)}; }
  friend RETAPE_HD bool operator<(Dual a, Dual b) { return a.v < b.v; }
  friend RETAPE_HD bool operator>(Dual a, Dual b) { return a.v > b.v; }
  friend RETAPE_HD bool operator<=(Dual a, Dual b) { return a.v <= b.v; }
  friend RETAPE_HD bool operator>=(Dual a, Dual b) { return a.v >= b.v; }
};
namespace m {
template <class T> RETAPE_HD Dual<T> exp(Dual<T> a) {
  const T e = exp(a.v);
  return {e, a.d * e};
}
template <class T> RETAPE_HD Dual<T> log(Dual<T> a) { return {log(a.v), a.d / a.v}; }
template <class T> RETAPE_HD Dual<T> sin(Dual<T> a) { return {sin(a.v), a.d * cos(a.v)}; }
template <class T> RETAPE_HD Dual<T> cos(Dual<T> a) { return {cos(a.v), -a.d * sin(a.v)}; }
template <class T> RETAPE_HD Dual<T> tanh(Dual<T> a) {
  const T t = tanh(a.v);
  return {t, a.d * (T(1) - t * t)};
}
template <class T> RETAPE_HD Dual<T> sqrt(Dual<T> a) {
  const T s = sqrt(a.v);
  return {s, a.d / (T(2) * s)};
}
template <class T> RETAPE_HD Dual<T> abs(Dual<T> a) { return a.v < T(0) ? -a : a; }
template <class T> RETAPE_HD Dual<T> sinh(Dual<T> a) { return {sinh(a.v), a.d * cosh(a.v)}; }
template <class T> RETAPE_HD Dual<T> cosh(Dual<T> a) { return {cosh(a.v), a.d * sinh(a.v)}; }
template <class T> RETAPE_HD Dual<T> log1p(Dual<T> a) { return {log1p(a.v), a.d / (T(1) + a.v)}; }
template <class T> RETAPE_HD Dual<T> erf(Dual<T> a) { return {erf(a.v), a.d * T(1.1283791670955126) * exp(-a.v * a.v)}; }
}  // namespace m
}  // namespace retape
