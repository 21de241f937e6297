// Elementwise functions of one value: the formula, its slope, and one list. A new one is a struct and a line of the list; the
// CPU and CUDA kernels, the fused backward, second derivatives, the public function, tests and benchmarks expand from it.
//
// `slope(x)` needs the input, `slope_from_y(y)` the output: the name says what the tape keeps. Run on a Dual number, the slope
// gives the second derivative. T is float or double.
#pragma once
#include <retape/core/simd_math.h>
#include <retape/core/special.h>

namespace retape {

namespace functor {

struct Neg {
  template <class T> static RETAPE_HD T value(T x) { return -x; }
  template <class T> static RETAPE_HD T slope(T x) { return x * T(0) - T(1); }
};
struct Abs {
  template <class T> static RETAPE_HD T value(T x) { return m::abs(x); }
  template <class T> static RETAPE_HD T slope(T x) { return x > T(0) ? T(1) : x < T(0) ? T(-1) : T(0); }
};
struct Sign {
  template <class T> static RETAPE_HD T value(T x) { return x > T(0) ? T(1) : x < T(0) ? T(-1) : x * T(0); }
  template <class T> static RETAPE_HD T slope(T) { return T(0); }
};
struct Exp {
  template <class T> static RETAPE_HD T value(T x) { return m::exp(x); }
  template <class T> static RETAPE_HD T slope_from_y(T y) { return y; }
};
struct Expm1 {
  template <class T> static RETAPE_HD T value(T x) { return m::expm1(x); }
  template <class T> static RETAPE_HD T slope_from_y(T y) { return y + T(1); }
};
struct Log {
  template <class T> static RETAPE_HD T value(T x) { return m::log(x); }
  template <class T> static RETAPE_HD T slope(T x) { return T(1) / x; }
};
struct Log1p {
  template <class T> static RETAPE_HD T value(T x) { return m::log1p(x); }
  template <class T> static RETAPE_HD T slope(T x) { return T(1) / (T(1) + x); }
};
struct Sqrt {
  template <class T> static RETAPE_HD T value(T x) { return m::sqrt(x); }
  template <class T> static RETAPE_HD T slope_from_y(T y) { return T(0.5) / y; }
};
struct Rsqrt {
  template <class T> static RETAPE_HD T value(T x) { return T(1) / m::sqrt(x); }
  template <class T> static RETAPE_HD T slope_from_y(T y) { return T(-0.5) * y * y * y; }
};
struct Square {
  template <class T> static RETAPE_HD T value(T x) { return x * x; }
  template <class T> static RETAPE_HD T slope(T x) { return T(2) * x; }
};
struct Reciprocal {
  template <class T> static RETAPE_HD T value(T x) { return T(1) / x; }
  template <class T> static RETAPE_HD T slope_from_y(T y) { return -(y * y); }
};
struct Sin {
  template <class T> static RETAPE_HD T value(T x) { return m::sin(x); }
  template <class T> static RETAPE_HD T slope(T x) { return m::cos(x); }
};
struct Cos {
  template <class T> static RETAPE_HD T value(T x) { return m::cos(x); }
  template <class T> static RETAPE_HD T slope(T x) { return -m::sin(x); }
};
struct Tanh {
  template <class T> static RETAPE_HD T value(T x) { return m::tanh(x); }
  template <class T> static RETAPE_HD T slope_from_y(T y) { return T(1) - y * y; }
};
struct Sigmoid {
  template <class T> static RETAPE_HD T value(T x) { return T(1) / (T(1) + m::exp(-x)); }
  template <class T> static RETAPE_HD T slope_from_y(T y) { return y * (T(1) - y); }
};
struct Erf {
  template <class T> static RETAPE_HD T value(T x) { return m::erf(x); }
  template <class T> static RETAPE_HD T slope(T x) { return T(1.1283791670955126) * m::exp(-x * x); }  // 2 / sqrt(pi)
};
struct Relu {  // the slope at 0 is 0
  template <class T> static RETAPE_HD T value(T x) { return x > T(0) ? x : x != x ? x : T(0); }
  template <class T> static RETAPE_HD T slope_from_y(T y) { return y > T(0) ? T(1) : T(0); }
};
struct Silu {  // x sigmoid(x)
  template <class T> static RETAPE_HD T value(T x) { return x / (T(1) + m::exp(-x)); }
  template <class T> static RETAPE_HD T slope(T x) {
    const T s = T(1) / (T(1) + m::exp(-x));
    return s * (T(1) + x * (T(1) - s));
  }
};
struct Softplus {  // log(1 + exp(x)), without overflow
  template <class T> static RETAPE_HD T value(T x) { return (x > T(0) ? x : T(0)) + m::log1p(m::exp(-m::abs(x))); }
  template <class T> static RETAPE_HD T slope(T x) { return T(1) / (T(1) + m::exp(-x)); }
};
struct Gelu {  // x Phi(x), by erf (Hendrycks & Gimpel 2016)
  template <class T> static RETAPE_HD T value(T x) { return T(0.5) * x * (T(1) + m::erf(x * T(0.7071067811865476))); }
  template <class T> static RETAPE_HD T slope(T x) {
    return T(0.5) * (T(1) + m::erf(x * T(0.7071067811865476))) + x * T(0.3989422804014327) * m::exp(T(-0.5) * x * x);
  }
  // For float by the distribution's lower tail, which is 1e-23 at -10.
  static RETAPE_HD float value(float x) {
    const float t = m::abs(x), tail = m::normal_tail(t > 10.0f ? 10.0f : t);
    return (x < -10.0f ? -10.0f : x) * (x < 0.0f ? tail : 1.0f - tail);
  }
  static RETAPE_HD float slope(float x) {
    const float size = m::abs(x), t = size > 10.0f ? 10.0f : size, below = m::normal_tail(t) - m::normal_moment(t);
    return x < 0.0f ? below : 1.0f - below;
  }
};
struct GeluTanh {  // the same paper's approximation by tanh
  template <class T> static RETAPE_HD T inner(T x) { return T(0.7978845608028654) * (x + T(0.044715) * x * x * x); }
  template <class T> static RETAPE_HD T value(T x) { return T(0.5) * x * (T(1) + m::tanh(inner(x))); }
  template <class T> static RETAPE_HD T slope(T x) {
    const T t = m::tanh(inner(x));
    return T(0.5) * (T(1) + t) + T(0.5) * x * (T(1) - t * t) * T(0.7978845608028654) * (T(1) + T(0.134145) * x * x);
  }
};
struct Floor {
  template <class T> static RETAPE_HD T value(T x) { return m::floor(x); }
  template <class T> static RETAPE_HD T slope(T) { return T(0); }
};
struct Ceil {
  template <class T> static RETAPE_HD T value(T x) { return m::ceil(x); }
  template <class T> static RETAPE_HD T slope(T) { return T(0); }
};
struct Round {
  template <class T> static RETAPE_HD T value(T x) { return m::round(x); }
  template <class T> static RETAPE_HD T slope(T) { return T(0); }
};

struct Exp2 {
  template <class T> static RETAPE_HD T value(T x) { return m::exp2(x); }
  template <class T> static RETAPE_HD T slope_from_y(T y) { return y * T(0.6931471805599453); }
};
struct Log2 {
  template <class T> static RETAPE_HD T value(T x) { return m::log2(x); }
  template <class T> static RETAPE_HD T slope(T x) { return T(1.4426950408889634) / x; }
};
struct Log10 {
  template <class T> static RETAPE_HD T value(T x) { return m::log10(x); }
  template <class T> static RETAPE_HD T slope(T x) { return T(0.4342944819032518) / x; }
};
struct Tan {
  template <class T> static RETAPE_HD T value(T x) { return m::tan(x); }
  template <class T> static RETAPE_HD T slope_from_y(T y) { return T(1) + y * y; }
};
struct Asin {
  template <class T> static RETAPE_HD T value(T x) { return m::asin(x); }
  template <class T> static RETAPE_HD T slope(T x) { return T(1) / m::sqrt(T(1) - x * x); }
};
struct Acos {
  template <class T> static RETAPE_HD T value(T x) { return m::acos(x); }
  template <class T> static RETAPE_HD T slope(T x) { return T(-1) / m::sqrt(T(1) - x * x); }
};
struct Atan {
  template <class T> static RETAPE_HD T value(T x) { return m::atan(x); }
  template <class T> static RETAPE_HD T slope(T x) { return T(1) / (T(1) + x * x); }
};
struct Sinh {
  template <class T> static RETAPE_HD T value(T x) { return m::sinh(x); }
  template <class T> static RETAPE_HD T slope(T x) { return m::cosh(x); }
};
struct Cosh {
  template <class T> static RETAPE_HD T value(T x) { return m::cosh(x); }
  template <class T> static RETAPE_HD T slope(T x) { return m::sinh(x); }
};
struct Asinh {
  template <class T> static RETAPE_HD T value(T x) { return m::asinh(x); }
  template <class T> static RETAPE_HD T slope(T x) { return T(1) / m::sqrt(x * x + T(1)); }
};
struct Acosh {
  template <class T> static RETAPE_HD T value(T x) { return m::acosh(x); }
  template <class T> static RETAPE_HD T slope(T x) { return T(1) / m::sqrt(x * x - T(1)); }
};
struct Atanh {
  template <class T> static RETAPE_HD T value(T x) { return m::atanh(x); }
  template <class T> static RETAPE_HD T slope(T x) { return T(1) / (T(1) - x * x); }
};
struct Erfc {
  template <class T> static RETAPE_HD T value(T x) { return m::erfc(x); }
  template <class T> static RETAPE_HD T slope(T x) { return T(-1.1283791670955126) * m::exp(-x * x); }
};
struct Erfinv {
  template <class T> static RETAPE_HD T value(T x) { return m::erfinv(x); }
  template <class T> static RETAPE_HD T slope_from_y(T y) { return T(0.886226925452758) * m::exp(y * y); }  // sqrt(pi) / 2
};
struct Lgamma {
  template <class T> static RETAPE_HD T value(T x) { return m::lgamma(x); }
  template <class T> static RETAPE_HD T slope(T x) { return m::digamma(x); }
};
struct Digamma {
  template <class T> static RETAPE_HD T value(T x) { return m::digamma(x); }
  template <class T> static RETAPE_HD T slope(T x) { return m::trigamma(x); }
};
struct Logit {
  template <class T> static RETAPE_HD T value(T x) { return m::log(x / (T(1) - x)); }
  template <class T> static RETAPE_HD T slope(T x) { return T(1) / (x * (T(1) - x)); }
};
struct Trunc {
  template <class T> static RETAPE_HD T value(T x) { return m::trunc(x); }
  template <class T> static RETAPE_HD T slope(T) { return T(0); }
};
struct Frac {
  template <class T> static RETAPE_HD T value(T x) { return x - m::trunc(x); }
  template <class T> static RETAPE_HD T slope(T) { return T(1); }
};
struct LogSigmoid {  // log(sigmoid(x)), without overflow
  template <class T> static RETAPE_HD T value(T x) { return (x < T(0) ? x : T(0)) - m::log1p(m::exp(-m::abs(x))); }
  template <class T> static RETAPE_HD T slope(T x) { return T(1) / (T(1) + m::exp(x)); }
};
struct Softsign {
  template <class T> static RETAPE_HD T value(T x) { return x / (T(1) + m::abs(x)); }
  template <class T> static RETAPE_HD T slope(T x) {
    const T d = T(1) + m::abs(x);
    return T(1) / (d * d);
  }
};
struct Selu {  // Klambauer et al. 2017
  template <class T> static RETAPE_HD T value(T x) {
    return T(1.0507009873554805) * (x > T(0) ? x : T(1.6732632423543772) * m::expm1(x < T(0) ? x : T(0)));
  }
  template <class T> static RETAPE_HD T slope(T x) {
    const T below = T(1.7580993408473766) * m::exp(x < T(0) ? x : T(0));
    return x > T(0) ? T(1.0507009873554805) : below;
  }
};
struct EluPlusOne {  // elu(x) + 1 (Katharopoulos et al. 2020), without the rounding that e^x - 1 + 1 suffers
  template <class T> static RETAPE_HD T value(T x) {
    const T below = m::exp(x > T(0) ? T(0) : x);
    return x > T(0) ? x + T(1) : below;
  }
  template <class T> static RETAPE_HD T slope_from_y(T y) { return y > T(1) ? T(1) : y; }
};
struct Mish {  // x tanh(softplus(x)) (Misra 2019); tanh(log(1 + e)) = (e^2 + 2 e) / (e^2 + 2 e + 2)
  template <class T> static RETAPE_HD T gate(T x) {
    const T e = m::exp(x < T(20) ? x : T(20)), n = e * e + T(2) * e;
    return n / (n + T(2));
  }
  template <class T> static RETAPE_HD T value(T x) { return x * gate(x); }
  template <class T> static RETAPE_HD T slope(T x) {
    const T g = gate(x);
    return g + x * (T(1) - g * g) / (T(1) + m::exp(-x));
  }
};
struct Hardsigmoid {  // clamp(x / 6 + 1 / 2, 0, 1)
  template <class T> static RETAPE_HD T value(T x) { return x < T(-3) ? T(0) : x > T(3) ? T(1) : x / T(6) + T(0.5); }
  template <class T> static RETAPE_HD T slope(T x) { return x > T(-3) && x < T(3) ? T(1.0 / 6) : T(0); }
};
struct Hardswish {  // x hardsigmoid(x) (Howard et al. 2019)
  template <class T> static RETAPE_HD T value(T x) { return x < T(-3) ? T(0) : x > T(3) ? x : x * (x + T(3)) / T(6); }
  template <class T> static RETAPE_HD T slope(T x) { return x <= T(-3) ? T(0) : x >= T(3) ? T(1) : x / T(3) + T(0.5); }
};
struct Relu6 {  // the slope at 0 and 6 is 0
  template <class T> static RETAPE_HD T value(T x) { return x > T(6) ? T(6) : x > T(0) ? x : x != x ? x : T(0); }
  template <class T> static RETAPE_HD T slope_from_y(T y) { return y > T(0) && y < T(6) ? T(1) : T(0); }
};
struct Tanhshrink {
  template <class T> static RETAPE_HD T value(T x) { return x - m::tanh(x); }
  template <class T> static RETAPE_HD T slope(T x) {
    const T t = m::tanh(x);
    return t * t;
  }
};

}  // namespace functor

// name, struct, range in which tests draw x (away from kinks and poles), torch's expression for the doc
#define RETAPE_UNARY_OPS(X)                                        \
  X(neg, Neg, -2, 2, "-x")                                         \
  X(abs, Abs, 0.1, 2, "|x|")                                       \
  X(sign, Sign, 0.1, 2, "-1, 0 or 1")                              \
  X(exp, Exp, -2, 2, "e^x")                                        \
  X(expm1, Expm1, -2, 2, "e^x - 1")                                \
  X(log, Log, 0.2, 3, "natural logarithm")                         \
  X(log1p, Log1p, -0.5, 2, "log(1 + x)")                           \
  X(sqrt, Sqrt, 0.2, 3, "square root")                             \
  X(rsqrt, Rsqrt, 0.2, 3, "1 / sqrt(x)")                           \
  X(square, Square, -2, 2, "x^2")                                  \
  X(reciprocal, Reciprocal, 0.4, 2, "1 / x")                       \
  X(sin, Sin, -3, 3, "sine")                                       \
  X(cos, Cos, -3, 3, "cosine")                                     \
  X(tanh, Tanh, -2, 2, "hyperbolic tangent")                       \
  X(sigmoid, Sigmoid, -4, 4, "1 / (1 + e^-x)")                     \
  X(erf, Erf, -2, 2, "error function")                             \
  X(relu, Relu, 0.1, 2, "max(x, 0)")                               \
  X(silu, Silu, -4, 4, "x sigmoid(x)")                             \
  X(softplus, Softplus, -4, 4, "log(1 + e^x)")                     \
  X(gelu, Gelu, -4, 4, "x Phi(x)")                                 \
  X(gelu_tanh, GeluTanh, -4, 4, "gelu by tanh")                    \
  X(floor, Floor, 0.1, 0.9, "round down")                          \
  X(ceil, Ceil, 0.1, 0.9, "round up")                              \
  X(round, Round, 0.1, 0.4, "round to even")                       \
  X(trunc, Trunc, 0.1, 0.9, "round towards 0")                     \
  X(frac, Frac, 0.1, 0.9, "x - trunc(x)")                          \
  X(exp2, Exp2, -2, 2, "2^x")                                      \
  X(log2, Log2, 0.2, 3, "logarithm to base 2")                     \
  X(log10, Log10, 0.2, 3, "logarithm to base 10")                  \
  X(tan, Tan, -1, 1, "tangent")                                    \
  X(asin, Asin, -0.8, 0.8, "inverse sine")                         \
  X(acos, Acos, -0.8, 0.8, "inverse cosine")                       \
  X(atan, Atan, -2, 2, "inverse tangent")                          \
  X(sinh, Sinh, -2, 2, "hyperbolic sine")                          \
  X(cosh, Cosh, -2, 2, "hyperbolic cosine")                        \
  X(asinh, Asinh, -2, 2, "inverse hyperbolic sine")                \
  X(acosh, Acosh, 1.2, 3, "inverse hyperbolic cosine")             \
  X(atanh, Atanh, -0.8, 0.8, "inverse hyperbolic tangent")         \
  X(erfc, Erfc, -2, 2, "1 - erf(x)")                               \
  X(erfinv, Erfinv, -0.8, 0.8, "inverse of erf")                   \
  X(lgamma, Lgamma, 0.3, 4, "log |gamma(x)|")                      \
  X(digamma, Digamma, 0.4, 4, "derivative of lgamma")              \
  X(logit, Logit, 0.1, 0.9, "log(x / (1 - x))")                    \
  X(logsigmoid, LogSigmoid, -4, 4, "log(sigmoid(x))")              \
  X(softsign, Softsign, 0.1, 2, "x / (1 + |x|)")                   \
  X(selu, Selu, -2, -0.1, "scaled exponential linear unit")        \
  X(elu_plus_one, EluPlusOne, -2, 2, "elu(x) + 1")                 \
  X(mish, Mish, -4, 4, "x tanh(softplus(x))")                      \
  X(hardsigmoid, Hardsigmoid, -2, 2, "clamp(x / 6 + 1 / 2, 0, 1)") \
  X(hardswish, Hardswish, -2, 2, "x hardsigmoid(x)")               \
  X(relu6, Relu6, 0.1, 5, "clamp(x, 0, 6)")                        \
  X(tanhshrink, Tanhshrink, -2, 2, "x - tanh(x)")

enum class UnaryKind : uint8_t {
#define RETAPE_X(name, ...) name,
  RETAPE_UNARY_OPS(RETAPE_X)
#undef RETAPE_X
};
constexpr const char* name_of(UnaryKind kind) {
  constexpr const char* names[] = {
#define RETAPE_X(name, ...) #name,
      RETAPE_UNARY_OPS(RETAPE_X)
#undef RETAPE_X
  };
  return names[int(kind)];
}
/// Does the slope need y (true) or x?
template <class F> constexpr bool slope_needs_y = requires { F::slope_from_y(1.0); };
template <class F, class T> RETAPE_HD T slope_of(T kept) {
  if constexpr (slope_needs_y<F>) return F::slope_from_y(kept);
  else return F::slope(kept);
}
constexpr bool keeps_y(UnaryKind kind) {
  switch (kind) {
#define RETAPE_X(name, F, ...) \
  case UnaryKind::name: return slope_needs_y<functor::F>;
    RETAPE_UNARY_OPS(RETAPE_X)
#undef RETAPE_X
  }
  return false;
}

}  // namespace retape
