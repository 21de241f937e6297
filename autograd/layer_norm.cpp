#include <retape/autograd/layer_norm.h>

#include <fmt/format.h>

#include <retape/autograd/binary.h>
#include <retape/autograd/normalized.h>
#include <retape/autograd/reduce.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/unary.h>
#include <retape/autograd/views.h>

namespace retape {
namespace {

struct LayerNormBackward {  // mean and rstd are for the kernel; the composite makes them from x again
  static constexpr auto name = "layer_norm_backward";
  Shape normalized;
  double eps;
  bool want_weight, want_bias;
  std::array<Tensor, 3> forward(const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& mean, const Tensor& rstd) {
    const Tensor d = contiguous(as_rows(dy, normalized)), in = contiguous(as_rows(x, normalized)), w = as_row(weight);
    Tensor dx = empty_like(in);
    Tensor dw = want_weight ? empty(normalized, x.options()) : Tensor{}, db = want_bias ? empty(normalized, x.options()) : Tensor{};
    RETAPE_DISPATCH(x.device(), layer_norm_backward(d, in, w, mean, rstd, dx, dw, db));
    return {reshape(dx, x.shape()), dw, db};
  }
  std::array<Tensor, 3> composite(const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor&, const Tensor&) {
    const Tensor d = as_rows(dy, normalized), in = as_rows(x, normalized);
    const Tensor centred = in - mean(in, {1}, true), rstd = rsqrt(mean(square(centred), {1}, true) + eps), hat = centred * rstd;
    const Tensor g = weight ? d * as_row(weight) : d;
    const Tensor dx = rstd * (g - mean(g, {1}, true) - hat * mean(g * hat, {1}, true));
    return {reshape(dx, x.shape()), want_weight ? reshape(sum(d * hat, {0}), normalized) : Tensor{},
            want_bias ? reshape(sum(d, {0}), normalized) : Tensor{}};
  }
};
struct LayerNorm {
  static constexpr auto name = "layer_norm";
  static constexpr auto precision = Precision::full;
  Shape normalized;
  double eps;
  Saved x = {}, weight = {}, mean = {}, rstd = {};
  Tensor forward(const Tensor& in, const Tensor& w, const Tensor& b) {
    const Tensor rows = contiguous(as_rows(in, normalized)), scale = as_row(w), shift = as_row(b);
    Tensor out = empty_like(rows), means = empty({rows.shape()[0]}, statistics_of(in)), rstds = empty_like(means);
    RETAPE_DISPATCH(in.device(), layer_norm(rows, scale, shift, eps, out, means, rstds));
    x = save(in), weight = save(w), mean = save(means), rstd = save(rstds);
    return reshape(out, in.shape());
  }
  void backward(const Tensor& dy, Grads& dx) {
    const auto d = record(LayerNormBackward{normalized, eps, dx.wants(1), dx.wants(2)}, dy, *x, *weight, *mean, *rstd);
    dx.set(0, d[0]);
    if (dx.wants(1)) dx.set(1, d[1]);
    if (dx.wants(2)) dx.set(2, d[2]);
  }
  Intervals reach(const Reach& r) const {
    Intervals box = same_elements(r);
    for (int d = 1; d <= normalized.rank(); ++d) box[box.size() - size_t(d)] = {0, normalized[-d]};
    return box;
  }
};

}  // namespace

Tensor layer_norm(const Tensor& x, const Shape& normalized_shape, const Tensor& weight, const Tensor& bias, double eps) {
  if (autocasting())
    return under_autocast(
        LayerNorm::precision,
        [&](const Tensor& in, const Tensor& w, const Tensor& b) { return layer_norm(in, normalized_shape, w, b, eps); }, x, weight, bias);
  check_normalized("layer_norm", x, normalized_shape, weight, "weight");
  check_normalized("layer_norm", x, normalized_shape, bias, "bias");
  return record(LayerNorm{normalized_shape, eps}, x, weight ? cast(weight, x.dtype()) : weight, bias ? cast(bias, x.dtype()) : bias);
}

}  // namespace retape
