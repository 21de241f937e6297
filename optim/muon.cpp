#include <retape/optim/muon.h>

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include <retape/autograd/autocast.h>
#include <retape/autograd/binary.h>
#include <retape/autograd/matmul.h>
#include <retape/autograd/reduce.h>
#include <retape/autograd/unary.h>
#include <retape/autograd/views.h>
#include <retape/core/dispatch.h>

namespace retape {
namespace {

double adjustment(AdjustLr kind, double rows, double columns) {
  switch (kind) {
    case AdjustLr::match_rms_adamw: return 0.2 * std::sqrt(std::max(rows, columns));
    case AdjustLr::spectral_unclamped: return std::sqrt(rows / columns);
    default: return std::sqrt(std::max(1.0, rows / columns));
  }
}

}  // namespace

void MuonOptions::check() const {
  detail::check_not_negative(optimizer, "lr", lr);
  detail::check_not_negative(optimizer, "weight_decay", weight_decay);
  detail::check_not_negative(optimizer, "eps", eps);
  detail::check_not_negative(optimizer, "adamw_eps", adamw_eps);
  detail::check_betas(optimizer, adamw_betas);
  if (!(momentum >= 0 && momentum < 1))
    throw Error(fmt::format("muon: momentum {} is not valid; it must be at least 0 and below 1", momentum));
  if (ns_steps < 0 || ns_steps >= 100)
    throw Error(fmt::format("muon: ns_steps {} is not valid; it must be at least 0 and below 100", ns_steps));
}

Tensor detail::orthogonalize(const Tensor& x, const std::array<double, 3>& coefficients, int64_t steps, double eps) {
  const auto [a, b, c] = coefficients;
  const auto rounded = [](const Tensor& t) { return cast(t, DType::bf16); };
  const auto f32 = [](const Tensor& t) { return cast(t, DType::f32); };
  // f32 products of what bf16 holds, rounded once with what is added to them, are what PyTorch computes. A GPU's bf16 products are rounded
  // once more, and many times as fast.
  const auto product = [&](const Tensor& p, const Tensor& q) { return p.device().is_cpu() ? matmul(f32(p), f32(q)) : f32(matmul(p, q)); };
  const bool tall = x.size(0) > x.size(1);
  Tensor y = rounded(tall ? transpose(x) : x);
  y = rounded(f32(y) / clamp(f32(rounded(norm(f32(y)))), eps, INFINITY));
  for (int64_t i = 0; i < steps; ++i) {
    const Tensor gram = rounded(product(y, transpose(y)));
    const Tensor change = rounded(f32(gram) * b + product(gram, gram) * c);
    y = rounded(f32(y) * a + product(change, y));
  }
  return tall ? transpose(y) : y;
}

void Muon::update(int group, Device device, const Tensor& found_inf, const std::vector<OptimizerSlot>& slots) {
  const MuonOptions& o = options(group);
  std::vector<OptimizerSlot> matrices, others;
  for (const OptimizerSlot& slot : slots) {
    if (is_matrix(group, slot.value)) {
      matrices.push_back(slot);
      matrices.back().state[1] = empty_like(slot.state[0]);
    } else {
      others.push_back(slot);
      others.back().state[0] = slot.state[1], others.back().state[1] = slot.state[2], others.back().state[2] = {};
    }
  }
  if (!matrices.empty()) {
    const auto args =
        +[](const MuonOptions& of) -> UpdateArgs { return {.beta1 = of.momentum, .maximize = of.maximize, .option = of.nesterov}; };
    detail::update(device, UpdateKind::muon, arguments(group, args), found_inf, matrices);
    const Autocast off(DType::bf16, false);
    for (OptimizerSlot& slot : matrices) {
      const Tensor momentum = slot.state[1];
      slot.state[1] = {};
      slot.step = {};
      if (momentum.numel() == 0) continue;
      const int64_t rows = momentum.size(0), columns = momentum.numel() / rows;
      const Tensor direction = detail::orthogonalize(reshape(momentum, {rows, columns}), o.ns_coefficients, o.ns_steps, o.eps);
      // The ratio stands in the direction, since what a captured graph reads anew are options alone.
      const double ratio = adjustment(o.adjust_lr_fn, double(rows), double(columns));
      slot.state[0] = contiguous(reshape(cast(direction, momentum.dtype()) * ratio, momentum.shape()));
    }
    const auto step = +[](const MuonOptions& of) -> UpdateArgs { return {.lr = of.lr, .weight_decay = of.weight_decay, .other = {1}}; };
    detail::update(device, UpdateKind::scaled_step, arguments(group, step), found_inf, matrices);
  }
  if (!others.empty()) {
    const auto args = +[](const MuonOptions& of) -> AdamWArgs {
      return {.lr = of.lr,
              .beta1 = of.adamw_betas.first,
              .beta2 = of.adamw_betas.second,
              .eps = of.adamw_eps,
              .weight_decay = of.weight_decay,
              .decoupled = true,
              .maximize = of.maximize};
    };
    RETAPE_DISPATCH(device, adamw(arguments(group, args), found_inf, others));
  }
}

}  // namespace retape
