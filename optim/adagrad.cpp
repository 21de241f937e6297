#include <retape/optim/adagrad.h>

#include <retape/core/dispatch.h>

namespace retape {

void AdagradOptions::check() const {
  detail::check_not_negative(optimizer, "lr", lr);
  detail::check_not_negative(optimizer, "lr_decay", lr_decay);
  detail::check_not_negative(optimizer, "weight_decay", weight_decay);
  detail::check_not_negative(optimizer, "initial_accumulator_value", initial_accumulator_value);
  detail::check_not_negative(optimizer, "eps", eps);
}
std::vector<const char*> Adagrad::state_names() const { return {"sum"}; }

namespace {
AdagradArgs args_of(const AdagradOptions& o) {
  return {.lr = o.lr, .lr_decay = o.lr_decay, .weight_decay = o.weight_decay, .eps = o.eps, .maximize = o.maximize};
}
}  // namespace

void Adagrad::update(int group, Device device, const Tensor& found_inf, const std::vector<OptimizerSlot>& slots) {
  RETAPE_DISPATCH(device, adagrad(arguments(group, args_of), found_inf, slots));
}

}  // namespace retape
