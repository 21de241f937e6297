#include <retape/autograd/binary.h>

#include <fmt/format.h>

#include <cmath>
#include <limits>

#include <retape/autograd/check.h>
#include <retape/autograd/reduce.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/unary.h>
#include <retape/autograd/views.h>

namespace retape {
namespace {

Tensor broadcast_view(const Tensor& x, const Shape& shape) {
  if (x.shape() == shape) return x;
  Layout l = x->layout;
  const int skip = shape.rank() - x.dim();
  l.shape = shape;
  l.strides = Shape::filled(shape.rank(), 0);
  for (int d = skip; d < shape.rank(); ++d)
    if (x.shape()[d - skip] == shape[d]) l.strides[d] = x.strides()[d - skip];
  return make_tensor(x->storage, l);
}

struct Pair {
  Tensor a, b;
};
// A number or a 0-dim tensor takes part only with its kind: bool < integer < floating.
int kind_of(DType d) { return is_floating(d) ? 2 : d == DType::boolean ? 0 : 1; }
DType with_number(DType tensor, bool fractional) {
  if (fractional && !is_floating(tensor)) return DType::f32;
  return tensor == DType::boolean ? DType::i64 : tensor;
}
DType common_dtype(const Tensor& a, const Tensor& b) {
  if (a.dtype() == b.dtype()) return a.dtype();
  if ((a.dim() == 0) != (b.dim() == 0)) {
    const Tensor &scalar = a.dim() == 0 ? a : b, &other = a.dim() == 0 ? b : a;
    if (kind_of(scalar.dtype()) <= kind_of(other.dtype())) return other.dtype();
  }
  return promote(a.dtype(), b.dtype());
}
// Both operands as tensors of one dtype.
Pair operands(const char* name, const Operand& a, const Operand& b) {
  for (const Operand* o : {&a, &b})
    if (o->tensor() && !*o->tensor()) throw Error(fmt::format("{}: an operand is an undefined tensor", name));
  if (a.tensor() && b.tensor()) {
    const DType dtype = common_dtype(*a.tensor(), *b.tensor());
    return {cast(*a.tensor(), dtype), cast(*b.tensor(), dtype)};
  }
  const Operand &t = a.tensor() ? a : b, &number = a.tensor() ? b : a;
  if (!t.tensor()) throw Error(fmt::format("{}: at least one operand must be a tensor", name));
  const DType dtype = with_number(t.tensor()->dtype(), number.fractional());
  const Tensor x = cast(*t.tensor(), dtype), n = full({}, number.value(), {dtype, x.device()});
  return a.tensor() ? Pair{x, n} : Pair{n, x};
}

// The order in memory of a result of this shape: that of the operands that are as large.
MemoryFormat format_of(const Shape& shape, const Tensor& a, const Tensor& b) {
  const auto last = [&](const Tensor& x) { return x.memory_format() == MemoryFormat::channels_last && x.shape() == shape; };
  return last(a) || last(b) ? MemoryFormat::channels_last : MemoryFormat::contiguous;
}
template <class F> Tensor broadcast_kernel(const char* name, const Tensor& a, const Tensor& b, DType dtype, F&& run) {
  check_one_device(name, a, b);
  const Shape shape = a.shape() == b.shape() ? a.shape() : broadcast_shapes(name, a.shape(), b.shape());
  Tensor y = empty(shape, {dtype, a.device()}, format_of(shape, a, b));
  if (a.shape() == shape && b.shape() == shape) run(a, b, y);
  else run(broadcast_view(a, shape), broadcast_view(b, shape), y);
  return y;
}
Tensor binary_kernel(const char* name, BinaryKind kind, const Tensor& a, const Tensor& b) {
  return broadcast_kernel(name, a, b, a.dtype(),
                          [&](const Tensor& p, const Tensor& q, Tensor& y) { RETAPE_DISPATCH(y.device(), binary(kind, p, q, y)); });
}

// A gradient that nobody wants is not computed; Grads sums what was broadcast.
struct Add {
  static constexpr auto name = "add";
  static constexpr bool elementwise = true;
  Tensor forward(const Tensor& a, const Tensor& b) { return binary_kernel(name, BinaryKind::add, a, b); }
  void backward(const Tensor& dy, Grads& dx) { dx.set(0, dy), dx.set(1, dy); }
};
struct Sub {
  static constexpr auto name = "sub";
  static constexpr bool elementwise = true;
  Tensor forward(const Tensor& a, const Tensor& b) { return binary_kernel(name, BinaryKind::sub, a, b); }
  void backward(const Tensor& dy, Grads& dx) {
    dx.set(0, dy);
    if (dx.wants(1)) dx.set(1, neg(dy));
  }
};
struct Mul {
  static constexpr auto name = "mul";
  static constexpr bool elementwise = true;
  Saved a = {}, b = {};
  Tensor forward(const Tensor& x, const Tensor& y) {
    a = save(x, 1), b = save(y, 0);
    return binary_kernel(name, BinaryKind::mul, x, y);
  }
  void backward(const Tensor& dy, Grads& dx) {
    if (dx.wants(0)) dx.set(0, record(Mul{}, dy, *b));
    if (dx.wants(1)) dx.set(1, record(Mul{}, dy, *a));
  }
};
struct Div {
  static constexpr auto name = "div";
  static constexpr bool elementwise = true;
  Saved a = {}, b = {};
  Tensor forward(const Tensor& x, const Tensor& y) {
    a = save(x, 1), b = save(y);
    return binary_kernel(name, BinaryKind::div, x, y);
  }
  void backward(const Tensor& dy, Grads& dx) {
    if (dx.wants(0)) dx.set(0, record(Div{}, dy, *b));
    if (dx.wants(1)) dx.set(1, neg(dy * *a) / square(*b));
  }
};
struct Pow {
  static constexpr auto name = "pow";
  static constexpr bool elementwise = true;
  static constexpr auto precision = Precision::full;
  Saved a = {}, b = {};
  Tensor forward(const Tensor& x, const Tensor& y) {
    a = save(x), b = save(y);
    return binary_kernel(name, BinaryKind::pow, x, y);
  }
  void backward(const Tensor& dy, Grads& dx) {
    const Tensor x = *a, p = *b;
    if (dx.wants(0)) dx.set(0, dy * where(eq(p, 0), 0, p * pow(x, p - 1)));  // 0 * 0^-1 would be nan
    if (dx.wants(1)) dx.set(1, dy * where(logical_and(eq(x, 0), ge(p, 0)), 0, pow(x, p) * log(x)));
  }
};
struct Extremum {  // maximum or minimum; ties share the gradient
  static constexpr bool elementwise = true;
  const char* name;
  BinaryKind kind;
  Saved a = {}, b = {};
  Tensor forward(const Tensor& x, const Tensor& y) {
    a = save(x), b = save(y);
    return binary_kernel(name, kind, x, y);
  }
  void backward(const Tensor& dy, Grads& dx) {
    const Tensor x = *a, y = *b, half = mul(cast(eq(x, y), dy.dtype()), 0.5);
    const bool larger = kind == BinaryKind::maximum;
    if (dx.wants(0)) dx.set(0, dy * (cast(larger ? gt(x, y) : lt(x, y), dy.dtype()) + half));
    if (dx.wants(1)) dx.set(1, dy * (cast(larger ? gt(y, x) : lt(y, x), dy.dtype()) + half));
  }
};
// A function that is constant between jumps: its gradient is 0 for a, and for b what `slope` makes of both (null: 0, too).
struct Jumping {
  static constexpr bool elementwise = true;
  const char* name;
  BinaryKind kind;
  bool passes_a = false;  // the gradient of a is dy
  Tensor (*slope_b)(const Tensor& a, const Tensor& b) = nullptr;
  Saved a = {}, b = {};
  Tensor forward(const Tensor& x, const Tensor& y) {
    if (slope_b) a = save(x, 1), b = save(y, 1);
    return binary_kernel(name, kind, x, y);
  }
  void backward(const Tensor& dy, Grads& dx) {
    if (passes_a) dx.set(0, dy);
    else dx.none(0);
    if (!slope_b) dx.none(1);
    else if (dx.wants(1)) dx.set(1, dy * slope_b(*a, *b));
  }
};
// A function whose two slopes are written with other ops.
struct Smooth {
  static constexpr bool elementwise = true;
  const char* name;
  BinaryKind kind;
  Tensor (*slope_a)(const Tensor& a, const Tensor& b);
  Tensor (*slope_b)(const Tensor& a, const Tensor& b);
  Saved a = {}, b = {};
  Tensor forward(const Tensor& x, const Tensor& y) {
    a = save(x), b = save(y);
    return binary_kernel(name, kind, x, y);
  }
  void backward(const Tensor& dy, Grads& dx) {
    if (dx.wants(0)) dx.set(0, dy * slope_a(*a, *b));
    if (dx.wants(1)) dx.set(1, dy * slope_b(*a, *b));
  }
};
struct Undifferentiable {
  const char* name;
  BinaryKind kind;
  Tensor forward(const Tensor& x, const Tensor& y) { return binary_kernel(name, kind, x, y); }
  void backward(const Tensor&, Grads&) {
    throw Error(fmt::format("{}: has no gradient; detach() its inputs, or write it with ops that have one", name));
  }
};
struct Bits {
  const char* name;
  BinaryKind kind;
  static constexpr int differentiable = 0;
  Tensor forward(const Tensor& x, const Tensor& y) { return binary_kernel(name, kind, x, y); }
};
struct Compare {
  const char* name;
  CompareKind kind;
  static constexpr int differentiable = 0;
  Tensor forward(const Tensor& a, const Tensor& b) {
    return broadcast_kernel(name, a, b, DType::boolean,
                            [&](const Tensor& p, const Tensor& q, Tensor& y) { RETAPE_DISPATCH(y.device(), compare(kind, p, q, y)); });
  }
};
struct Where {
  static constexpr auto name = "where";
  static constexpr bool elementwise = true;
  Saved condition = {};
  Tensor forward(const Tensor& c, const Tensor& a, const Tensor& b) {
    check_one_device(name, a, b), check_one_device(name, c, a);
    condition = save(c);
    const Shape shape = broadcast_shapes(name, c.shape(), broadcast_shapes(name, a.shape(), b.shape()));
    Tensor y = empty(shape, a.options(), format_of(shape, a, b));
    RETAPE_DISPATCH(y.device(), where(broadcast_view(c, shape), broadcast_view(a, shape), broadcast_view(b, shape), y));
    return y;
  }
  void backward(const Tensor& dy, Grads& dx) {
    const Tensor c = *condition;
    if (dx.wants(1)) dx.set(1, where(c, dy, 0));
    if (dx.wants(2)) dx.set(2, where(c, 0, dy));
  }
};

bool is_integer(const Tensor& x) { return !is_floating(x.dtype()); }
// Integers as f32.
Pair floating(Pair p) { return is_integer(p.a) ? Pair{cast(p.a, DType::f32), cast(p.b, DType::f32)} : p; }
Pair divisible(const char* name, const Operand& a, const Operand& b) {
  const Pair p = operands(name, a, b);
  if (p.a.dtype() == DType::boolean) throw Error(fmt::format("{}: bool tensors cannot be divided; cast() them to a number type", name));
  if (is_integer(p.b) && p.b.device().is_cpu() && any(eq(p.b, 0)).item<bool>())
    throw Error(fmt::format("{}: an integer divisor is 0; divide floating tensors for inf or nan", name));
  return p;
}
Tensor bits(const char* name, BinaryKind kind, const Operand& a, const Operand& b) {
  const bool numbers = (!a.tensor() && a.fractional()) || (!b.tensor() && b.fractional());
  Pair p = operands(name, a, b);
  if (numbers || !is_integer(p.a))
    throw Error(
        fmt::format("{}: {} has no bits to combine; give integers or bools", name, numbers ? "a fractional number" : name_of(p.a.dtype())));
  return record(Bits{name, kind}, p.a, p.b);
}

// Two bools: + is or, * is and, as in NumPy; the others have no meaning.
bool both_bool(const Pair& p) { return p.a.dtype() == DType::boolean; }
Tensor compare(const char* name, CompareKind kind, const Operand& a, const Operand& b) {
  const Pair p = operands(name, a, b);
  return record(Compare{name, kind}, p.a, p.b);
}
void check_bool(const char* name, const Tensor& x) {
  if (x.dtype() != DType::boolean)
    throw Error(fmt::format("{}: a tensor of {} is given where bool is needed; compare first, as in ne(x, 0)", name, name_of(x.dtype())));
}

}  // namespace

Tensor add(const Operand& a, const Operand& b) {
  const Pair p = operands("add", a, b);
  return both_bool(p) ? logical_or(p.a, p.b) : record(Add{}, p.a, p.b);
}
Tensor sub(const Operand& a, const Operand& b) {
  const Pair p = operands("sub", a, b);
  if (both_bool(p)) throw Error("sub: bool tensors cannot be subtracted; use ne(a, b) or cast() one of them");
  return record(Sub{}, p.a, p.b);
}
Tensor mul(const Operand& a, const Operand& b) {
  const Pair p = operands("mul", a, b);
  return both_bool(p) ? logical_and(p.a, p.b) : record(Mul{}, p.a, p.b);
}
Tensor div(const Operand& a, const Operand& b) {
  const Pair p = operands("div", a, b);
  if (is_floating(p.a.dtype())) return record(Div{}, p.a, p.b);
  return record(Div{}, cast(p.a, DType::f32), cast(p.b, DType::f32));
}
Tensor pow(const Operand& a, const Operand& b) {
  if (autocasting()) {
    const auto tensor = [](const Operand& o) { return o.tensor() ? *o.tensor() : Tensor{}; };
    return under_autocast(
        Pow::precision, [&](const Tensor& x, const Tensor& y) { return pow(a.tensor() ? Operand(x) : a, b.tensor() ? Operand(y) : b); },
        tensor(a), tensor(b));
  }
  if (a.tensor() && *a.tensor() && !b.tensor() && is_floating(a.tensor()->dtype())) {  // cheaper and exact
    if (b.value() == 1) return identity(*a.tensor());
    if (b.value() == 2) return square(*a.tensor());
    if (b.value() == 0.5) return sqrt(*a.tensor());
    if (b.value() == -1) return reciprocal(*a.tensor());
    if (b.value() == -0.5) return rsqrt(*a.tensor());
  }
  const Pair p = operands("pow", a, b);
  if (both_bool(p)) throw Error("pow: bool tensors have no powers; cast() them to a number type");
  return record(Pow{}, p.a, p.b);
}
Tensor maximum(const Operand& a, const Operand& b) {
  const Pair p = operands("maximum", a, b);
  return record(Extremum{"maximum", BinaryKind::maximum}, p.a, p.b);
}
Tensor minimum(const Operand& a, const Operand& b) {
  const Pair p = operands("minimum", a, b);
  return record(Extremum{"minimum", BinaryKind::minimum}, p.a, p.b);
}
Tensor div(const Operand& a, const Operand& b, Rounding rounding) {
  if (rounding == Rounding::none) return div(a, b);
  const Pair p = divisible("div", a, b);
  return record(Jumping{"div", rounding == Rounding::floor ? BinaryKind::floor_divide : BinaryKind::trunc_divide}, p.a, p.b);
}
Tensor floor_divide(const Operand& a, const Operand& b) { return div(a, b, Rounding::floor); }
Tensor fmod(const Operand& a, const Operand& b) {
  const Pair p = divisible("fmod", a, b);
  return record(Jumping{"fmod", BinaryKind::fmod, true, [](const Tensor& x, const Tensor& y) { return neg(div(x, y, Rounding::trunc)); }},
                p.a, p.b);
}
Tensor remainder(const Operand& a, const Operand& b) {
  const Pair p = divisible("remainder", a, b);
  return record(
      Jumping{"remainder", BinaryKind::remainder, true, [](const Tensor& x, const Tensor& y) { return neg(div(x, y, Rounding::floor)); }},
      p.a, p.b);
}
Tensor fmax(const Operand& a, const Operand& b) {
  const Pair p = operands("fmax", a, b);
  if (is_integer(p.a)) return maximum(p.a, p.b);
  return record(
      Smooth{"fmax", BinaryKind::fmax, [](const Tensor& x, const Tensor& y) { return cast(logical_or(ge(x, y), isnan(y)), x.dtype()); },
             [](const Tensor& x, const Tensor& y) { return cast(logical_not(logical_or(ge(x, y), isnan(y))), x.dtype()); }},
      p.a, p.b);
}
Tensor fmin(const Operand& a, const Operand& b) {
  const Pair p = operands("fmin", a, b);
  if (is_integer(p.a)) return minimum(p.a, p.b);
  return record(
      Smooth{"fmin", BinaryKind::fmin, [](const Tensor& x, const Tensor& y) { return cast(logical_or(le(x, y), isnan(y)), x.dtype()); },
             [](const Tensor& x, const Tensor& y) { return cast(logical_not(logical_or(le(x, y), isnan(y))), x.dtype()); }},
      p.a, p.b);
}
Tensor atan2(const Operand& a, const Operand& b) {
  const Pair p = floating(operands("atan2", a, b));
  return record(Smooth{"atan2", BinaryKind::atan2, [](const Tensor& x, const Tensor& y) { return y / (square(x) + square(y)); },
                       [](const Tensor& x, const Tensor& y) { return neg(x) / (square(x) + square(y)); }},
                p.a, p.b);
}
Tensor hypot(const Operand& a, const Operand& b) {
  const Pair p = floating(operands("hypot", a, b));
  return record(Smooth{"hypot", BinaryKind::hypot, [](const Tensor& x, const Tensor& y) { return x / hypot(x, y); },
                       [](const Tensor& x, const Tensor& y) { return y / hypot(x, y); }},
                p.a, p.b);
}
Tensor copysign(const Operand& a, const Operand& b) {
  const Pair p = floating(operands("copysign", a, b));
  return record(
      Smooth{"copysign", BinaryKind::copysign, [](const Tensor& x, const Tensor& y) { return sign(x) * copysign(ones_like(y), y); },
             [](const Tensor& x, const Tensor&) { return zeros_like(x); }},
      p.a, p.b);
}
Tensor logaddexp(const Operand& a, const Operand& b) {
  const Pair p = floating(operands("logaddexp", a, b));
  return record(
      Smooth{"logaddexp", BinaryKind::logaddexp, [](const Tensor& x, const Tensor& y) { return sigmoid(where(eq(x, y), 0, x - y)); },
             [](const Tensor& x, const Tensor& y) { return sigmoid(where(eq(x, y), 0, y - x)); }},
      p.a, p.b);
}
Tensor xlogy(const Operand& a, const Operand& b) {
  const Pair p = floating(operands("xlogy", a, b));
  return record(
      Smooth{"xlogy", BinaryKind::xlogy, [](const Tensor& x, const Tensor& y) { return where(logical_and(eq(x, 0), le(y, 0)), 0, log(y)); },
             [](const Tensor& x, const Tensor& y) { return x / y; }},
      p.a, p.b);
}
Tensor heaviside(const Operand& a, const Operand& b) {
  const Pair p = floating(operands("heaviside", a, b));
  return record(Undifferentiable{"heaviside", BinaryKind::heaviside}, p.a, p.b);
}
Tensor lerp(const Tensor& start, const Tensor& end, const Operand& weight) { return start + mul(weight, end - start); }
Tensor addcmul(const Tensor& x, const Tensor& a, const Tensor& b, double value) { return x + a * b * value; }
Tensor addcdiv(const Tensor& x, const Tensor& a, const Tensor& b, double value) { return x + a / b * value; }

Tensor bitwise_and(const Operand& a, const Operand& b) { return bits("bitwise_and", BinaryKind::bitwise_and, a, b); }
Tensor bitwise_or(const Operand& a, const Operand& b) { return bits("bitwise_or", BinaryKind::bitwise_or, a, b); }
Tensor bitwise_xor(const Operand& a, const Operand& b) { return bits("bitwise_xor", BinaryKind::bitwise_xor, a, b); }
Tensor bitwise_not(const Tensor& x) {
  if (x && x.dtype() == DType::boolean) return logical_not(x);
  return bits("bitwise_not", BinaryKind::bitwise_xor, x, x && x.dtype() == DType::u8 ? 255 : -1);
}
Tensor bitwise_left_shift(const Operand& a, const Operand& b) { return bits("bitwise_left_shift", BinaryKind::bitwise_left_shift, a, b); }
Tensor bitwise_right_shift(const Operand& a, const Operand& b) {
  return bits("bitwise_right_shift", BinaryKind::bitwise_right_shift, a, b);
}

Tensor clamp(const Tensor& x, const Operand& lowest, const Operand& highest) {
  if (lowest.tensor() || highest.tensor()) return minimum(maximum(x, lowest), highest);
  const double low = lowest.value(), high = highest.value();
  if (!(low <= high)) throw Error(fmt::format("clamp: low {} is above high {}", low, high));
  if (!is_floating(x.dtype())) {
    const auto whole = [](double limit) { return std::isinf(limit) || limit == std::floor(limit); };
    if (!whole(low) || !whole(high)) return clamp(cast(x, DType::f32), low, high);
    const Tensor y = low > -9e18 ? maximum(x, int64_t(low)) : x;
    return high < 9e18 ? minimum(y, int64_t(high)) : y;
  }
  const Tensor inside = logical_and(ge(x, low), le(x, high));  // the gradient passes at the borders, as in torch
  return where(inside, x, where(lt(x, low), low, where(gt(x, high), full({}, high, x.options()), x)));
}

Tensor eq(const Operand& a, const Operand& b) { return compare("eq", CompareKind::eq, a, b); }
Tensor ne(const Operand& a, const Operand& b) { return compare("ne", CompareKind::ne, a, b); }
Tensor lt(const Operand& a, const Operand& b) { return compare("lt", CompareKind::lt, a, b); }
Tensor le(const Operand& a, const Operand& b) { return compare("le", CompareKind::le, a, b); }
Tensor gt(const Operand& a, const Operand& b) { return compare("gt", CompareKind::gt, a, b); }
Tensor ge(const Operand& a, const Operand& b) { return compare("ge", CompareKind::ge, a, b); }

Tensor logical_not(const Tensor& x) { return eq(x, 0); }
Tensor logical_and(const Operand& a, const Operand& b) { return compare("logical_and", CompareKind::logical_and, a, b); }
Tensor logical_or(const Operand& a, const Operand& b) { return compare("logical_or", CompareKind::logical_or, a, b); }
Tensor logical_xor(const Operand& a, const Operand& b) { return compare("logical_xor", CompareKind::logical_xor, a, b); }
Tensor isnan(const Tensor& x) { return ne(x, x); }
Tensor isinf(const Tensor& x) { return is_integer(x) ? ne(x, x) : eq(abs(x), INFINITY); }
Tensor isfinite(const Tensor& x) { return is_integer(x) ? eq(x, x) : lt(abs(x), INFINITY); }
Tensor isclose(const Tensor& a, const Tensor& b, double rtol, double atol, bool equal_nan) {
  if (!(rtol >= 0 && atol >= 0)) throw Error(fmt::format("isclose: rtol {} and atol {} must not be negative", rtol, atol));
  const NoGrad off;
  Tensor close = eq(a, b);
  if (equal_nan) close = logical_or(close, logical_and(isnan(a), isnan(b)));
  return logical_or(close, logical_and(isfinite(sub(a, b)), le(abs(sub(a, b)), add(mul(abs(b), rtol), atol))));
}
bool allclose(const Tensor& a, const Tensor& b, double rtol, double atol, bool equal_nan) {
  return all(isclose(a, b, rtol, atol, equal_nan)).item<bool>();
}
bool equal(const Tensor& a, const Tensor& b) {
  if (!a || !b) return !a && !b;
  return a.shape() == b.shape() && all(eq(a, b)).item<bool>();
}
Tensor nan_to_num(const Tensor& x, double nan, std::optional<double> posinf, std::optional<double> neginf) {
  if (is_integer(x)) return x;
  double largest = std::numeric_limits<double>::max();
  if (x.dtype() == DType::f32) largest = std::numeric_limits<float>::max();
  if (x.dtype() == DType::f16) largest = 65504;
  if (x.dtype() == DType::bf16) largest = 0x1.FEp127;
  const Tensor finite = where(isnan(x), nan, x);
  return where(eq(finite, INFINITY), posinf.value_or(largest), where(eq(finite, -INFINITY), neginf.value_or(-largest), finite));
}

Tensor where(const Tensor& condition, const Operand& a, const Operand& b) {
  check_bool("where", condition);
  if (!a.tensor() && !b.tensor()) {
    const DType dtype = a.fractional() || b.fractional() ? DType::f32 : DType::i64;
    return record(Where{}, condition, full({}, a.value(), {dtype, condition.device()}), full({}, b.value(), {dtype, condition.device()}));
  }
  const Pair p = operands("where", a, b);
  return record(Where{}, condition, p.a, p.b);
}
Tensor masked_fill(const Tensor& x, const Tensor& mask, double value) {
  if (mask && !(broadcast_shapes("masked_fill", x.shape(), mask.shape()) == x.shape()))
    throw Error(fmt::format("masked_fill: a mask of shape {} does not broadcast to x of shape {}", mask.shape().str(), x.shape().str()));
  return where(mask, full({}, value, x.options()), x);
}

}  // namespace retape
