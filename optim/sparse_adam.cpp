#include <retape/optim/sparse_adam.h>

#include <fmt/format.h>

#include <retape/core/dispatch.h>

namespace retape {

void SparseAdamOptions::check() const {
  detail::check_not_negative(optimizer, "lr", lr);
  detail::check_not_negative(optimizer, "eps", eps);
  detail::check_betas(optimizer, betas);
}
std::vector<const char*> SparseAdam::state_names() const { return {"exp_avg", "exp_avg_sq"}; }

namespace {
AdamWArgs args_of(const SparseAdamOptions& o) {
  return {.lr = o.lr,
          .beta1 = o.betas.first,
          .beta2 = o.betas.second,
          .eps = o.eps,
          .weight_decay = 0,
          .decoupled = false,
          .maximize = o.maximize,
          .eps_inside = true};
}
}  // namespace

void SparseAdam::update(int group, Device device, const Tensor& found_inf, const std::vector<OptimizerSlot>& slots) {
  RETAPE_DISPATCH(device, adamw(arguments(group, args_of), found_inf, slots));
}

}  // namespace retape
