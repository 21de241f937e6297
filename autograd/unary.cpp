// One op for all functions of the list: what differs is in core/unary_ops.h.
#include <retape/autograd/unary.h>

#include <fmt/format.h>

#include <retape/autograd/binary.h>
#include <retape/autograd/check.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/views.h>

namespace retape {
namespace {

// dy * ddx * second derivative
struct UnaryCurve {
  const char* name;
  UnaryKind kind;
  Tensor forward(const Tensor& dy, const Tensor& kept) {
    Tensor out = empty_like(kept, kept.memory_format());
    RETAPE_DISPATCH(kept.device(), unary_curve(kind, dy, kept, out));
    return out;
  }
  void backward(const Tensor&, Grads&) { throw Error(fmt::format("{}: third derivatives are not provided", name)); }
};
struct UnaryBackward {
  const char* name;
  UnaryKind kind;
  Saved dy = {}, kept = {};
  Tensor forward(const Tensor& d, const Tensor& k) {
    dy = save(d, 1), kept = save(k);
    Tensor dx = empty_like(k, k.memory_format());
    RETAPE_DISPATCH(k.device(), unary_backward(kind, d, k, dx));
    return dx;
  }
  void backward(const Tensor& ddx, Grads& g) {
    if (g.wants(0)) g.set(0, record(UnaryBackward{name, kind}, ddx, *kept));
    if (g.wants(1)) g.set(1, ddx * record(UnaryCurve{name, kind}, *dy, *kept));
  }
};
// What grows or falls so steeply that a half type loses it.
Precision precision_of(UnaryKind kind) {
  switch (kind) {
    case UnaryKind::exp:
    case UnaryKind::exp2:
    case UnaryKind::expm1:
    case UnaryKind::log:
    case UnaryKind::log2:
    case UnaryKind::log10:
    case UnaryKind::log1p:
    case UnaryKind::reciprocal:
    case UnaryKind::rsqrt:
    case UnaryKind::tan:
    case UnaryKind::asin:
    case UnaryKind::acos:
    case UnaryKind::sinh:
    case UnaryKind::cosh:
    case UnaryKind::erfinv:
    case UnaryKind::softplus: return Precision::full;
    default: return Precision::any;
  }
}
struct Unary {
  static constexpr bool elementwise = true;
  const char* name;
  UnaryKind kind;
  Precision precision = precision_of(kind);
  Saved kept = {};
  Tensor forward(const Tensor& x) {
    Tensor y = empty_like(x, x.memory_format());
    RETAPE_DISPATCH(x.device(), unary(kind, x, y));
    kept = save(keeps_y(kind) ? y : x);
    return y;
  }
  void backward(const Tensor& dy, Grads& dx) { dx.set(0, record(UnaryBackward{name, kind}, dy, *kept)); }
};

Tensor of_integers(UnaryKind kind, const Tensor& x) {
  switch (kind) {
    case UnaryKind::neg: return sub(0, x);
    case UnaryKind::abs: return x.dtype() == DType::u8 ? x : maximum(x, sub(0, x));
    case UnaryKind::square: return mul(x, x);
    case UnaryKind::sign: return x.dtype() == DType::boolean ? x : sub(cast(gt(x, 0), x.dtype()), cast(lt(x, 0), x.dtype()));
    case UnaryKind::relu: return maximum(x, 0);
    case UnaryKind::floor:
    case UnaryKind::ceil:
    case UnaryKind::round:
    case UnaryKind::trunc: return x;
    default: return record(Unary{name_of(kind), kind}, cast(x, DType::f32));
  }
}
Tensor apply(UnaryKind kind, const Tensor& x) {
  check_defined(name_of(kind), x);
  if (!is_floating(x.dtype())) return of_integers(kind, x);
  return record(Unary{name_of(kind), kind}, x);
}

}  // namespace

#define RETAPE_X(name, ...) \
  Tensor name(const Tensor& x) { return apply(UnaryKind::name, x); }
RETAPE_UNARY_OPS(RETAPE_X)
#undef RETAPE_X

Tensor logit(const Tensor& x, double eps) {
  if (!(eps >= 0 && eps <= 0.5)) throw Error(fmt::format("logit: eps {} is not valid; it must be from 0 to 0.5", eps));
  return logit(clamp(x, eps, 1 - eps));
}
Tensor deg2rad(const Tensor& x) { return x * 0.017453292519943295; }
Tensor rad2deg(const Tensor& x) { return x * 57.29577951308232; }

}  // namespace retape
