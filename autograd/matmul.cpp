#include <retape/autograd/matmul.h>

#include <fmt/format.h>

#include <retape/autograd/check.h>
#include <retape/autograd/reduce.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/views.h>

namespace retape {
namespace {

// All dims but the last as one.
Tensor as_rows(const Tensor& x) {
  int64_t rows = 1;
  for (int d = 0; d + 1 < x.dim(); ++d) rows *= x.shape()[d];
  return reshape(x, {rows, x.shape()[-1]});
}

Shape batch_of(const Shape& s) { return Shape(s.begin(), size_t(s.rank() - 2)); }
Shape with_matrix(Shape batch, int64_t rows, int64_t columns) {
  batch.push_back(rows);
  batch.push_back(columns);
  return batch;
}

struct MatMul {  // both operands have at least two dims
  static constexpr auto name = "matmul";
  static constexpr bool expensive = true;
  static constexpr auto precision = Precision::low;
  Saved a = {}, b = {};
  Tensor forward(const Tensor& x, const Tensor& y) {
    a = save(x, 1), b = save(y, 0);
    const Shape batch = broadcast_shapes(name, batch_of(x.shape()), batch_of(y.shape()));
    Tensor out = empty(with_matrix(batch, x.shape()[-2], y.shape()[-1]), x.options());
    const Tensor p = expand(x, with_matrix(batch, x.shape()[-2], x.shape()[-1])),
                 q = expand(y, with_matrix(batch, y.shape()[-2], y.shape()[-1]));
    RETAPE_DISPATCH(detail::cpu_for_meta(x.device()), matmul(p, q, Tensor{}, false, out));
    return out;
  }
  void backward(const Tensor& dy, Grads& dx) {
    if (dx.wants(0)) dx.set(0, record(MatMul{}, dy, transpose(*b)));
    if (dx.wants(1)) dx.set(1, record(MatMul{}, transpose(*a), dy));
  }
};

struct Linear {
  static constexpr auto name = "linear";
  static constexpr bool expensive = true;
  static constexpr auto precision = Precision::low;
  Saved x = {}, weight = {};
  Tensor forward(const Tensor& in, const Tensor& w, const Tensor& bias) {
    x = save(in, 1), weight = save(w, 0);
    Shape shape = in.shape();
    shape[-1] = w.shape()[0];
    const Tensor rows = as_rows(in);
    Tensor out = empty({rows.shape()[0], w.shape()[0]}, in.options());
    RETAPE_DISPATCH(detail::cpu_for_meta(in.device()), matmul(rows, transpose(w), bias, false, out));
    return reshape(out, shape);
  }
  void backward(const Tensor& dy, Grads& dx) {
    const Tensor d = as_rows(dy);
    if (dx.wants(0)) {
      const Tensor w = *weight;
      Shape shape = dy.shape();
      shape[-1] = w.shape()[1];
      dx.set(0, reshape(matmul(d, w), shape));
    }
    if (dx.wants(1)) {
      const Tensor in = *x;
      dx.set(1, matmul(transpose(d), as_rows(in)));
    }
    if (dx.size() > 2 && dx.wants(2)) dx.set(2, sum(d, {0}));
  }
};

void check(const char* name, const Tensor& a, const Tensor& b) {
  if (!a || !b) throw Error(fmt::format("{}: an operand is an undefined tensor", name));
  if (!(a.device() == b.device()))
    throw Error(fmt::format("{}: operands of shapes {} and {} are on different devices; move one with to()", name, a.shape().str(),
                            b.shape().str()));
  if (!is_floating(a.dtype()) || !is_floating(b.dtype()))
    throw Error(fmt::format("{}: operands of {} and {} cannot be multiplied; both must be floating, use cast()", name, name_of(a.dtype()),
                            name_of(b.dtype())));
}

}  // namespace

Tensor matmul(const Tensor& a, const Tensor& b) {
  check("matmul", a, b);
  if (autocasting())
    return under_autocast(
        MatMul::precision, [](auto&... x) { return matmul(x...); }, a, b);
  if (a.dim() == 0 || b.dim() == 0)
    throw Error(fmt::format("matmul: cannot multiply {} by {}: both need at least one dim; use a * b", a.shape().str(), b.shape().str()));
  const int64_t inner = a.shape()[-1], other = b.dim() == 1 ? b.shape()[0] : b.shape()[-2];
  if (inner != other)
    throw Error(
        fmt::format("matmul: cannot multiply {} by {}: inner sizes {} and {} differ", a.shape().str(), b.shape().str(), inner, other));
  const DType dtype = promote(a.dtype(), b.dtype());
  if (a.dim() == 1) return squeeze(matmul(unsqueeze(a, 0), b), b.dim() == 1 ? 0 : -2);
  if (b.dim() == 1) return squeeze(matmul(a, unsqueeze(b, 1)), -1);
  if (a.dim() > 2 && b.dim() == 2) {  // one large product instead of many with the same matrix
    Shape shape = a.shape();
    shape[-1] = b.shape()[1];
    return reshape(record(MatMul{}, cast(as_rows(a), dtype), cast(b, dtype)), shape);
  }
  return record(MatMul{}, cast(a, dtype), cast(b, dtype));
}

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  check("linear", x, weight);
  if (autocasting())
    return under_autocast(
        Linear::precision, [](auto&... t) { return linear(t...); }, x, weight, bias);
  if (x.dim() < 1 || weight.dim() != 2 || x.shape()[-1] != weight.shape()[1])
    throw Error(fmt::format("linear: x {} does not fit weight {}: the last size of x must be {} and weight must have two dims",
                            x.shape().str(), weight.shape().str(), weight.dim() == 2 ? weight.shape()[1] : -1));
  if (bias && !(bias.shape() == Shape{weight.shape()[0]}))
    throw Error(fmt::format("linear: bias {} does not fit weight {}: its shape must be [{}]", bias.shape().str(), weight.shape().str(),
                            weight.shape()[0]));
  DType dtype = promote(x.dtype(), weight.dtype());
  if (bias) {
    check("linear", x, bias);
    dtype = promote(dtype, bias.dtype());
  }
  return record(Linear{}, cast(x, dtype), cast(weight, dtype), bias ? cast(bias, dtype) : bias);
}

}  // namespace retape
