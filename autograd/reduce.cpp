#include <retape/autograd/reduce.h>

#include <fmt/format.h>

#include <retape/autograd/binary.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/unary.h>
#include <retape/autograd/views.h>

namespace retape {
namespace {

// x's shape with size 1 in every reduced dim.
Shape reduced_shape(const char* name, const Tensor& x, const Shape& dims) {
  if (!x) throw Error(fmt::format("{}: the tensor is undefined", name));
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
Tensor run(ReduceKind kind, const Tensor& x, const Shape& to) {
  Tensor y = empty(to, x.options());
  RETAPE_DISPATCH(x.device(), reduce(kind, x, y));
  return y;
}

struct Sum {
  static constexpr auto name = "sum";
  Shape to, from = {};
  Tensor forward(const Tensor& x) {
    from = x.shape();
    return run(ReduceKind::sum, x, to);
  }
  void backward(const Tensor& dy, Grads& dx) { dx.set(0, expand(dy, from)); }
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
};
struct Arg {
  const char* name;
  ArgKind kind;
  int dim;
  static constexpr int differentiable = 0;
  Tensor forward(const Tensor& x) {
    const Tensor in = contiguous(x);
    Shape shape = x.shape();
    if (x.dim()) shape[dim] = 1;
    Tensor y = empty(shape, {DType::i64, x.device()});
    if (x.dim()) RETAPE_DISPATCH(x.device(), arg_reduce(kind, in, dim, y));
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
  if (!x) throw Error(fmt::format("{}: the tensor is undefined", name));
  const int d = normalize_dim(name, dim, x.dim());
  if (x.dim() && x.shape()[d] == 0) throw Error(fmt::format("{}: dim {} of {} has no elements", name, d, x.shape().str()));
  const Tensor y = record(Arg{name, kind, d}, x);
  return keepdim ? y : squeeze(y, d);
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
  return drop_dims(record(Sum{to}, is_floating(x.dtype()) ? x : cast(x, DType::i64)), dims, keepdim);
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
