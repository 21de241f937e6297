#include <retape/optim/rules.h>

#include <fmt/format.h>

namespace retape {
namespace {

template <class O> void check_common(const O& o) {
  detail::check_not_negative(O::optimizer, "lr", o.lr);
  if constexpr (requires { o.eps; }) detail::check_not_negative(O::optimizer, "eps", o.eps);
  if constexpr (requires { o.weight_decay; }) detail::check_not_negative(O::optimizer, "weight_decay", o.weight_decay);
  if constexpr (requires { o.betas; }) detail::check_betas(O::optimizer, o.betas);
}
template <class O> UpdateArgs common(const O& o) {
  UpdateArgs a{.lr = o.lr, .maximize = o.maximize};
  if constexpr (requires { o.betas; }) a.beta1 = o.betas.first, a.beta2 = o.betas.second;
  if constexpr (requires { o.eps; }) a.eps = o.eps;
  if constexpr (requires { o.weight_decay; }) a.weight_decay = o.weight_decay;
  if constexpr (requires { o.decoupled_weight_decay; }) a.decoupled = o.decoupled_weight_decay;
  return a;
}
void check_share(const char* optimizer, const char* option, double value) {
  if (!(value >= 0 && value <= 1))
    throw Error(fmt::format("{}: {} {} is not valid; it must be at least 0 and at most 1", optimizer, option, value));
}

}  // namespace

void NAdamOptions::check() const {
  check_common(*this);
  detail::check_not_negative(optimizer, "momentum_decay", momentum_decay);
}
UpdateArgs NAdamOptions::args() const {
  UpdateArgs a = common(*this);
  a.other[0] = momentum_decay;
  return a;
}

void RAdamOptions::check() const { check_common(*this); }
UpdateArgs RAdamOptions::args() const { return common(*this); }

void AdamaxOptions::check() const { check_common(*this); }
UpdateArgs AdamaxOptions::args() const { return common(*this); }

void AdadeltaOptions::check() const {
  check_common(*this);
  check_share(optimizer, "rho", rho);
}
UpdateArgs AdadeltaOptions::args() const {
  UpdateArgs a = common(*this);
  a.beta2 = rho;
  return a;
}

void RMSpropOptions::check() const {
  check_common(*this);
  check_share(optimizer, "alpha", alpha);
  detail::check_not_negative(optimizer, "momentum", momentum);
}
UpdateArgs RMSpropOptions::args() const {
  UpdateArgs a = common(*this);
  a.beta1 = momentum, a.beta2 = alpha, a.option = centered;
  return a;
}

void RpropOptions::check() const {
  check_common(*this);
  if (!(etas.first > 0 && etas.first < 1 && etas.second > 1))
    throw Error(fmt::format("rprop: etas {} and {} are not valid; the first must be above 0 and below 1, the second above 1", etas.first,
                            etas.second));
  if (!(step_sizes.first >= 0 && step_sizes.first <= step_sizes.second))
    throw Error(fmt::format("rprop: step_sizes {} and {} are not valid; the first must be at least 0 and at most the second",
                            step_sizes.first, step_sizes.second));
}
UpdateArgs RpropOptions::args() const {
  UpdateArgs a = common(*this);
  a.beta1 = etas.first, a.beta2 = etas.second, a.other[0] = step_sizes.first, a.other[1] = step_sizes.second;
  return a;
}

void ASGDOptions::check() const {
  check_common(*this);
  detail::check_not_negative(optimizer, "lambd", lambd);
  detail::check_not_negative(optimizer, "alpha", alpha);
  detail::check_not_negative(optimizer, "t0", t0);
}
UpdateArgs ASGDOptions::args() const {
  UpdateArgs a = common(*this);
  a.other[0] = lambd, a.other[1] = alpha, a.other[2] = t0;
  return a;
}

void LionOptions::check() const { check_common(*this); }
UpdateArgs LionOptions::args() const { return common(*this); }

}  // namespace retape
