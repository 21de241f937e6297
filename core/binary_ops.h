// Elementwise functions of two values, and comparisons: formulas that both devices share. Gradients of these few are written in
// autograd/binary.cpp, since they are ops themselves.
#pragma once
#include <retape/core/dtype.h>
#include <retape/core/simd_math.h>

namespace retape {

namespace functor {
template <class T> constexpr bool is_real = std::is_floating_point_v<T>;
// Integers wrap around: signed overflow would be undefined.
template <class T> struct Wrapping { using type = T; };
template <> struct Wrapping<int32_t> { using type = uint32_t; };
template <> struct Wrapping<int64_t> { using type = uint64_t; };
template <class T> using wrapping = typename Wrapping<T>::type;
template <class T> RETAPE_HD bool is_nan(T x) { return x != x; }

struct Add {
  template <class T> static RETAPE_HD T value(T a, T b) { return T(wrapping<T>(a) + wrapping<T>(b)); }
};
struct Sub {
  template <class T> static RETAPE_HD T value(T a, T b) { return T(wrapping<T>(a) - wrapping<T>(b)); }
};
struct Mul {
  template <class T> static RETAPE_HD T value(T a, T b) { return T(wrapping<T>(a) * wrapping<T>(b)); }
};
struct TruncDivide {  // for integers, / by 0 gives 0: the op has refused that before
  template <class T> static RETAPE_HD T value(T a, T b) {
    if constexpr (is_real<T>) return m::trunc(a / b);
    else return b == T(0) ? T(0) : std::is_signed_v<T> && b == T(-1) ? Sub::value(T(0), a) : T(a / b);
  }
};
struct FloorDivide {
  template <class T> static RETAPE_HD T value(T a, T b) {
    if constexpr (is_real<T>) {  // as Python: what fmod leaves decides, where a / b would round up to the next integer
      if (b == T(0)) return a / b;
      T rest = m::fmod(a, b), q = (a - rest) / b;
      if (rest != T(0) && (b < T(0)) != (rest < T(0))) q -= T(1);
      if (q == T(0)) return m::copysign(T(0), a / b);
      const T floored = m::floor(q);
      return q - floored > T(0.5) ? floored + T(1) : floored;
    } else {
      const T q = TruncDivide::value(a, b), rest = Sub::value(a, Mul::value(q, b));
      return b != T(0) && rest != T(0) && (rest < T(0)) != (b < T(0)) ? T(q - T(1)) : q;
    }
  }
};
struct Fmod {  // the sign of a
  template <class T> static RETAPE_HD T value(T a, T b) {
    if constexpr (is_real<T>) return m::fmod(a, b);
    else return Sub::value(a, Mul::value(TruncDivide::value(a, b), b));
  }
};
struct Remainder {  // the sign of b
  template <class T> static RETAPE_HD T value(T a, T b) {
    const T rest = Fmod::value(a, b);
    return rest != T(0) && (rest < T(0)) != (b < T(0)) ? T(rest + b) : rest;
  }
};
struct Div {  // integers never come here: the op converts them to floating first
  template <class T> static RETAPE_HD T value(T a, T b) {
    if constexpr (is_real<T>) return a / b;
    else return TruncDivide::value(a, b);
  }
};
struct Maximum {  // nan wins
  template <class T> static RETAPE_HD T value(T a, T b) { return is_nan(a) ? a : b > a || is_nan(b) ? b : a; }
};
struct Minimum {
  template <class T> static RETAPE_HD T value(T a, T b) { return is_nan(a) ? a : b < a || is_nan(b) ? b : a; }
};
struct Fmax {  // nan loses
  template <class T> static RETAPE_HD T value(T a, T b) { return is_nan(a) || b > a ? b : a; }
};
struct Fmin {
  template <class T> static RETAPE_HD T value(T a, T b) { return is_nan(a) || b < a ? b : a; }
};
struct Pow {
  template <class T> static RETAPE_HD T value(T a, T b) {
    if constexpr (is_real<T>) return m::pow(a, b);
    else {
      if (b < T(0)) return a == T(1) ? T(1) : T(0);
      T y = 1;
      for (; b; b = T(b >> 1)) {
        if (b & 1) y = Mul::value(y, a);
        a = Mul::value(a, a);
      }
      return y;
    }
  }
};
// Functions of floating values; the ops convert integers first.
struct Atan2 {
  template <class T> static RETAPE_HD T value(T a, T b) { return T(m::atan2(a, b)); }
};
struct Hypot {
  template <class T> static RETAPE_HD T value(T a, T b) { return T(m::hypot(a, b)); }
};
struct Copysign {
  template <class T> static RETAPE_HD T value(T a, T b) { return T(m::copysign(a, b)); }
};
struct Logaddexp {
  template <class T> static RETAPE_HD T value(T a, T b) {
    const T high = a > b ? a : b, low = a > b ? b : a;
    return high == low ? high + T(0.6931471805599453) : high + m::log1p(m::exp(low - high));
  }
};
struct Xlogy {
  template <class T> static RETAPE_HD T value(T a, T b) { return is_nan(b) ? b : a == T(0) ? T(0) : a * m::log(b); }
};
struct Heaviside {
  template <class T> static RETAPE_HD T value(T a, T b) { return a == T(0) ? b : a > T(0) ? T(1) : T(0); }
};
// Bits, of integers and bools.
struct BitwiseAnd {
  template <class T> static RETAPE_HD T value(T a, T b) { return T(a & b); }
};
struct BitwiseOr {
  template <class T> static RETAPE_HD T value(T a, T b) { return T(a | b); }
};
struct BitwiseXor {
  template <class T> static RETAPE_HD T value(T a, T b) { return T(a ^ b); }
};
struct LeftShift {
  template <class T> static RETAPE_HD T value(T a, T b) { return b < T(0) || b >= T(8 * sizeof(T)) ? T(0) : T(wrapping<T>(a) << b); }
};
struct RightShift {  // of negative numbers too: rounds down
  template <class T> static RETAPE_HD T value(T a, T b) { return b < T(0) || b >= T(8 * sizeof(T)) ? T(a < T(0) ? -1 : 0) : T(a >> b); }
};

struct Equal {
  template <class T> static RETAPE_HD bool value(T a, T b) { return a == b; }
};
struct NotEqual {
  template <class T> static RETAPE_HD bool value(T a, T b) { return a != b; }
};
struct Less {
  template <class T> static RETAPE_HD bool value(T a, T b) { return a < b; }
};
struct LessEqual {
  template <class T> static RETAPE_HD bool value(T a, T b) { return a <= b; }
};
struct Greater {
  template <class T> static RETAPE_HD bool value(T a, T b) { return a > b; }
};
struct GreaterEqual {
  template <class T> static RETAPE_HD bool value(T a, T b) { return a >= b; }
};
struct And {
  template <class T> static RETAPE_HD bool value(T a, T b) { return a != T(0) && b != T(0); }
};
struct Or {
  template <class T> static RETAPE_HD bool value(T a, T b) { return a != T(0) || b != T(0); }
};
struct Xor {
  template <class T> static RETAPE_HD bool value(T a, T b) { return (a != T(0)) != (b != T(0)); }
};
}  // namespace functor

// Of all types; of floating ones; of integers and bools.
#define RETAPE_ARITHMETIC_OPS(X) \
  X(add, Add)                    \
  X(sub, Sub)                    \
  X(mul, Mul)                    \
  X(div, Div)                    \
  X(floor_divide, FloorDivide)   \
  X(trunc_divide, TruncDivide)   \
  X(fmod, Fmod)                  \
  X(remainder, Remainder)        \
  X(maximum, Maximum)            \
  X(minimum, Minimum)            \
  X(pow, Pow)
#define RETAPE_FLOATING_OPS(X) \
  X(fmax, Fmax)                \
  X(fmin, Fmin)                \
  X(atan2, Atan2)              \
  X(hypot, Hypot)              \
  X(copysign, Copysign)        \
  X(logaddexp, Logaddexp)      \
  X(xlogy, Xlogy)              \
  X(heaviside, Heaviside)
#define RETAPE_BIT_OPS(X)          \
  X(bitwise_and, BitwiseAnd)       \
  X(bitwise_or, BitwiseOr)         \
  X(bitwise_xor, BitwiseXor)       \
  X(bitwise_left_shift, LeftShift) \
  X(bitwise_right_shift, RightShift)
#define RETAPE_COMPARE_OPS(X) \
  X(eq, Equal)                \
  X(ne, NotEqual)             \
  X(lt, Less)                 \
  X(le, LessEqual)            \
  X(gt, Greater)              \
  X(ge, GreaterEqual)         \
  X(logical_and, And)         \
  X(logical_or, Or)           \
  X(logical_xor, Xor)

enum class BinaryKind : uint8_t {
#define RETAPE_X(name, F) name,
  RETAPE_ARITHMETIC_OPS(RETAPE_X) RETAPE_FLOATING_OPS(RETAPE_X) RETAPE_BIT_OPS(RETAPE_X)
#undef RETAPE_X
};
enum class CompareKind : uint8_t {
#define RETAPE_X(name, F) name,
  RETAPE_COMPARE_OPS(RETAPE_X)
#undef RETAPE_X
};

}  // namespace retape
