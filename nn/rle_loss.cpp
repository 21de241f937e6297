#include <retape/nn/rle_loss.h>

#include <fmt/format.h>

#include <cmath>
#include <numbers>

#include <retape/autograd/activation.h>
#include <retape/autograd/reduce.h>
#include <retape/autograd/unary.h>
#include <retape/autograd/views.h>
#include <retape/nn/reduction.h>

namespace retape::nn {

RealNVP::Net::Net(int64_t dim, int64_t hidden_dim, bool b)
    : first(dim, hidden_dim), second(hidden_dim, hidden_dim), last(hidden_dim, dim), bounded(b) {}
Tensor RealNVP::Net::forward(const Tensor& x) const {
  const Tensor y = last(leaky_relu(second(leaky_relu(first(x)))));
  return bounded ? tanh(y) : y;
}
void RealNVP::Net::fields(Visitor& v) { v.module("0", first), v.module("2", second), v.module("4", last); }

RealNVP::RealNVP(RealNVPOptions o) : dim(o.dim) {
  if (o.dim < 2 || o.layers < 1)
    throw Error(fmt::format("RealNVP: dim {} and {} layers are not valid; needed are at least 2 and 1", o.dim, o.layers));
  for (int64_t i = 0; i < o.layers; ++i) s.emplace_back(o.dim, o.hidden_dim, true), t.emplace_back(o.dim, o.hidden_dim, false);
}
// 1 for coordinates that a layer keeps, else 0
Tensor RealNVP::kept(int64_t layer, const Tensor& like) const {
  return cast(eq(remainder(arange(double(dim), {DType::i64, like.device()}), 2), int64_t(layer % 2 == 0)), like.dtype());
}
Tensor RealNVP::forward(const Tensor& z) const {
  Tensor x = z;
  for (size_t i = 0; i < s.size(); ++i) {
    const Tensor keep = kept(int64_t(i), x), same = x * keep, change = 1 - keep;
    x = same + change * (x * exp(s[i](same) * change) + t[i](same));
  }
  return x;
}
RealNVP::Inverse RealNVP::inverse(const Tensor& x) const {
  if (!x || x.dim() != 2 || x.shape()[1] != dim)
    throw Error(fmt::format("RealNVP: points have shape {}; they must be (N, {})", x ? x.shape().str() : "(undefined)", dim));
  Tensor z = x, log_det = zeros({x.shape()[0]}, x.options());
  for (size_t i = s.size(); i-- > 0;) {
    const Tensor keep = kept(int64_t(i), z), same = z * keep, change = 1 - keep, scale = s[i](same) * change;
    z = change * ((z - t[i](same)) * exp(neg(scale))) + same;
    log_det = log_det - sum(scale, {1});
  }
  return {z, log_det};
}
Tensor RealNVP::log_prob(const Tensor& x) const {
  const auto [z, log_det] = inverse(x);
  return log_det - 0.5 * sum(square(z), {1}) - 0.5 * double(dim) * std::log(2 * std::numbers::pi);
}

Tensor RLELoss::forward(const Tensor& pred, const Tensor& sigma, const Tensor& target, const Tensor& weight) const {
  constexpr auto name = "RLELoss";
  retape::detail::check_pair(name, pred, target, "pred", "target");
  retape::detail::check_pair(name, pred, sigma, "pred", "sigma");
  if (pred.dim() != 3 || pred.shape()[2] != flow.dim)
    throw Error(fmt::format("{}: pred has shape {}; it must be (N, K, {})", name, pred.shape().str(), flow.dim));
  if (weight && (weight.dim() != 3 || weight.shape()[0] != pred.shape()[0] || weight.shape()[1] != pred.shape()[1] ||
                 (weight.shape()[2] != 1 && weight.shape()[2] != flow.dim)))
    throw Error(fmt::format("{}: weight of shape {} does not fit pred of shape {}; the last size may be 1", name, weight.shape().str(),
                            pred.shape().str()));
  return retape::detail::in_full_precision(
      [&](const Tensor& p, const Tensor& s, const Tensor& t) {
        const Tensor error = (p - t) / s, log_s = log(s);
        const Tensor density = reshape(flow.log_prob(reshape(error, {-1, flow.dim})), {p.shape()[0], p.shape()[1], 1});
        Tensor losses = log_s - density;
        if (options.residual)
          losses = losses + (options.q_distribution == RLEDistribution::laplace
                                 ? log_s + abs(error) + std::log(2.0)
                                 : log_s + 0.5 * square(error) + 0.5 * std::log(2 * std::numbers::pi));
        if (weight) losses = losses * cast(weight, losses.dtype());
        if (options.reduction == Reduction::none) return losses;
        return options.reduction == Reduction::sum ? sum(losses) : sum(losses) / double(p.shape()[0]);
      },
      pred, sigma, target);
}

}  // namespace retape::nn
