#include <retape/optim/sgd.h>

#include <fmt/format.h>

#include <retape/core/dispatch.h>

namespace retape {

void SGDOptions::check() const {
  detail::check_not_negative(optimizer, "lr", lr);
  detail::check_not_negative(optimizer, "momentum", momentum);
  detail::check_not_negative(optimizer, "weight_decay", weight_decay);
  if (nesterov && !(momentum > 0 && dampening == 0))
    throw Error(fmt::format("sgd: nesterov with momentum {} and dampening {}; it needs a momentum above 0 and a dampening of 0", momentum,
                            dampening));
}
std::vector<const char*> SGD::state_names() const { return {"momentum_buffer"}; }

namespace {
SGDArgs args_of(const SGDOptions& o) {
  return {.lr = o.lr,
          .momentum = o.momentum,
          .dampening = o.dampening,
          .weight_decay = o.weight_decay,
          .nesterov = o.nesterov,
          .maximize = o.maximize};
}
}  // namespace

void SGD::update(int group, Device device, const Tensor& found_inf, const std::vector<OptimizerSlot>& slots) {
  RETAPE_DISPATCH(device, sgd(arguments(group, args_of), found_inf, slots));
}

}  // namespace retape
