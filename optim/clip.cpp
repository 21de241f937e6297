#include <retape/optim/clip.h>

#include <fmt/format.h>

#include <cmath>

#include <retape/autograd/binary.h>
#include <retape/autograd/reduce.h>
#include <retape/autograd/sparse.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/unary.h>
#include <retape/autograd/views.h>
#include <retape/optim/device.h>

namespace retape {
namespace {

using Parts = std::vector<std::vector<Tensor>>;

// The gradients by device, without those on meta, which have no values. A gradient that is not contiguous is replaced.
Parts gradients(const char* op, const std::vector<Tensor>& params) {
  std::vector<Tensor> grads;
  for (const Tensor& p : params) {
    if (!p) throw Error(fmt::format("{}: parameter {} is undefined", op, &p - params.data()));
    Tensor grad = detail::gradient_values(p);
    if (!grad || grad.device().is_meta()) continue;
    if (!grad.is_contiguous()) {
      grad = contiguous(grad);
      p.set_grad(grad);
    }
    grads.push_back(grad);
  }
  return detail::split_by_device(grads, [](const Tensor& t) { return t.device(); });
}

// f64 without dims, of all together, on the device of the first ones.
Tensor euclidean_norm(const Parts& parts) {
  Tensor sum;
  for (auto& grads : parts) {
    Tensor squares = empty({int64_t(grads.size())}, {DType::f64, grads.front().device()});
    RETAPE_DISPATCH(squares.device(), square_norms(grads, squares));
    const Tensor part = retape::sum(squares);
    sum = sum ? sum + to(part, sum.device()) : part;
  }
  return sqrt(sum);
}
Tensor largest_magnitude(const Parts& parts) {
  const Device device = parts.front().front().device();
  Tensor norm = zeros({}, {DType::f64, device});
  for (auto& grads : parts)
    for (const Tensor& grad : grads)
      if (grad.numel()) norm = maximum(norm, to(cast(amax(abs(grad)), DType::f64), device));
  return norm;
}

}  // namespace

Tensor clip_grad_norm(const std::vector<Tensor>& params, double max_norm, ClipOptions options) {
  if (!(max_norm >= 0)) throw Error(fmt::format("clip_grad_norm: max_norm {} is not valid; it must be at least 0", max_norm));
  const bool euclidean = options.norm_type == 2;
  if (!euclidean && options.norm_type != INFINITY)
    throw Error(fmt::format("clip_grad_norm: norm_type {} is not supported; use 2 or infinity", options.norm_type));
  const NoGrad no_grad;
  const Parts parts = gradients("clip_grad_norm", params);
  if (parts.empty()) return zeros({}, {DType::f64});
  const Tensor norm = euclidean ? euclidean_norm(parts) : largest_magnitude(parts);
  if (options.error_if_nonfinite && !std::isfinite(norm.item()))
    throw Error(fmt::format("clip_grad_norm: the norm of the gradients is {}, so they cannot be scaled to {}", norm.item(), max_norm));
  const Tensor factor = minimum(max_norm / (norm + 1e-6), ones({}, norm.options()));
  for (auto& grads : parts) {
    const Device device = grads.front().device();
    const Tensor here = to(factor, device);
    RETAPE_DISPATCH(device, scale(here, grads));
  }
  return norm;
}

void clip_grad_value(const std::vector<Tensor>& params, double limit) {
  if (!(limit >= 0)) throw Error(fmt::format("clip_grad_value: limit {} is not valid; it must be at least 0", limit));
  const NoGrad no_grad;
  for (auto& grads : gradients("clip_grad_value", params))
    for (const Tensor& grad : grads) copy_into(clamp(grad, -limit, limit), grad);
}

}  // namespace retape
