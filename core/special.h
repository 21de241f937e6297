// Special functions that libm lacks, for functors: digamma and its derivatives, log of gamma without a global, inverse erf.
#pragma once
#include <retape/core/simd_math.h>

namespace retape::m {

// The n-th derivative of digamma (n = 0, 1, 2): the recurrence moves x above 12, where the asymptotic series in Bernoulli numbers
// is exact to the last digits of a double (Abramowitz & Stegun 6.3.18, 6.4.11); reflection serves x <= 0.
RETAPE_HD double polygamma_above_12(int n, double x) {
  const double r = 1 / x, q = r * r;
  if (n == 0)
    return ::log(x) - r / 2 - q * (1.0 / 12 - q * (1.0 / 120 - q * (1.0 / 252 - q * (1.0 / 240 - q * (1.0 / 132 - q * 691.0 / 32760)))));
  if (n == 1) return r + q / 2 + r * q * (1.0 / 6 - q * (1.0 / 30 - q * (1.0 / 42 - q * (1.0 / 30 - q * (5.0 / 66 - q * 691.0 / 2730)))));
  return -q - r * q - q * q * (1.0 / 2 - q * (1.0 / 6 - q * (1.0 / 6 - q * (3.0 / 10 - q * (5.0 / 6 - q * 691.0 / 210)))));
}
RETAPE_HD double polygamma_of_positive(int n, double x) {
  double sum = 0;
  for (; x < 12; x += 1) sum += n == 0 ? -1 / x : n == 1 ? 1 / (x * x) : -2 / (x * x * x);
  return sum + polygamma_above_12(n, x);
}
RETAPE_HD double polygamma(int n, double x) {
  constexpr double pi = 3.14159265358979324;
  if (x > 0) return x > 1e300 && n == 0 ? ::log(x) : polygamma_of_positive(n, x);
  if (x != x) return x;
  if (x == 0) return n == 0 ? -__builtin_copysign(__builtin_inf(), x) : n == 1 ? __builtin_inf() : __builtin_nan("");
  if (x == ::floor(x)) return n == 1 ? __builtin_inf() : __builtin_nan("");
  const double angle = pi * (x - ::floor(x)), s = ::sin(angle), c = ::cos(angle);
  if (n == 0) return polygamma_of_positive(0, 1 - x) - pi * c / s;
  if (n == 1) return pi * pi / (s * s) - polygamma_of_positive(1, 1 - x);
  return polygamma_of_positive(2, 1 - x) - 2 * pi * pi * pi * c / (s * s * s);
}
RETAPE_HD double digamma(double x) { return polygamma(0, x); }
RETAPE_HD float digamma(float x) { return float(polygamma(0, double(x))); }
RETAPE_HD double trigamma(double x) { return polygamma(1, x); }
RETAPE_HD float trigamma(float x) { return float(polygamma(1, double(x))); }
template <class T> RETAPE_HD Dual<T> digamma(Dual<T> a) { return {digamma(a.v), a.d * trigamma(a.v)}; }
template <class T> RETAPE_HD Dual<T> trigamma(Dual<T> a) { return {trigamma(a.v), a.d * T(polygamma(2, double(a.v)))}; }

#if defined(__CUDACC__)
RETAPE_HD double lgamma(double x) { return ::lgamma(x); }
#else
RETAPE_HD double lgamma(double x) {  // ::lgamma writes a global sign
  int sign;
  return ::lgamma_r(x, &sign);
}
#endif
RETAPE_HD float lgamma(float x) { return float(lgamma(double(x))); }

// The inverse of erf: a rational start (Winitzki 2008), then three steps of Halley's method, each of which triples the digits.
RETAPE_HD double erfinv(double y) {
  if (!(y > -1 && y < 1)) return y == 1 ? __builtin_inf() : y == -1 ? -__builtin_inf() : __builtin_nan("");
  if (y == 0) return y;
  const double magnitude = y < 0 ? -y : y, tail = 1 - magnitude;           // exact for magnitude >= 0.5
  const double l = ::log(tail * (1 + magnitude)), t = 4.33074675 + l / 2;  // 2 / (pi a), a = 0.147
  double x = ::sqrt(::sqrt(t * t - l / 0.147) - t);
  for (int step = 0; step < 3; ++step) {
    const double error = magnitude < 0.5 ? ::erf(x) - magnitude : tail - ::erfc(x);
    const double newton = error / (1.1283791670955126 * ::exp(-x * x));
    x -= newton / (1 + x * newton);
  }
  return y < 0 ? -x : x;
}
RETAPE_HD float erfinv(float y) { return float(erfinv(double(y))); }

}  // namespace retape::m
