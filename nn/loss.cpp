#include <retape/nn/loss.h>

#include <fmt/format.h>

#include <cmath>
#include <numbers>

#include <retape/autograd/binary.h>
#include <retape/autograd/pointwise.h>
#include <retape/autograd/reduce.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/unary.h>
#include <retape/autograd/views.h>
#include <retape/nn/reduction.h>

namespace retape {

using detail::check_pair;
using detail::in_full_precision;
using detail::reduced;

Tensor l1_loss(const Tensor& input, const Tensor& target, Reduction reduction) {
  check_pair("l1_loss", input, target);
  return in_full_precision([&](const Tensor& x, const Tensor& t) { return reduced("l1_loss", abs(x - t), reduction); }, input, target);
}
Tensor mse_loss(const Tensor& input, const Tensor& target, Reduction reduction) {
  check_pair("mse_loss", input, target);
  return in_full_precision([&](const Tensor& x, const Tensor& t) { return reduced("mse_loss", square(x - t), reduction); }, input, target);
}
Tensor smooth_l1_loss(const Tensor& input, const Tensor& target, Reduction reduction, double beta) {
  if (!(beta >= 0)) throw Error(fmt::format("smooth_l1_loss: beta {} is not valid; it must not be negative", beta));
  if (beta == 0) return l1_loss(input, target, reduction);
  check_pair("smooth_l1_loss", input, target);
  return reduced("smooth_l1_loss",
                 detail::pointwise("smooth_l1_loss", PointwiseKind::smooth_l1_loss, beta, 0, input, target, Precision::full), reduction);
}
Tensor huber_loss(const Tensor& input, const Tensor& target, Reduction reduction, double delta) {
  if (!(delta > 0)) throw Error(fmt::format("huber_loss: delta {} is not valid; it must be above 0", delta));
  check_pair("huber_loss", input, target);
  return reduced("huber_loss", detail::pointwise("huber_loss", PointwiseKind::huber_loss, delta, 0, input, target, Precision::full),
                 reduction);
}

Tensor binary_cross_entropy(const Tensor& input, const Tensor& target, BCEOptions options) {
  constexpr auto name = "binary_cross_entropy";
  check_pair(name, input, target);
  if (input.device().is_cpu() && input.numel() > 0) {
    const NoGrad off;
    const auto [low, high] = aminmax(input);
    for (const double value : {low.item(), high.item()})
      if (value < 0 || value > 1) throw Error(fmt::format("{}: an input is {}; probabilities must be from 0 to 1", name, value));
  }
  Tensor losses = detail::pointwise(name, PointwiseKind::binary_cross_entropy, 0, 0, input, target, Precision::full);
  if (options.weight) losses = losses * cast(expand(options.weight, losses.shape()), losses.dtype());
  return reduced(name, losses, options.reduction);
}
Tensor binary_cross_entropy_with_logits(const Tensor& input, const Tensor& target, BCEWithLogitsOptions options) {
  constexpr auto name = "binary_cross_entropy_with_logits";
  check_pair(name, input, target);
  return in_full_precision(
      [&](const Tensor& x, const Tensor& t) {
        Tensor losses;
        if (options.pos_weight) {  // (1 - t) x - (1 + (w - 1) t) log(sigmoid(x))
          const Tensor w = cast(expand(options.pos_weight, x.shape()), x.dtype());
          losses = (1 - t) * x - ((w - 1) * t + 1) * logsigmoid(x);
        } else {
          losses = detail::pointwise(name, PointwiseKind::binary_cross_entropy_with_logits, 0, 0, x, t);
        }
        if (options.weight) losses = losses * cast(expand(options.weight, losses.shape()), losses.dtype());
        return reduced(name, losses, options.reduction);
      },
      input, target);
}

Tensor kl_div(const Tensor& input, const Tensor& target, KLDivOptions options) {
  check_pair("kl_div", input, target);
  return in_full_precision(
      [&](const Tensor& x, const Tensor& t) {
        return reduced("kl_div", options.log_target ? exp(t) * (t - x) : xlogy(t, t) - t * x, options.reduction);
      },
      input, target);
}
Tensor poisson_nll_loss(const Tensor& input, const Tensor& target, PoissonNLLOptions options) {
  check_pair("poisson_nll_loss", input, target);
  return in_full_precision(
      [&](const Tensor& x, const Tensor& t) {
        Tensor losses = options.log_input ? exp(x) - t * x : x - t * log(x + options.eps);
        if (options.full) {
          const Tensor counts = where(gt(t, 1), t, 1);
          losses = losses + where(gt(t, 1), t * log(counts) - t + 0.5 * log(counts * (2 * std::numbers::pi)), 0);
        }
        return reduced("poisson_nll_loss", losses, options.reduction);
      },
      input, target);
}
Tensor gaussian_nll_loss(const Tensor& input, const Tensor& target, const Tensor& var, GaussianNLLOptions options) {
  constexpr auto name = "gaussian_nll_loss";
  check_pair(name, input, target);
  detail::check_floating(name, var, "var");
  Shape wanted = input.shape();
  Tensor v = var;
  if (!(var.shape() == wanted) && input.dim() > 0) {
    wanted.erase(wanted.rank() - 1);
    if (var.shape() == wanted) v = unsqueeze(var, -1);
    wanted.push_back(1);
    if (!(v.shape() == wanted))
      throw Error(fmt::format("{}: var of shape {} does not fit input of shape {}; the last size may be 1 or missing", name,
                              var.shape().str(), input.shape().str()));
  }
  if (!(options.eps > 0)) throw Error(fmt::format("{}: eps {} is not valid; it must be above 0", name, options.eps));
  if (v.device().is_cpu() && v.numel() > 0) {
    const NoGrad off;
    if (const double least = amin(v).item(); least < 0)
      throw Error(fmt::format("{}: a variance is {}; they must not be negative", name, least));
  }
  return in_full_precision(
      [&](const Tensor& x, const Tensor& t, const Tensor& raw) {
        Tensor least;
        {
          const NoGrad off;
          least = maximum(raw, options.eps) - raw;
        }
        const Tensor s = raw + least.detach();  // the gradient passes below eps, too, as in torch
        Tensor losses = 0.5 * (log(s) + square(x - t) / s);
        if (options.full) losses = losses + 0.5 * std::log(2 * std::numbers::pi);
        return reduced(name, losses, options.reduction);
      },
      input, target, v);
}
Tensor soft_margin_loss(const Tensor& input, const Tensor& target, Reduction reduction) {
  check_pair("soft_margin_loss", input, target);
  return in_full_precision([&](const Tensor& x, const Tensor& t) { return reduced("soft_margin_loss", softplus(neg(t * x)), reduction); },
                           input, target);
}

namespace nn {
namespace {
Buffer optional_buffer(const Tensor& value) { return value ? Buffer(value) : Buffer(); }
}  // namespace

BCELoss::BCELoss(BCEOptions options) : weight(optional_buffer(options.weight)), reduction(options.reduction) {}
BCEWithLogitsLoss::BCEWithLogitsLoss(BCEWithLogitsOptions options)
    : weight(optional_buffer(options.weight)), pos_weight(optional_buffer(options.pos_weight)), reduction(options.reduction) {}

}  // namespace nn
}  // namespace retape
