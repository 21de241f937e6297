#include <retape/optim/sgd.h>

#include <fmt/format.h>

#include <retape/core/dispatch.h>

namespace retape {

void SgdOptions::check() const {
  detail::check_not_negative(optimizer, "lr", lr);
  detail::check_not_negative(optimizer, "momentum", momentum);
  detail::check_not_negative(optimizer, "weight_decay", weight_decay);
  if (nesterov && !(momentum > 0 && dampening == 0))
    throw Error(fmt::format("sgd: nesterov with momentum {} and dampening {}; it needs a momentum above 0 and a dampening of 0", momentum, dampening));
}
std::vector<const char*> Sgd::state_names() const { return {"momentum_buffer"}; }

void Sgd::update(int group, Device device, const std::vector<OptimizerSlot>& slots) {
  const SgdOptions& o = options(group);
  const SgdArgs args{.lr = o.lr, .momentum = o.momentum, .dampening = o.dampening, .weight_decay = o.weight_decay, .nesterov = o.nesterov, .maximize = o.maximize};
  RETAPE_DISPATCH(device, sgd(args, slots));
}

}  // namespace retape
