#include <retape/optim/schedule_free.h>

#include <retape/autograd/tape.h>
#include <retape/optim/entries.h>

namespace retape {

void AdamWScheduleFreeOptions::check() const {
  detail::check_not_negative(optimizer, "lr", lr);
  detail::check_not_negative(optimizer, "eps", eps);
  detail::check_not_negative(optimizer, "weight_decay", weight_decay);
  detail::check_betas(optimizer, betas);
  if (betas.first == 0) throw Error(fmt::format("{}: beta 0 is not valid; the first one must be above 0", optimizer));
  detail::check_not_negative(optimizer, "warmup_steps", double(warmup_steps));
  detail::check_not_negative(optimizer, "weight_lr_power", weight_lr_power);
}
UpdateArgs AdamWScheduleFreeOptions::args() const {
  return {.lr = lr,
          .beta1 = betas.first,
          .beta2 = betas.second,
          .eps = eps,
          .weight_decay = weight_decay,
          .other = {double(warmup_steps), r, weight_lr_power},
          .maximize = maximize};
}

void AdamWScheduleFree::step(const Tensor& found_inf) {
  if (!training_) throw Error("adamw_schedule_free: step() after eval(): the weights are averages; call train() first");
  Optimizer::step(found_inf);
}

void AdamWScheduleFree::train() { move(true); }
void AdamWScheduleFree::eval() { move(false); }
void AdamWScheduleFree::move(bool training) {
  if (training == training_) return;
  const NoGrad no_grad;
  const auto params = parameters();
  for (int g = 0; g < group_count(); ++g) {
    std::vector<OptimizerSlot> slots;
    for (const int64_t i : numbers_of(g))
      if (state(i, 0)) slots.push_back({.value = params[size_t(i)], .grad = params[size_t(i)], .state = {state(i, 0)}, .step = {}});
    const double beta = options(g).betas.first;
    detail::update_everywhere(UpdateKind::move_toward, {.other = {training ? 1 - beta : 1 - 1 / beta}}, {}, slots);
  }
  training_ = training;
}

NamedTensors AdamWScheduleFree::state_dict() const {
  NamedTensors out = Optimizer::state_dict();
  out.emplace_back("train_mode", detail::count_entry(training_));
  return out;
}
void AdamWScheduleFree::load_state_dict(const NamedTensors& state) {
  NamedTensors rest;
  Tensor mode;
  for (auto& [name, value] : state)
    if (name == "train_mode" && value && !mode) mode = value;
    else rest.emplace_back(name, value);
  const detail::Entries entries(name(), {});
  if (!mode) entries.fail("entry train_mode is missing");
  const bool training = entries.count("train_mode", mode) != 0;
  Optimizer::load_state_dict(rest);
  training_ = training;
}

}  // namespace retape
