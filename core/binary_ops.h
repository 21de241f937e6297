// Elementwise functions of two values, and comparisons: formulas that both devices share. Gradients of these few are written in
// autograd/binary.cpp, since they are ops themselves.
#pragma once
#include <retape/core/dtype.h>
#include <retape/core/simd_math.h>

namespace retape {

namespace functor {
template <class T> constexpr bool is_real = std::is_floating_point_v<T>;

struct Add {
  template <class T> static RETAPE_HD T value(T a, T b) { return T(a + b); }
};
struct Sub {
  template <class T> static RETAPE_HD T value(T a, T b) { return T(a - b); }
};
struct Mul {
  template <class T> static RETAPE_HD T value(T a, T b) { return T(a * b); }
};
struct Div {  // integers never come here: the op converts them to floating first
  template <class T> static RETAPE_HD T value(T a, T b) {
    if constexpr (is_real<T>) return a / b;
    else return b == T(0) ? T(0) : T(a / b);
  }
};
struct Maximum {  // nan wins
  template <class T> static RETAPE_HD T value(T a, T b) { return a != a ? a : b > a || b != b ? b : a; }
};
struct Minimum {
  template <class T> static RETAPE_HD T value(T a, T b) { return a != a ? a : b < a || b != b ? b : a; }
};
struct Pow {
  template <class T> static RETAPE_HD T value(T a, T b) {
    if constexpr (is_real<T>) return m::pow(a, b);
    else {
      if (b < T(0)) return a == T(1) ? T(1) : T(0);
      T y = 1;
      for (; b; b = T(b >> 1)) {
        if (b & 1) y = T(y * a);
        a = T(a * a);
      }
      return y;
    }
  }
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
}  // namespace functor

#define RETAPE_BINARY_OPS(X) \
  X(add, Add)                \
  X(sub, Sub)                \
  X(mul, Mul)                \
  X(div, Div)                \
  X(maximum, Maximum)        \
  X(minimum, Minimum)        \
  X(pow, Pow)
#define RETAPE_COMPARE_OPS(X) \
  X(eq, Equal)                \
  X(ne, NotEqual)             \
  X(lt, Less)                 \
  X(le, LessEqual)            \
  X(gt, Greater)              \
  X(ge, GreaterEqual)

enum class BinaryKind : uint8_t {
#define RETAPE_X(name, F) name,
  RETAPE_BINARY_OPS(RETAPE_X)
#undef RETAPE_X
};
enum class CompareKind : uint8_t {
#define RETAPE_X(name, F) name,
  RETAPE_COMPARE_OPS(RETAPE_X)
#undef RETAPE_X
};

}  // namespace retape
