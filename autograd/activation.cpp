#include <retape/autograd/activation.h>

#include <fmt/format.h>

#include <retape/autograd/binary.h>
#include <retape/autograd/check.h>
#include <retape/autograd/pointwise.h>
#include <retape/autograd/reduce.h>
#include <retape/autograd/softmax.h>
#include <retape/autograd/unary.h>
#include <retape/autograd/views.h>

namespace retape {
namespace {

Tensor number(double value, const Tensor& x) { return full({}, value, {is_floating(x.dtype()) ? x.dtype() : DType::f32, x.device()}); }

}  // namespace

Tensor leaky_relu(const Tensor& x, double negative_slope) {
  check_defined("leaky_relu", x);
  return detail::pointwise("leaky_relu", PointwiseKind::leaky_relu, 0, 0, x, number(negative_slope, x));
}
Tensor prelu(const Tensor& x, const Tensor& weight) {
  check_defined("prelu", x), check_defined("prelu", weight);
  if (weight.numel() == 1) return detail::pointwise("prelu", PointwiseKind::leaky_relu, 0, 0, x, reshape(weight, {}));
  const int dim = x.dim() < 2 ? 0 : 1;
  if (weight.dim() != 1 || x.dim() == 0 || x.shape()[dim] != weight.shape()[0])
    throw Error(fmt::format("prelu: weight of shape {} does not fit x of shape {}; it must have one element, or {}", weight.shape().str(),
                            x.shape().str(), x.dim() == 0 ? 1 : x.shape()[dim]));
  Shape shape = Shape::filled(x.dim(), 1);
  shape[dim] = weight.shape()[0];
  return detail::pointwise("prelu", PointwiseKind::leaky_relu, 0, 0, x, reshape(weight, shape));
}
Tensor rrelu(const Tensor& x, double lower, double upper, bool training, Generator& generator) {
  check_defined("rrelu", x);
  if (!(lower <= upper)) throw Error(fmt::format("rrelu: lower {} is above upper {}", lower, upper));
  const Tensor slope = training ? uniform(x.shape(), lower, upper, {DType::f32, x.device()}, generator) : number((lower + upper) / 2, x);
  return detail::pointwise("rrelu", PointwiseKind::leaky_relu, 0, 0, x, slope);
}
Tensor elu(const Tensor& x, double alpha) { return detail::pointwise("elu", PointwiseKind::elu, alpha, 1, x); }
Tensor celu(const Tensor& x, double alpha) {
  if (alpha == 0) throw Error("celu: alpha is 0; x is divided by it");
  return detail::pointwise("celu", PointwiseKind::elu, alpha, 1 / alpha, x);
}
Tensor hardtanh(const Tensor& x, double min_val, double max_val) {
  if (!(min_val < max_val)) throw Error(fmt::format("hardtanh: min_val {} is not below max_val {}", min_val, max_val));
  return detail::pointwise("hardtanh", PointwiseKind::hardtanh, min_val, max_val, x);
}
Tensor hardshrink(const Tensor& x, double lambd) { return detail::pointwise("hardshrink", PointwiseKind::hardshrink, lambd, 0, x); }
Tensor softshrink(const Tensor& x, double lambd) {
  if (!(lambd >= 0)) throw Error(fmt::format("softshrink: lambd {} is not valid; it must not be negative", lambd));
  return detail::pointwise("softshrink", PointwiseKind::softshrink, lambd, 0, x);
}
Tensor threshold(const Tensor& x, double threshold, double value) {
  return detail::pointwise("threshold", PointwiseKind::threshold, threshold, value, x);
}
Tensor softplus(const Tensor& x, double beta, double threshold) {
  if (beta == 0) throw Error("softplus: beta is 0; the result is divided by it");
  return detail::pointwise("softplus", PointwiseKind::softplus, beta, threshold, x, {}, Precision::full);
}
Tensor glu(const Tensor& x, int64_t dim) {
  check_defined("glu", x);
  if (x.dim() == 0) throw Error("glu: x has no dims; one is halved");
  const int d = normalize_dim("glu", dim, x.dim());
  const int64_t size = x.shape()[d];
  if (size % 2) throw Error(fmt::format("glu: dim {} of shape {} has odd size {}; it is cut into halves", d, x.shape().str(), size));
  return narrow(x, d, 0, size / 2) * sigmoid(narrow(x, d, size / 2, size / 2));
}
Tensor softmin(const Tensor& x, int64_t dim) { return softmax(neg(x), dim); }
Tensor gumbel_softmax(const Tensor& logits, double tau, bool hard, int64_t dim, Generator& generator) {
  check_defined("gumbel_softmax", logits);
  if (!(tau > 0)) throw Error(fmt::format("gumbel_softmax: tau {} is not valid; it must be above 0", tau));
  if (!is_floating(logits.dtype()))
    throw Error(fmt::format("gumbel_softmax: logits have dtype {}; they must be floating", name_of(logits.dtype())));
  const DType wide = logits.dtype() == DType::f64 ? DType::f64 : DType::f32;
  const Tensor noise = neg(log(neg(log(uniform(logits.shape(), 0, 1, {DType::f32, logits.device()}, generator)))));
  const Tensor soft = softmax((cast(logits, wide) + cast(noise, wide)) / tau, dim);
  if (!hard) return cast(soft, logits.dtype());
  const int d = normalize_dim("gumbel_softmax", dim, logits.dim());
  const Tensor top = argmax(soft.detach(), d, true);
  Shape along = Shape::filled(logits.dim(), 1);
  along[d] = logits.shape()[d];
  const Tensor one_hot = cast(eq(reshape(arange(double(along[d]), top.options()), along), top), wide);
  return cast(one_hot - soft.detach() + soft, logits.dtype());
}

}  // namespace retape
