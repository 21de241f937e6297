// Elementwise functions of one value: the formula, its slope, and one list. A new one is a struct and a line of the list; the
// CPU and CUDA kernels, the fused backward, second derivatives, the public function, tests and benchmarks expand from it.
//
// `slope(x)` needs the input, `slope_from_y(y)` the output: the name says what the tape keeps. Run on a Dual number, the slope
// gives the second derivative. T is float or double.
#pragma once
#include <retape/core/simd_math.h>

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

}  // namespace functor

// name, struct, range in which tests draw x (away from kinks and poles), torch's expression for the doc
#define RETAPE_UNARY_OPS(X)                     \
  X(neg, Neg, -2, 2, "-x")                      \
  X(abs, Abs, 0.1, 2, "|x|")                    \
  X(sign, Sign, 0.1, 2, "-1, 0 or 1")           \
  X(exp, Exp, -2, 2, "e^x")                     \
  X(expm1, Expm1, -2, 2, "e^x - 1")             \
  X(log, Log, 0.2, 3, "natural logarithm")      \
  X(log1p, Log1p, -0.5, 2, "log(1 + x)")        \
  X(sqrt, Sqrt, 0.2, 3, "square root")          \
  X(rsqrt, Rsqrt, 0.2, 3, "1 / sqrt(x)")        \
  X(square, Square, -2, 2, "x^2")               \
  X(reciprocal, Reciprocal, 0.4, 2, "1 / x")    \
  X(sin, Sin, -3, 3, "sine")                    \
  X(cos, Cos, -3, 3, "cosine")                  \
  X(tanh, Tanh, -2, 2, "hyperbolic tangent")    \
  X(sigmoid, Sigmoid, -4, 4, "1 / (1 + e^-x)")  \
  X(erf, Erf, -2, 2, "error function")          \
  X(relu, Relu, 0.1, 2, "max(x, 0)")            \
  X(silu, Silu, -4, 4, "x sigmoid(x)")          \
  X(softplus, Softplus, -4, 4, "log(1 + e^x)")  \
  X(gelu, Gelu, -4, 4, "x Phi(x)")              \
  X(gelu_tanh, GeluTanh, -4, 4, "gelu by tanh") \
  X(floor, Floor, 0.1, 0.9, "round down")       \
  X(ceil, Ceil, 0.1, 0.9, "round up")           \
  X(round, Round, 0.1, 0.4, "round to even")

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
