#include <retape/optim/adamw.h>

#include <retape/core/dispatch.h>

namespace retape {
namespace {

template <class O> void check_adam(const O& o) {
  detail::check_not_negative(O::optimizer, "lr", o.lr);
  detail::check_not_negative(O::optimizer, "eps", o.eps);
  detail::check_not_negative(O::optimizer, "weight_decay", o.weight_decay);
  detail::check_betas(O::optimizer, o.betas);
}
template <bool decoupled, class O> AdamWArgs args_of(const O& o) {
  return {.lr = o.lr,
          .beta1 = o.betas.first,
          .beta2 = o.betas.second,
          .eps = o.eps,
          .weight_decay = o.weight_decay,
          .decoupled = decoupled,
          .maximize = o.maximize};
}

}  // namespace

void AdamOptions::check() const { check_adam(*this); }
void AdamWOptions::check() const { check_adam(*this); }
std::vector<const char*> Adam::state_names() const { return {"exp_avg", "exp_avg_sq"}; }
std::vector<const char*> AdamW::state_names() const { return {"exp_avg", "exp_avg_sq"}; }

void Adam::update(int group, Device device, const Tensor& found_inf, const std::vector<OptimizerSlot>& slots) {
  RETAPE_DISPATCH(device, adamw(arguments(group, args_of<false, AdamOptions>), found_inf, slots));
}
void AdamW::update(int group, Device device, const Tensor& found_inf, const std::vector<OptimizerSlot>& slots) {
  RETAPE_DISPATCH(device, adamw(arguments(group, args_of<true, AdamWOptions>), found_inf, slots));
}

}  // namespace retape
