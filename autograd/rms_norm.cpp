#include <retape/autograd/rms_norm.h>

#include <retape/autograd/binary.h>
#include <retape/autograd/normalized.h>
#include <retape/autograd/reduce.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/unary.h>
#include <retape/autograd/views.h>

namespace retape {
namespace {

struct RmsNormBackward {  // rstd is for the kernel; the composite makes it from x again
  static constexpr auto name = "rms_norm_backward";
  Shape normalized;
  double eps;
  bool want_weight;
  std::array<Tensor, 2> forward(const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& rstd) {
    const Tensor d = contiguous(as_rows(dy, normalized)), in = contiguous(as_rows(x, normalized)), w = as_row(weight);
    Tensor dx = empty_like(in), dw = want_weight ? empty(normalized, x.options()) : Tensor{};
    RETAPE_DISPATCH(x.device(), rms_norm_backward(d, in, w, rstd, dx, dw));
    return {reshape(dx, x.shape()), dw};
  }
  std::array<Tensor, 2> composite(const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor&) {
    const Tensor d = as_rows(dy, normalized), in = as_rows(x, normalized);
    const Tensor rstd = rsqrt(mean(square(in), {1}, true) + eps), hat = in * rstd, g = weight ? d * as_row(weight) : d;
    const Tensor dx = rstd * (g - hat * mean(g * hat, {1}, true));
    return {reshape(dx, x.shape()), want_weight ? reshape(sum(d * hat, {0}), normalized) : Tensor{}};
  }
};
struct RmsNorm {
  static constexpr auto name = "rms_norm";
  static constexpr auto precision = Precision::full;
  Shape normalized;
  double eps;
  Saved x = {}, weight = {}, rstd = {};
  Tensor forward(const Tensor& in, const Tensor& w) {
    const Tensor rows = contiguous(as_rows(in, normalized)), scale = as_row(w);
    Tensor out = empty_like(rows), rstds = empty({rows.shape()[0]}, statistics_of(in));
    RETAPE_DISPATCH(in.device(), rms_norm(rows, scale, eps, out, rstds));
    x = save(in), weight = save(w), rstd = save(rstds);
    return reshape(out, in.shape());
  }
  void backward(const Tensor& dy, Grads& dx) {
    const auto d = record(RmsNormBackward{normalized, eps, dx.wants(1)}, dy, *x, *weight, *rstd);
    dx.set(0, d[0]);
    if (dx.wants(1)) dx.set(1, d[1]);
  }
  Intervals reach(const Reach& r) const {
    Intervals box = same_elements(r);
    for (int d = 1; d <= normalized.rank(); ++d) box[box.size() - size_t(d)] = {0, normalized[-d]};
    return box;
  }
};

double machine_epsilon(DType d) {
  switch (d) {
    case DType::f64: return 0x1p-52;
    case DType::f16: return 0x1p-10;
    case DType::bf16: return 0x1p-7;
    default: return 0x1p-23;
  }
}

}  // namespace

Tensor rms_norm(const Tensor& x, const Shape& normalized_shape, const Tensor& weight, std::optional<double> eps) {
  if (autocasting())
    return under_autocast(
        RmsNorm::precision, [&](const Tensor& in, const Tensor& w) { return rms_norm(in, normalized_shape, w, eps); }, x, weight);
  check_normalized("rms_norm", x, normalized_shape, weight, "weight");
  return record(RmsNorm{normalized_shape, eps ? *eps : machine_epsilon(x.dtype())}, x, weight ? cast(weight, x.dtype()) : weight);
}

}  // namespace retape
