// Arithmetic and comparisons of two tensors. Shapes broadcast and dtypes promote as in NumPy and PyTorch; a plain number takes the
// tensor's dtype (an integer tensor with a fractional number becomes f32), a 0-dim tensor takes part like a number of its kind.
#pragma once
#include <optional>
#include <type_traits>

#include <retape/core/tensor.h>

namespace retape {

/// A number or a tensor: lets every function below take either. Converts from arithmetic types.
class Operand {
 public:
  Operand(const Tensor& t) : tensor_(&t) {}
  template <class T>
  requires std::is_arithmetic_v<T> Operand(T v) : value_(double(v)), fractional_(std::is_floating_point_v<T>) {}
  const Tensor* tensor() const { return tensor_; }  ///< null for a number
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
enum class Rounding : uint8_t { none, trunc, floor };
/// The quotient, rounded; integers stay integers then, and throw Error for a divisor of 0. A rounded quotient has gradient 0.
/// torch: div(rounding_mode), floor_divide.
Tensor div(const Operand& a, const Operand& b, Rounding rounding);
Tensor floor_divide(const Operand& a, const Operand& b);
/// What division leaves: with the sign of a (fmod), or of b as Python's % (remainder). Integers throw Error for a divisor of 0.
Tensor fmod(const Operand& a, const Operand& b);
Tensor remainder(const Operand& a, const Operand& b);
/// Elementwise; nan wins. Equal values share the gradient. torch: maximum, minimum.
Tensor maximum(const Operand& a, const Operand& b);
Tensor minimum(const Operand& a, const Operand& b);
/// The same where nan loses. torch: fmax, fmin.
Tensor fmax(const Operand& a, const Operand& b);
Tensor fmin(const Operand& a, const Operand& b);
/// x limited to [low, high]; each may be a tensor, and an infinite number is no limit. Integers become f32 if a limit is fractional.
/// torch: clamp.
Tensor clamp(const Tensor& x, const Operand& low, const Operand& high);
/// The angle of the point (b, a); sqrt(a^2 + b^2); |a| with the sign of b; log(e^a + e^b); a log(b), and 0 where a is 0. Integers
/// give f32. torch: atan2, hypot, copysign, logaddexp, xlogy.
Tensor atan2(const Operand& a, const Operand& b);
Tensor hypot(const Operand& a, const Operand& b);
Tensor copysign(const Operand& a, const Operand& b);
Tensor logaddexp(const Operand& a, const Operand& b);
Tensor xlogy(const Operand& a, const Operand& b);
/// 1 where a > 0, b where a is 0, else 0. Has no gradient: backward through it throws Error. torch: heaviside.
Tensor heaviside(const Operand& a, const Operand& b);
/// start + weight * (end - start). torch: lerp.
Tensor lerp(const Tensor& start, const Tensor& end, const Operand& weight);
/// x + value * a * b, x + value * a / b. torch: addcmul, addcdiv.
Tensor addcmul(const Tensor& x, const Tensor& a, const Tensor& b, double value = 1);
Tensor addcdiv(const Tensor& x, const Tensor& a, const Tensor& b, double value = 1);

/// Bits of integers and bools; Error for floating tensors. A shift by a negative number or by all bits and more leaves 0 (-1 for a
/// negative number shifted to the right). torch: bitwise_and, ...
Tensor bitwise_and(const Operand& a, const Operand& b);
Tensor bitwise_or(const Operand& a, const Operand& b);
Tensor bitwise_xor(const Operand& a, const Operand& b);
Tensor bitwise_not(const Tensor& x);
Tensor bitwise_left_shift(const Operand& a, const Operand& b);
Tensor bitwise_right_shift(const Operand& a, const Operand& b);

/// Comparisons give bool tensors, which have no gradient.
Tensor eq(const Operand& a, const Operand& b);
Tensor ne(const Operand& a, const Operand& b);
Tensor lt(const Operand& a, const Operand& b);
Tensor le(const Operand& a, const Operand& b);
Tensor gt(const Operand& a, const Operand& b);
Tensor ge(const Operand& a, const Operand& b);
/// Any dtype; what is not 0 counts as true.
Tensor logical_not(const Tensor& x);
Tensor logical_and(const Operand& a, const Operand& b);
Tensor logical_or(const Operand& a, const Operand& b);
Tensor logical_xor(const Operand& a, const Operand& b);
Tensor isnan(const Tensor& x);
Tensor isinf(const Tensor& x);
Tensor isfinite(const Tensor& x);
/// |a - b| <= atol + rtol |b|, equal infinities included. torch: isclose.
Tensor isclose(const Tensor& a, const Tensor& b, double rtol = 1e-5, double atol = 1e-8, bool equal_nan = false);
/// Are all elements close; are shapes and all elements equal? torch: allclose, equal.
bool allclose(const Tensor& a, const Tensor& b, double rtol = 1e-5, double atol = 1e-8, bool equal_nan = false);
bool equal(const Tensor& a, const Tensor& b);

/// a where condition (bool) is true, else b; all three broadcast. torch: where.
Tensor where(const Tensor& condition, const Operand& a, const Operand& b);
/// x with `value` wherever mask (bool, broadcast to x) is true. torch: masked_fill.
Tensor masked_fill(const Tensor& x, const Tensor& mask, double value);

/// nan, inf and -inf replaced; by default the latter by the dtype's largest and lowest numbers. torch: nan_to_num.
Tensor nan_to_num(const Tensor& x, double nan = 0, std::optional<double> posinf = {}, std::optional<double> neginf = {});

inline Tensor operator+(const Tensor& a, const Tensor& b) { return add(a, b); }
inline Tensor operator-(const Tensor& a, const Tensor& b) { return sub(a, b); }
inline Tensor operator*(const Tensor& a, const Tensor& b) { return mul(a, b); }
inline Tensor operator/(const Tensor& a, const Tensor& b) { return div(a, b); }
inline Tensor operator%(const Tensor& a, const Tensor& b) { return remainder(a, b); }
inline Tensor operator&(const Tensor& a, const Tensor& b) { return bitwise_and(a, b); }
inline Tensor operator|(const Tensor& a, const Tensor& b) { return bitwise_or(a, b); }
inline Tensor operator^(const Tensor& a, const Tensor& b) { return bitwise_xor(a, b); }
inline Tensor operator~(const Tensor& x) { return bitwise_not(x); }
#define RETAPE_NUMBER_OPERATOR(op, name)                                                           \
  template <class T>                                                                               \
  requires std::is_arithmetic_v<T> Tensor operator op(const Tensor& a, T b) { return name(a, b); } \
  template <class T>                                                                               \
  requires std::is_arithmetic_v<T> Tensor operator op(T a, const Tensor& b) { return name(a, b); }
RETAPE_NUMBER_OPERATOR(+, add)
RETAPE_NUMBER_OPERATOR(-, sub)
RETAPE_NUMBER_OPERATOR(*, mul)
RETAPE_NUMBER_OPERATOR(/, div)
RETAPE_NUMBER_OPERATOR(%, remainder)
RETAPE_NUMBER_OPERATOR(&, bitwise_and)
RETAPE_NUMBER_OPERATOR(|, bitwise_or)
RETAPE_NUMBER_OPERATOR(^, bitwise_xor)
#undef RETAPE_NUMBER_OPERATOR

/// x += y means x = x + y: the handle is rebound, no memory is written, and other handles on the old value keep it.
inline Tensor& operator+=(Tensor& a, const Operand& b) { return a = add(a, b); }
inline Tensor& operator-=(Tensor& a, const Operand& b) { return a = sub(a, b); }
inline Tensor& operator*=(Tensor& a, const Operand& b) { return a = mul(a, b); }
inline Tensor& operator/=(Tensor& a, const Operand& b) { return a = div(a, b); }

}  // namespace retape
