#include <retape/autograd/pointwise.h>

#include <fmt/format.h>

#include <retape/autograd/binary.h>
#include <retape/autograd/check.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/unary.h>
#include <retape/autograd/views.h>

namespace retape {
namespace {

struct Call {
  const char* name;
  PointwiseKind kind;
  double p, q;
};

Tensor as_number(const Tensor& condition, const Tensor& like) { return cast(condition, like.dtype()); }
// The derivative for a, written with ops.
Tensor slope_of_a(const Call& f, const Tensor& a, const Tensor& b) {
  switch (f.kind) {
    case PointwiseKind::leaky_relu: return where(gt(a, 0), 1, b);
    case PointwiseKind::elu: return where(gt(a, 0), 1, exp(where(gt(a, 0), 0, a) * f.q) * (f.p * f.q));
    case PointwiseKind::hardtanh: return as_number(logical_and(gt(a, f.p), lt(a, f.q)), a);
    case PointwiseKind::hardshrink:
    case PointwiseKind::softshrink: return as_number(logical_not(logical_and(ge(a, -f.p), le(a, f.p))), a);
    case PointwiseKind::threshold: return as_number(logical_not(le(a, f.p)), a);
    case PointwiseKind::softplus: return where(gt(a * f.p, f.q), 1, sigmoid(a * f.p));
    case PointwiseKind::smooth_l1_loss: return clamp((a - b) / f.p, -1, 1);
    case PointwiseKind::huber_loss: return clamp(a - b, -f.p, f.p);
    case PointwiseKind::binary_cross_entropy: return (a - b) / maximum(a * (1 - a), functor::least_spread);
    case PointwiseKind::binary_cross_entropy_with_logits: return sigmoid(a) - b;
  }
  return {};
}
Tensor gradient_of_b(const Call& f, const Tensor& dy, const Tensor& a, const Tensor& b);
// Is b as good as a? A slope takes the dtype of what it belongs to.
bool takes_target(PointwiseKind kind) { return kind != PointwiseKind::leaky_relu; }

struct PointwiseBackward {
  Call call;
  const char* name = call.name;
  Tensor forward(const Tensor& dy, const Tensor& a, const Tensor& b) {
    const Tensor other = b ? expand(b, dy.shape()) : a;
    Tensor da = empty_like(dy);
    RETAPE_DISPATCH(dy.device(), pointwise_backward(call.kind, call.p, call.q, dy, a, other, da));
    return da;
  }
  Tensor composite(const Tensor& dy, const Tensor& a, const Tensor& b) { return dy * slope_of_a(call, a, b); }
};
struct Pointwise {
  static constexpr bool elementwise = true;
  Call call;
  Precision precision;
  Saved a = {}, b = {};
  const char* name = call.name;
  Tensor forward(const Tensor& x, const Tensor& y) {
    const Tensor other = y ? expand(y, x.shape()) : x;
    Tensor out = empty_like(x);
    RETAPE_DISPATCH(x.device(), pointwise(call.kind, call.p, call.q, x, other, out));
    a = save(x), b = save(y);
    return out;
  }
  void backward(const Tensor& dy, Grads& dx) {
    if (dx.wants(0)) dx.set(0, record(PointwiseBackward{call}, dy, *a, *b));
    if (dx.wants(1)) dx.set(1, gradient_of_b(call, dy, *a, *b));
  }
};

Tensor gradient_of_b(const Call& f, const Tensor& dy, const Tensor& a, const Tensor& b) {
  switch (f.kind) {
    case PointwiseKind::leaky_relu: return where(gt(a, 0), 0, dy * a);
    case PointwiseKind::smooth_l1_loss:
    case PointwiseKind::huber_loss: return neg(record(PointwiseBackward{f}, dy, a, b));
    case PointwiseKind::binary_cross_entropy: return dy * (maximum(log1p(neg(a)), -100) - maximum(log(a), -100));
    case PointwiseKind::binary_cross_entropy_with_logits: return neg(dy * a);
    default: throw Error(fmt::format("{}: has one input", f.name));
  }
}

}  // namespace

Tensor detail::pointwise(const char* name, PointwiseKind kind, double p, double q, const Tensor& a, const Tensor& b, Precision precision) {
  check_defined(name, a);
  if (precision != Precision::any && autocasting())
    return under_autocast(
        precision, [&](const Tensor& x, const Tensor& y) { return pointwise(name, kind, p, q, x, y); }, a, b);
  DType dtype = is_floating(a.dtype()) ? a.dtype() : DType::f32;
  if (b) {
    check_one_device(name, a, b);
    if (takes_target(kind) && is_floating(b.dtype())) dtype = promote(dtype, b.dtype());
  }
  return record(Pointwise{{name, kind, p, q}, precision}, cast(a, dtype), b ? cast(b, dtype) : b);
}

}  // namespace retape
