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
template <class O> bool decoupled(const O& o) {
  if constexpr (requires { o.decoupled_weight_decay; }) return o.decoupled_weight_decay;
  else return true;
}
template <class O> AdamWArgs adamw_args(const O& o) {
  return {.lr = o.lr,
          .beta1 = o.betas.first,
          .beta2 = o.betas.second,
          .eps = o.eps,
          .weight_decay = o.weight_decay,
          .decoupled = decoupled(o),
          .maximize = o.maximize};
}
template <class O> UpdateArgs amsgrad_args(const O& o) {
  return {.lr = o.lr,
          .beta1 = o.betas.first,
          .beta2 = o.betas.second,
          .eps = o.eps,
          .weight_decay = o.weight_decay,
          .decoupled = decoupled(o),
          .maximize = o.maximize};
}

}  // namespace

void AdamOptions::check() const { check_adam(*this); }
void AdamWOptions::check() const { check_adam(*this); }

template <class O>
void detail::AdamBase<O>::update(int group, Device device, const Tensor& found_inf, const std::vector<OptimizerSlot>& slots) {
  if (this->options(group).amsgrad) detail::update(device, UpdateKind::amsgrad, this->arguments(group, amsgrad_args<O>), found_inf, slots);
  else RETAPE_DISPATCH(device, adamw(this->arguments(group, adamw_args<O>), found_inf, slots));
}
template class detail::AdamBase<AdamOptions>;
template class detail::AdamBase<AdamWOptions>;

}  // namespace retape
