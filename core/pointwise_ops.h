// Elementwise functions of one or two values and two numbers, p and q: activations with parameters, and losses before they are reduced. A
// new one is a struct and a line of the list, and its slopes, written with ops, in autograd/pointwise.cpp.
//
// `slope` is the derivative for the first value. A function of one value gets it twice.
#pragma once
#include <retape/core/simd_math.h>

namespace retape {

namespace functor {

struct Leaky {  // a, and b a below 0
  template <class T> static RETAPE_HD T value(T a, T b, T, T) { return a > T(0) ? a : b * a; }
  template <class T> static RETAPE_HD T slope(T a, T b, T, T) { return a > T(0) ? T(1) : b; }
};
struct Elu {  // a, and p (e^(q a) - 1) below 0
  template <class T> static RETAPE_HD T value(T a, T, T p, T q) {
    const T below = p * m::expm1(a > T(0) ? T(0) : a * q);
    return a > T(0) ? a : below;
  }
  template <class T> static RETAPE_HD T slope(T a, T, T p, T q) {
    const T below = p * q * m::exp(a > T(0) ? T(0) : a * q);
    return a > T(0) ? T(1) : below;
  }
};
struct Hardtanh {  // a between p and q
  template <class T> static RETAPE_HD T value(T a, T, T p, T q) { return a < p ? p : a > q ? q : a; }
  template <class T> static RETAPE_HD T slope(T a, T, T p, T q) { return a > p && a < q ? T(1) : T(0); }
};
struct Hardshrink {  // 0 from -p to p
  template <class T> static RETAPE_HD T value(T a, T, T p, T) { return a >= -p && a <= p ? T(0) : a; }
  template <class T> static RETAPE_HD T slope(T a, T, T p, T) { return a >= -p && a <= p ? T(0) : T(1); }
};
struct Softshrink {  // by p nearer to 0
  template <class T> static RETAPE_HD T value(T a, T, T p, T) { return a > p ? a - p : a < -p ? a + p : a * T(0); }
  template <class T> static RETAPE_HD T slope(T a, T, T p, T) { return a >= -p && a <= p ? T(0) : T(1); }
};
struct Threshold {  // a above p, else q
  template <class T> static RETAPE_HD T value(T a, T, T p, T q) { return a <= p ? q : a; }
  template <class T> static RETAPE_HD T slope(T a, T, T p, T) { return a <= p ? T(0) : T(1); }
};
struct ScaledSoftplus {  // log(1 + e^(p a)) / p, and a where p a is above q
  template <class T> static RETAPE_HD T value(T a, T, T p, T q) {
    const T x = p * a, soft = ((x > T(0) ? x : T(0)) + m::log1p(m::exp(-m::abs(x)))) / p;
    return x > q ? a : soft;
  }
  template <class T> static RETAPE_HD T slope(T a, T, T p, T q) {
    const T soft = T(1) / (T(1) + m::exp(-p * a));
    return p * a > q ? T(1) : soft;
  }
};
struct SmoothL1 {  // (a - b)^2 / (2 p) up to |a - b| = p, then linear
  template <class T> static RETAPE_HD T value(T a, T b, T p, T) {
    const T d = m::abs(a - b);
    return d < p ? T(0.5) * d * d / p : d - T(0.5) * p;
  }
  template <class T> static RETAPE_HD T slope(T a, T b, T p, T) {
    const T d = a - b;
    return d <= -p ? T(-1) : d >= p ? T(1) : d / p;
  }
};
struct Huber {  // (a - b)^2 / 2 up to |a - b| = p, then linear
  template <class T> static RETAPE_HD T value(T a, T b, T p, T) {
    const T d = m::abs(a - b);
    return d <= p ? T(0.5) * d * d : p * (d - T(0.5) * p);
  }
  template <class T> static RETAPE_HD T slope(T a, T b, T p, T) {
    const T d = a - b;
    return d < -p ? -p : d > p ? p : d;
  }
};
constexpr double least_spread = double(1e-12f);  // PyTorch's
struct BinaryCrossEntropy {                      // of the probability a and the target b; logarithms are at least -100
  template <class T> static RETAPE_HD T value(T a, T b, T, T) {
    const T yes = m::log(a), no = m::log1p(-a);
    return (b - T(1)) * (no < T(-100) ? T(-100) : no) - b * (yes < T(-100) ? T(-100) : yes);
  }
  template <class T> static RETAPE_HD T slope(T a, T b, T, T) {
    const T spread = a * (T(1) - a);
    return (a - b) / (spread < T(least_spread) ? T(least_spread) : spread);
  }
};
struct BinaryCrossEntropyWithLogits {  // of the logit a and the target b
  template <class T> static RETAPE_HD T value(T a, T b, T, T) { return (a > T(0) ? a : a * T(0)) - a * b + m::log1p(m::exp(-m::abs(a))); }
  template <class T> static RETAPE_HD T slope(T a, T b, T, T) { return T(1) / (T(1) + m::exp(-a)) - b; }
};

}  // namespace functor

#define RETAPE_POINTWISE_OPS(X)               \
  X(leaky_relu, Leaky)                        \
  X(elu, Elu)                                 \
  X(hardtanh, Hardtanh)                       \
  X(hardshrink, Hardshrink)                   \
  X(softshrink, Softshrink)                   \
  X(threshold, Threshold)                     \
  X(softplus, ScaledSoftplus)                 \
  X(smooth_l1_loss, SmoothL1)                 \
  X(huber_loss, Huber)                        \
  X(binary_cross_entropy, BinaryCrossEntropy) \
  X(binary_cross_entropy_with_logits, BinaryCrossEntropyWithLogits)

enum class PointwiseKind : uint8_t {
#define RETAPE_X(name, F) name,
  RETAPE_POINTWISE_OPS(RETAPE_X)
#undef RETAPE_X
};

}  // namespace retape
