#include <retape/autograd/matmul.h>

#include <fmt/format.h>

#include <retape/autograd/binary.h>
#include <retape/autograd/check.h>
#include <retape/autograd/reduce.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/unary.h>
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
  Intervals reach(const Reach& r) const { return all_of_dim(r, r.input == 0 ? -1 : -2); }
};

// dweight and dbias of a linear layer from dy (m, n) and x (m, k).
struct LinearWeightBackward {
  static constexpr auto name = "linear_weight_backward";
  static constexpr bool expensive = true;
  std::array<Tensor, 2> forward(const Tensor& dy, const Tensor& x) {
    const int64_t n = dy.shape()[1];
    Tensor dweight = empty({n, x.shape()[1]}, x.options()), dbias = empty({n, 1}, x.options());
    RETAPE_DISPATCH(detail::cpu_for_meta(x.device()), linear_weight_backward(transpose(contiguous(dy)), contiguous(x), dweight, dbias));
    return {dweight, reshape(dbias, {n})};
  }
  std::array<Tensor, 2> composite(const Tensor& dy, const Tensor& x) { return {matmul(transpose(dy), x), sum(dy, {0})}; }
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
    const bool bias = dx.size() > 2 && dx.wants(2);
    if (dx.wants(1) && bias && dy.device().is_cuda()) {
      const Tensor in = *x;
      const auto both = record(LinearWeightBackward{}, d, as_rows(in));
      dx.set(1, both[0]), dx.set(2, both[1]);
      return;
    }
    if (dx.wants(1)) {
      const Tensor in = *x;
      dx.set(1, matmul(transpose(d), as_rows(in)));
    }
    if (bias) dx.set(2, sum(d, {0}));
  }
  Intervals reach(const Reach& r) const { return r.input == 0 ? all_of_dim(r, -1) : all_elements(r.in); }
};

// x (m, in): rows; biases may be undefined.
struct FeedForwardBackward {
  static constexpr auto name = "feed_forward_backward";
  static constexpr bool expensive = true;
  // h and a are what the forward made on its way: linear(x, w1, b1), gelu_tanh(h).
  std::array<Tensor, 5> forward(const Tensor& dy, const Tensor& x, const Tensor& w1, const Tensor& b1, const Tensor& w2, const Tensor& h,
                                const Tensor& a) {
    const Tensor d = contiguous(dy);
    const Device device = detail::cpu_for_meta(x.device());
    const auto like = [&](const Tensor& t) { return empty(t.shape(), t.options()); };
    const auto weight_backward = [&](const Tensor& g, const Tensor& in, const Tensor& w, Tensor& dw, Tensor& db) {
      dw = like(w), db = empty({w.shape()[0], 1}, w.options());
      RETAPE_DISPATCH(device, linear_weight_backward(transpose(g), in, dw, db));
      db = reshape(db, {w.shape()[0]});
    };
    Tensor dh = like(h), dx = like(x), dw1, db1, dw2, db2;
    RETAPE_DISPATCH(device, linear_gelu_backward(d, w2, h, dh));
    weight_backward(d, a, w2, dw2, db2);
    weight_backward(dh, x, w1, dw1, db1);
    RETAPE_DISPATCH(device, matmul(dh, w1, Tensor{}, false, dx));
    return {dx, dw1, b1 ? db1 : Tensor{}, dw2, db2};
  }
  std::array<Tensor, 5> composite(const Tensor& dy, const Tensor& x, const Tensor& w1, const Tensor& b1, const Tensor& w2, const Tensor&,
                                  const Tensor&) {
    constexpr double root = 0.7978845608028654;  // as in functor::GeluTanh
    const Tensor h = linear(x, w1, b1), t = tanh(root * (h + 0.044715 * h * h * h)),
                 slope = 0.5 * (1 + t) + 0.5 * root * h * (1 - t * t) * (1 + 0.134145 * h * h), dh = matmul(dy, w2) * slope;
    return {matmul(dh, w1), matmul(transpose(dh), x), b1 ? sum(dh, {0}) : Tensor{}, matmul(transpose(dy), gelu_tanh(h)), sum(dy, {0})};
  }
};
struct FeedForward {
  static constexpr auto name = "feed_forward";
  static constexpr bool expensive = true;
  static constexpr auto precision = Precision::low;
  Saved x = {}, w1 = {}, b1 = {}, w2 = {}, h = {}, a = {};
  Tensor forward(const Tensor& in, const Tensor& weight1, const Tensor& bias1, const Tensor& weight2, const Tensor& bias2) {
    const Device device = detail::cpu_for_meta(in.device());
    const Shape made = {in.shape()[0], weight1.shape()[0]};
    Tensor hidden = empty(made, in.options()), active = empty(made, in.options()),
           out = empty({in.shape()[0], weight2.shape()[0]}, in.options());
    RETAPE_DISPATCH(device, linear_gelu(in, transpose(weight1), bias1, hidden, active));
    RETAPE_DISPATCH(device, matmul(active, transpose(weight2), bias2, false, out));
    x = save(in), w1 = save(weight1), b1 = save(bias1), w2 = save(weight2), h = save(hidden), a = save(active);
    return out;
  }
  void backward(const Tensor& dy, Grads& dx) {
    const auto all = record(FeedForwardBackward{}, dy, *x, *w1, *b1, *w2, *h, *a);
    for (int i = 0; i < 5; ++i)
      if (dx.wants(i)) dx.set(i, all[size_t(i)]);
  }
  Intervals reach(const Reach& r) const { return r.input == 0 ? all_of_dim(r, -1) : all_elements(r.in); }
};

void check(const char* name, const Tensor& a, const Tensor& b) {
  if (!a || !b) throw Error(fmt::format("{}: an operand is an undefined tensor", name));
  check_one_device(name, a, b);
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

Tensor feed_forward(const Tensor& x, const Tensor& weight1, const Tensor& bias1, const Tensor& weight2, const Tensor& bias2) {
  if (autocasting())
    return under_autocast(
        FeedForward::precision, [](auto&... t) { return feed_forward(t...); }, x, weight1, bias1, weight2, bias2);
  DType dtype = x ? x.dtype() : DType::f32;
  for (const Tensor* t : {&weight1, &weight2, &bias1, &bias2}) {
    if (!*t && (t == &bias1 || t == &bias2)) continue;
    check("feed_forward", x, *t);
    dtype = promote(dtype, t->dtype());
  }
  const auto text = [](const Tensor& t) { return t ? t.shape().str() : "none"; };
  if (x.dim() < 1 || weight1.dim() != 2 || weight2.dim() != 2 || x.shape()[-1] != weight1.shape()[1] ||
      weight1.shape()[0] != weight2.shape()[1] || (bias1 && !(bias1.shape() == Shape{weight1.shape()[0]})) ||
      (bias2 && !(bias2.shape() == Shape{weight2.shape()[0]})))
    throw Error(
        fmt::format("feed_forward: x {}, weight1 {}, bias1 {}, weight2 {} and bias2 {} do not fit; they must be (..., in), "
                    "(hidden, in), (hidden), (out, hidden) and (out)",
                    text(x), text(weight1), text(bias1), text(weight2), text(bias2)));
  const auto as = [&](const Tensor& t) { return t ? contiguous(cast(t, dtype)) : t; };
  Shape shape = x.shape();
  shape[-1] = weight2.shape()[0];
  return reshape(record(FeedForward{}, as(as_rows(x)), as(weight1), as(bias1), as(weight2), as(bias2)), shape);
}

}  // namespace retape
