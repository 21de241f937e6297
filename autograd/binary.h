// Arithmetic and comparisons of two tensors. Shapes broadcast and dtypes promote as in NumPy and PyTorch; a plain number takes the
// tensor's dtype (an integer tensor with a fractional number becomes f32), a 0-dim tensor takes part like a number of its kind.
#pragma once
#include <type_traits>

#include <retape/core/tensor.h>

namespace retape {

/// A number or a tensor: lets every function below take either. Converts from arithmetic types.
class Operand {
 public:
  Operand(const Tensor& t) : tensor_(&t) {}
  template <class T>
  requires std::is_arithmetic_v<T> Operand(T v) : value_(double(v)), fractional_(std::is_floating_point_v<T>) {}
  const Tensor* tensor() const { return tensor_; }
  double value() const { return value_; }
  bool fractional() const { return fractional_; }

 private:
  const Tensor* tensor_ = nullptr;
  double value_ = 0;
  bool fractional_ = false;
};

Tensor add(const Operand& a, const Operand& b);
Tensor sub(const Operand& a, const Operand& b);
Tensor mul(const Operand& a, const Operand& b);
/// True division: integers give f32.
Tensor div(const Operand& a, const Operand& b);
/// a^b. The gradient for b exists where a > 0. torch: pow.
Tensor pow(const Operand& a, const Operand& b);
/// Elementwise; nan wins. Equal values share the gradient. torch: maximum, minimum.
Tensor maximum(const Operand& a, const Operand& b);
Tensor minimum(const Operand& a, const Operand& b);
/// x limited to [low, high]. torch: clamp.
Tensor clamp(const Tensor& x, double low, double high);

/// Comparisons give bool tensors, which have no gradient.
Tensor eq(const Operand& a, const Operand& b);
Tensor ne(const Operand& a, const Operand& b);
Tensor lt(const Operand& a, const Operand& b);
Tensor le(const Operand& a, const Operand& b);
Tensor gt(const Operand& a, const Operand& b);
Tensor ge(const Operand& a, const Operand& b);
Tensor logical_not(const Tensor& x);
Tensor logical_and(const Tensor& a, const Tensor& b);
Tensor logical_or(const Tensor& a, const Tensor& b);

/// a where condition (bool) is true, else b; all three broadcast. torch: where.
Tensor where(const Tensor& condition, const Operand& a, const Operand& b);
/// x with `value` wherever mask (bool, broadcast to x) is true. torch: masked_fill.
Tensor masked_fill(const Tensor& x, const Tensor& mask, double value);

inline Tensor operator+(const Tensor& a, const Tensor& b) { return add(a, b); }
inline Tensor operator-(const Tensor& a, const Tensor& b) { return sub(a, b); }
inline Tensor operator*(const Tensor& a, const Tensor& b) { return mul(a, b); }
inline Tensor operator/(const Tensor& a, const Tensor& b) { return div(a, b); }
#define RETAPE_NUMBER_OPERATOR(op, name)                                                           \
  template <class T>                                                                               \
  requires std::is_arithmetic_v<T> Tensor operator op(const Tensor& a, T b) { return name(a, b); } \
  template <class T>                                                                               \
  requires std::is_arithmetic_v<T> Tensor operator op(T a, const Tensor& b) { return name(a, b); }
RETAPE_NUMBER_OPERATOR(+, add)
RETAPE_NUMBER_OPERATOR(-, sub)
RETAPE_NUMBER_OPERATOR(*, mul)
RETAPE_NUMBER_OPERATOR(/, div)
#undef RETAPE_NUMBER_OPERATOR

/// x += y means x = x + y: the handle is rebound, no memory is written, and other handles on the old value keep it.
inline Tensor& operator+=(Tensor& a, const Operand& b) { return a = add(a, b); }
inline Tensor& operator-=(Tensor& a, const Operand& b) { return a = sub(a, b); }
inline Tensor& operator*=(Tensor& a, const Operand& b) { return a = mul(a, b); }
inline Tensor& operator/=(Tensor& a, const Operand& b) { return a = div(a, b); }

}  // namespace retape
