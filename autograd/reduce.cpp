#include <retape/autograd/reduce.h>

#include <fmt/format.h>

#include <cmath>

#include <retape/autograd/binary.h>
#include <retape/autograd/check.h>
#include <retape/autograd/index.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/unary.h>
#include <retape/autograd/views.h>

namespace retape {
namespace {

// x's shape with size 1 in every reduced dim.
Shape reduced_shape(const char* name, const Tensor& x, const Shape& dims) {
  check_defined(name, x);
  Shape shape = dims.rank() ? x.shape() : Shape::filled(x.dim(), 1);
  for (int64_t d : dims) {
    const int n = normalize_dim(name, d, x.dim());
    if (x.dim()) shape[n] = 1;
  }
  return shape;
}
Tensor drop_dims(const Tensor& y, const Shape& dims, bool keepdim) {
  if (keepdim) return y;
  if (dims.rank() == 0) return reshape(y, {});
  Shape shape;
  for (int d = 0; d < y.dim(); ++d) {
    bool dropped = false;
    for (int64_t r : dims) dropped |= (r < 0 ? r + y.dim() : r) == d;
    if (!dropped) shape.push_back(y.shape()[d]);
  }
  return reshape(y, shape);
}
Tensor run(ReduceKind kind, const Tensor& x, const Shape& to, bool widen = false) {
  Tensor y = empty(to, {widen && !is_floating(x.dtype()) ? DType::i64 : x.dtype(), x.device()});
  RETAPE_DISPATCH(x.device(), reduce(kind, x, y));
  return y;
}

struct Sum {
  static constexpr auto name = "sum";
  static constexpr auto precision = Precision::full;
  Shape to;
  bool widen = false;  // integers into i64
  Shape from = {};
  Tensor forward(const Tensor& x) {
    from = x.shape();
    return run(ReduceKind::sum, x, to, widen);
  }
  void backward(const Tensor& dy, Grads& dx) { dx.set(0, expand(dy, from)); }
  Intervals reach(const Reach& r) const { return same_elements(r); }
};
struct Prod {
  static constexpr auto name = "prod";
  static constexpr auto precision = Precision::full;
  Shape to;
  Saved x = {}, y = {};
  Tensor forward(const Tensor& in) {
    const Tensor out = run(ReduceKind::prod, in, to);
    x = save(in), y = save(out);
    return out;
  }
  // The product of all others is y / x. Where x is the only 0, it is the product without x; with more zeros it is 0.
  void backward(const Tensor& dy, Grads& dx) {
    const Tensor in = *x, zero = eq(in, 0);
    if (!in.device().is_meta() && !any(zero).item<bool>()) return dx.set(0, dy * *y / in);
    const Tensor lonely = logical_and(zero, eq(sum(zero, where_reduced(in.shape()), true), 1));
    const Tensor without = prod(where(lonely, 1, in), where_reduced(in.shape()), true);
    dx.set(0, dy * where(lonely, without, *y / where(zero, 1, in)));
  }
  Shape where_reduced(const Shape& from) const {
    Shape dims;
    for (int d = 0; d < from.rank(); ++d)
      if (to[d] != from[d]) dims.push_back(d);
    if (dims.rank() == 0 && from.rank()) dims.push_back(0);  // nothing was reduced: a dim of size 1 changes nothing
    return dims;
  }
  Intervals reach(const Reach& r) const { return same_elements(r); }
};
struct Extreme {
  const char* name;
  ReduceKind kind;
  Shape to;
  Saved x = {}, y = {};
  Tensor forward(const Tensor& in) {
    const Tensor out = run(kind, in, to);
    x = save(in), y = save(out);
    return out;
  }
  void backward(const Tensor& dy, Grads& dx) {
    const Tensor in = *x, hit = cast(eq(in, *y), dy.dtype());
    dx.set(0, dy * (hit / sum_to(hit, to)));
  }
  Intervals reach(const Reach& r) const { return same_elements(r); }
};
struct Arg {
  const char* name;
  ArgKind kind;
  int dim;
  static constexpr int differentiable = 0;
  Tensor forward(const Tensor& x) {
    Shape shape = x.shape();
    if (x.dim()) shape[dim] = 1;
    Tensor y = empty(shape, {DType::i64, x.device()});
    if (x.dim()) RETAPE_DISPATCH(x.device(), arg_reduce(kind, x, dim, y));
    else RETAPE_DISPATCH(x.device(), fill(0, y));
    return y;
  }
};

Tensor extreme(const char* name, ReduceKind kind, const Tensor& x, const Shape& dims, bool keepdim) {
  const Shape to = reduced_shape(name, x, dims);
  if (x.numel() == 0 && to.numel() > 0)
    throw Error(fmt::format("{}: {} has no elements to reduce; there is no extreme of nothing", name, x.shape().str()));
  return drop_dims(record(Extreme{name, kind, to}, x), dims, keepdim);
}
Tensor arg(const char* name, ArgKind kind, const Tensor& x, int64_t dim, bool keepdim) {
  const int d = check_dim(name, x, dim);
  if (x.dim() && x.shape()[d] == 0) throw Error(fmt::format("{}: dim {} of {} has no elements", name, d, x.shape().str()));
  const Tensor y = record(Arg{name, kind, d}, x);
  return keepdim ? y : squeeze(y, d);
}
WithIndices extreme_at(const char* name, ArgKind kind, const Tensor& x, int64_t dim, bool keepdim) {
  const Tensor at = arg(name, kind, x, dim, true);
  if (x.dim() == 0) return {identity(x), at};
  const Tensor values = gather(x, dim, at);
  return keepdim ? WithIndices{values, at} : WithIndices{squeeze(values, dim), squeeze(at, dim)};
}
Tensor logical(const char* name, ReduceKind kind, const Tensor& x, const Shape& dims, bool keepdim) {
  const Shape to = reduced_shape(name, x, dims);
  const Tensor truth = x.dtype() == DType::boolean ? x : ne(x, 0);
  if (x.numel() == 0) return drop_dims(full(to, kind == ReduceKind::min, {DType::boolean, x.device()}), dims, keepdim);
  return drop_dims(record(Extreme{name, kind, to}, truth), dims, keepdim);
}
int64_t reduced_count(const Tensor& x, const Shape& to) {
  int64_t n = 1;
  for (int d = 0; d < x.dim(); ++d) n *= to[d] == x.shape()[d] ? 1 : x.shape()[d];
  return n;
}

}  // namespace

Tensor sum(const Tensor& x, const Shape& dims, bool keepdim) {
  const Shape to = reduced_shape("sum", x, dims);
  return drop_dims(record(Sum{to, true}, x), dims, keepdim);
}
Tensor mean(const Tensor& x, const Shape& dims, bool keepdim) {
  const Shape to = reduced_shape("mean", x, dims);
  if (!is_floating(x.dtype()))
    throw Error(fmt::format("mean: a tensor of {} has no mean of its own dtype; cast() it to a floating dtype", name_of(x.dtype())));
  return sum(x, dims, keepdim) / double(reduced_count(x, to));
}
Tensor amax(const Tensor& x, const Shape& dims, bool keepdim) { return extreme("amax", ReduceKind::max, x, dims, keepdim); }
Tensor amin(const Tensor& x, const Shape& dims, bool keepdim) { return extreme("amin", ReduceKind::min, x, dims, keepdim); }
Tensor var(const Tensor& x, const Shape& dims, int64_t correction, bool keepdim) {
  const Shape to = reduced_shape("var", x, dims);
  return sum(square(x - mean(x, dims, true)), dims, keepdim) / double(reduced_count(x, to) - correction);
}
Tensor prod(const Tensor& x, const Shape& dims, bool keepdim) {
  const Shape to = reduced_shape("prod", x, dims);
  return drop_dims(record(Prod{to}, is_floating(x.dtype()) ? x : cast(x, DType::i64)), dims, keepdim);
}
Tensor std(const Tensor& x, const Shape& dims, int64_t correction, bool keepdim) {
  const Tensor v = var(x, dims, correction, keepdim), nothing = eq(v, 0);  // there the root has no slope
  return where(nothing, 0, sqrt(where(nothing, 1, v)));
}
Tensor norm(const Tensor& x, double p, const Shape& dims, bool keepdim) {
  if (autocasting())
    return under_autocast(
        Precision::full, [&](const Tensor& in) { return norm(in, p, dims, keepdim); }, x);
  check_defined("norm", x);
  if (!is_floating(x.dtype()))
    throw Error(fmt::format("norm: a tensor of {} has no norm of its own dtype; cast() it to a floating dtype", name_of(x.dtype())));
  if (std::isnan(p)) throw Error("norm: p is nan; it must be a number or an infinity");
  if (p == INFINITY) return amax(abs(x), dims, keepdim);
  if (p == -INFINITY) return amin(abs(x), dims, keepdim);
  if (p == 0) return cast(count_nonzero(x, dims, keepdim), x.dtype());
  if (p == 1) return sum(abs(x), dims, keepdim);
  const Tensor powers = p == 2 ? sum(square(x), dims, keepdim) : sum(pow(abs(x), p), dims, keepdim);
  if (p < 0) return pow(powers, 1 / p);
  const Tensor nothing = eq(powers, 0);  // there the root has no slope
  return where(nothing, 0, pow(where(nothing, 1, powers), 1 / p));
}
Tensor logsumexp(const Tensor& x, const Shape& dims, bool keepdim) {
  if (autocasting())
    return under_autocast(
        Precision::full, [&](const Tensor& in) { return logsumexp(in, dims, keepdim); }, x);
  check_defined("logsumexp", x);
  if (!is_floating(x.dtype())) return logsumexp(cast(x, DType::f32), dims, keepdim);
  if (x.numel() == 0) return sum(x, dims, keepdim) - INFINITY;
  const Tensor top = amax(x.detach(), dims, true), shift = where(isfinite(top), top, 0);
  return drop_dims(log(sum(exp(x - shift), dims, true)) + shift, dims, keepdim);
}
Tensor nansum(const Tensor& x, const Shape& dims, bool keepdim) { return sum(where(isnan(x), 0, x), dims, keepdim); }
Tensor nanmean(const Tensor& x, const Shape& dims, bool keepdim) {
  const Tensor count = sum(logical_not(isnan(x)), dims, keepdim);
  return nansum(x, dims, keepdim) / (is_floating(x.dtype()) ? cast(count, x.dtype()) : count);
}
Tensor count_nonzero(const Tensor& x, const Shape& dims, bool keepdim) { return sum(ne(x, 0), dims, keepdim); }
WithIndices max(const Tensor& x, int64_t dim, bool keepdim) { return extreme_at("max", ArgKind::max, x, dim, keepdim); }
WithIndices min(const Tensor& x, int64_t dim, bool keepdim) { return extreme_at("min", ArgKind::min, x, dim, keepdim); }
Range aminmax(const Tensor& x, const Shape& dims, bool keepdim) { return {amin(x, dims, keepdim), amax(x, dims, keepdim)}; }
Tensor any(const Tensor& x, const Shape& dims, bool keepdim) { return logical("any", ReduceKind::max, x, dims, keepdim); }
Tensor all(const Tensor& x, const Shape& dims, bool keepdim) { return logical("all", ReduceKind::min, x, dims, keepdim); }
Tensor argmax(const Tensor& x, int64_t dim, bool keepdim) { return arg("argmax", ArgKind::max, x, dim, keepdim); }
Tensor argmin(const Tensor& x, int64_t dim, bool keepdim) { return arg("argmin", ArgKind::min, x, dim, keepdim); }

Tensor sum_to(const Tensor& x, const Shape& shape) {
  if (x.shape() == shape) return x;
  if (!(broadcast_shapes("sum_to", x.shape(), shape) == x.shape()))
    throw Error(fmt::format("sum_to: {} does not broadcast to {}", shape.str(), x.shape().str()));
  Shape to = x.shape();
  const int skip = x.dim() - shape.rank();
  for (int d = 0; d < x.dim(); ++d) to[d] = d < skip ? 1 : shape[d - skip];
  return reshape(record(Sum{to}, x), shape);
}

}  // namespace retape
