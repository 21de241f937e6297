#include <retape/optim/schedule.h>

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include <retape/optim/entries.h>
#include <retape/optim/optimizer.h>

namespace retape {
namespace {

constexpr double pi = std::numbers::pi;

double warm_up(double lr, int64_t warmup, int64_t step) { return lr * double(step + 1) / double(warmup + 1); }
// How much of the way from step `warmup` to step `steps` is behind; both ends are before and after it.
double progress(int64_t warmup, int64_t steps, int64_t step) { return double(step - warmup) / double(steps - warmup); }
double half_cosine(double from, double to, double share) { return to + (from - to) * (1 + std::cos(pi * share)) / 2; }
double anneal(Anneal how, double from, double to, double share) {
  return how == Anneal::cos ? half_cosine(from, to, share) : from + (to - from) * share;
}
template <class T> void require(bool good, const char* schedule, const char* option, T value, const char* rule) {
  if (!good) throw Error(fmt::format("{}: {} {} is not valid; it must be {}", schedule, option, value, rule));
}
void check_momenta(const char* schedule, bool cycles, double base, double max) {
  if (!cycles) return;
  require(base >= 0, schedule, "base_momentum", base, "at least 0");
  require(max >= base, schedule, "max_momentum", max, "at least base_momentum");
}

}  // namespace

double WarmupConstant::operator()(int64_t step) const { return step < warmup ? warm_up(lr, warmup, step) : lr; }
double WarmupLinear::operator()(int64_t step) const {
  if (step < warmup) return warm_up(lr, warmup, step);
  if (step >= steps) return min_lr;
  return lr + (min_lr - lr) * progress(warmup, steps, step);
}
double WarmupCosine::operator()(int64_t step) const {
  if (step < warmup) return warm_up(lr, warmup, step);
  if (step >= steps) return min_lr;
  return min_lr + (lr - min_lr) * (1 + std::cos(std::numbers::pi * progress(warmup, steps, step))) / 2;
}

double Noam::operator()(int64_t step) const {
  const double s = double(step + 1), w = double(warmup);
  return factor / std::sqrt(double(dim)) * (s < w ? s / (w * std::sqrt(w)) : 1 / std::sqrt(s));
}

double Schedule::operator()(double base_lr, int64_t step) const {
  if (!lr_) throw Error("schedule: it is empty; give it one of the structs in optim/schedule.h, or a function of the step");
  return lr_(base_lr, step);
}

// ---- PyTorch's ---------------------------------------------------------------------------------------------------------

double LambdaLR::operator()(double base_lr, int64_t step) const { return base_lr * lr_lambda(step); }
void LambdaLR::check() const {
  if (!lr_lambda) throw Error("lambda_lr: lr_lambda is empty");
}
double MultiplicativeLR::operator()(double base_lr, int64_t step) const {
  for (int64_t s = 1; s <= step; ++s) base_lr *= lr_lambda(s);
  return base_lr;
}
void MultiplicativeLR::check() const {
  if (!lr_lambda) throw Error("multiplicative_lr: lr_lambda is empty");
}

double StepLR::operator()(double base_lr, int64_t step) const { return base_lr * std::pow(gamma, double(step / step_size)); }
void StepLR::check() const { require(step_size >= 1, "step_lr", "step_size", step_size, "at least 1"); }

double MultiStepLR::operator()(double base_lr, int64_t step) const {
  return base_lr * std::pow(gamma, double(std::count_if(milestones.begin(), milestones.end(), [&](int64_t m) { return m <= step; })));
}

double ConstantLR::operator()(double base_lr, int64_t step) const { return step < total_iters ? base_lr * factor : base_lr; }
void ConstantLR::check() const { require(factor >= 0 && factor <= 1, "constant_lr", "factor", factor, "between 0 and 1"); }

double LinearLR::operator()(double base_lr, int64_t step) const {
  if (step >= total_iters) return base_lr * end_factor;
  return base_lr * (start_factor + (end_factor - start_factor) * double(step) / double(total_iters));
}
void LinearLR::check() const {
  require(start_factor > 0 && start_factor <= 1, "linear_lr", "start_factor", start_factor, "above 0 and at most 1");
  require(end_factor >= 0 && end_factor <= 1, "linear_lr", "end_factor", end_factor, "between 0 and 1");
}

double ExponentialLR::operator()(double base_lr, int64_t step) const { return base_lr * std::pow(gamma, double(step)); }

double PolynomialLR::operator()(double base_lr, int64_t step) const {
  return base_lr * std::pow(1 - double(std::min(step, total_iters)) / double(total_iters), power);
}
void PolynomialLR::check() const { require(total_iters >= 1, "polynomial_lr", "total_iters", total_iters, "at least 1"); }

double CosineAnnealingLR::operator()(double base_lr, int64_t step) const {
  return half_cosine(base_lr, eta_min, double(step) / double(T_max));
}
void CosineAnnealingLR::check() const { require(T_max >= 1, "cosine_annealing_lr", "T_max", T_max, "at least 1"); }

double CosineAnnealingWarmRestarts::operator()(double base_lr, int64_t step) const {
  int64_t length = T_0;
  if (T_mult == 1) step %= length;
  for (; step >= length; length *= T_mult) step -= length;
  return half_cosine(base_lr, eta_min, double(step) / double(length));
}
void CosineAnnealingWarmRestarts::check() const {
  require(T_0 >= 1, "cosine_annealing_warm_restarts", "T_0", T_0, "at least 1");
  require(T_mult >= 1, "cosine_annealing_warm_restarts", "T_mult", T_mult, "at least 1");
}

// From `initial` to `top` and back, or on, to `last`; the ends of phases are where PyTorch has them, between steps.
double OneCycleLR::at(int64_t step, double initial, double top, double last) const {
  if (step > total_steps) throw Error(fmt::format("one_cycle_lr: step {} is after the last; total_steps is {}", step, total_steps));
  const double s = double(step), up = pct_start * double(total_steps) - 1, down = 2 * pct_start * double(total_steps) - 2;
  const double end = double(total_steps - 1);
  if (s <= up && up > 0) return anneal(anneal_strategy, initial, top, s / up);
  if (!three_phase) return anneal(anneal_strategy, top, last, (s - up) / (end - up));
  if (s <= down) return anneal(anneal_strategy, top, initial, (s - up) / (down - up));
  return anneal(anneal_strategy, initial, last, (s - down) / (end - down));
}
double OneCycleLR::operator()(double, int64_t step) const {
  const double initial = max_lr / div_factor;
  return at(step, initial, max_lr, initial / final_div_factor);
}
std::optional<double> OneCycleLR::momentum(int64_t step) const {
  if (!cycle_momentum) return std::nullopt;
  return at(step, max_momentum, base_momentum, max_momentum);
}
void OneCycleLR::check() const {
  constexpr auto name = "one_cycle_lr";
  require(max_lr >= 0, name, "max_lr", max_lr, "at least 0");
  require(total_steps >= 1, name, "total_steps", total_steps, "at least 1");
  require(pct_start >= 0 && pct_start <= 1, name, "pct_start", pct_start, "between 0 and 1");
  require(div_factor > 0, name, "div_factor", div_factor, "above 0");
  require(final_div_factor > 0, name, "final_div_factor", final_div_factor, "above 0");
  check_momenta(name, cycle_momentum, base_momentum, max_momentum);
}

// Between 0 and 1.
double CyclicLR::height(int64_t step) const {
  const double up = double(step_size_up), total = up + double(step_size_down.value_or(step_size_up)), share = up / total;
  const double cycle = std::floor(1 + double(step) / total), x = 1 + double(step) / total - cycle;
  const double triangle = x <= share ? x / share : (x - 1) / (share - 1);
  switch (mode) {
    case Cycle::triangular2: return triangle / std::pow(2.0, cycle - 1);
    case Cycle::exp_range: return triangle * std::pow(gamma, double(step));
    default: return triangle;
  }
}
double CyclicLR::operator()(double, int64_t step) const { return base_lr + (max_lr - base_lr) * height(step); }
std::optional<double> CyclicLR::momentum(int64_t step) const {
  if (!cycle_momentum) return std::nullopt;
  return max_momentum - (max_momentum - base_momentum) * height(step);
}
void CyclicLR::check() const {
  constexpr auto name = "cyclic_lr";
  require(base_lr >= 0, name, "base_lr", base_lr, "at least 0");
  require(max_lr >= 0, name, "max_lr", max_lr, "at least 0");
  require(step_size_up >= 1, name, "step_size_up", step_size_up, "at least 1");
  if (step_size_down) require(*step_size_down >= 1, name, "step_size_down", *step_size_down, "at least 1");
  check_momenta(name, cycle_momentum, base_momentum, max_momentum);
}

double SWALR::operator()(double base_lr, int64_t step) const {
  const double share = anneal_epochs ? std::min(1.0, double(step) / double(anneal_epochs)) : 1;
  return anneal(anneal_strategy, base_lr, swa_lr, share);
}
void SWALR::check() const {
  require(swa_lr >= 0, "swa_lr", "swa_lr", swa_lr, "at least 0");
  require(anneal_epochs >= 0, "swa_lr", "anneal_epochs", anneal_epochs, "at least 0");
}

size_t SequentialLR::phase(int64_t step, int64_t& begin) const {
  size_t i = 0;
  begin = 0;
  while (i < milestones.size() && step >= milestones[i]) begin = milestones[i++];
  return i;
}
double SequentialLR::operator()(double base_lr, int64_t step) const {
  int64_t begin;
  const size_t i = phase(step, begin);
  return schedules[i](base_lr, step - begin);
}
std::optional<double> SequentialLR::momentum(int64_t step) const {
  int64_t begin;
  const size_t i = phase(step, begin);
  return schedules[i].momentum(step - begin);
}
void SequentialLR::check() const {
  if (schedules.size() != milestones.size() + 1)
    throw Error(fmt::format("sequential_lr: {} schedules and {} milestones; there must be one schedule more than milestones",
                            schedules.size(), milestones.size()));
  if (!std::is_sorted(milestones.begin(), milestones.end())) throw Error("sequential_lr: the milestones do not rise");
  for (auto& s : schedules)
    if (!s) throw Error(fmt::format("sequential_lr: schedule {} is empty", &s - schedules.data()));
}

double ChainedScheduler::operator()(double base_lr, int64_t step) const {
  for (auto& s : schedules) base_lr = s(base_lr, step);
  return base_lr;
}
std::optional<double> ChainedScheduler::momentum(int64_t step) const {
  std::optional<double> last;
  for (auto& s : schedules)
    if (const auto m = s.momentum(step)) last = m;
  return last;
}
void ChainedScheduler::check() const {
  if (schedules.empty()) throw Error("chained_scheduler: there are no schedules");
  for (auto& s : schedules)
    if (!s) throw Error(fmt::format("chained_scheduler: schedule {} is empty", &s - schedules.data()));
}

// ---- others ------------------------------------------------------------------------------------------------------------

double Warmup::operator()(double base_lr, int64_t step) const {
  return step < warmup ? warm_up(schedule(base_lr, 0), warmup, step) : schedule(base_lr, step - warmup);
}
std::optional<double> Warmup::momentum(int64_t step) const { return schedule.momentum(std::max<int64_t>(0, step - warmup)); }
void Warmup::check() const {
  require(warmup >= 0, "warmup", "warmup", warmup, "at least 0");
  if (!schedule) throw Error("warmup: the schedule is empty");
}

double InverseSqrtLR::operator()(double base_lr, int64_t step) const {
  if (step < warmup) return base_lr * double(step) / double(warmup);
  const double scale = double(timescale.value_or(warmup ? warmup : 10000));
  return base_lr / std::sqrt((double(step - warmup) + scale) / scale);
}
void InverseSqrtLR::check() const {
  require(warmup >= 0, "inverse_sqrt_lr", "warmup", warmup, "at least 0");
  if (timescale) require(*timescale >= 1, "inverse_sqrt_lr", "timescale", *timescale, "at least 1");
}

double WSD::operator()(double base_lr, int64_t step) const {
  double share = 0;
  if (step < warmup) {
    share = double(step) / double(warmup);
  } else if (step < warmup + stable) {
    return base_lr;
  } else if (step < warmup + stable + decay) {
    const double behind = double(step - warmup - stable) / double(decay);
    share = decay_type == WsdDecay::linear   ? 1 - behind
            : decay_type == WsdDecay::cosine ? half_cosine(1, 0, behind)
                                             : 1 - std::sqrt(behind);
  }
  return base_lr * (share * (1 - min_lr_ratio) + min_lr_ratio);
}
void WSD::check() const {
  require(warmup >= 0, "wsd", "warmup", warmup, "at least 0");
  require(stable >= 0, "wsd", "stable", stable, "at least 0");
  require(decay >= 0, "wsd", "decay", decay, "at least 0");
  require(min_lr_ratio >= 0 && min_lr_ratio <= 1, "wsd", "min_lr_ratio", min_lr_ratio, "between 0 and 1");
}

// ---- what moves an optimizer's rates -----------------------------------------------------------------------------------

LRScheduler::LRScheduler(Optimizer& optimizer, const Schedule& schedule)
    : LRScheduler(optimizer, std::vector<Schedule>(size_t(optimizer.group_count()), schedule)) {}
LRScheduler::LRScheduler(Optimizer& optimizer, const std::vector<Schedule>& schedules) : optimizer_(optimizer), schedules_(schedules) {
  if (int64_t(schedules.size()) != optimizer.group_count())
    throw Error(fmt::format("lr_scheduler: {} schedules for {} parameter groups", schedules.size(), optimizer.group_count()));
  for (int g = 0; g < optimizer.group_count(); ++g) base_lrs_.push_back(optimizer.lr(g));
  apply();
}

// All rates are computed before the first is set.
void LRScheduler::apply() {
  std::vector<double> lrs;
  for (size_t g = 0; g < schedules_.size(); ++g) {
    lrs.push_back(schedules_[g](base_lrs_[g], last_epoch_));
    detail::check_not_negative("lr_scheduler", "lr", lrs.back());
    if (schedules_[g].momentum(last_epoch_)) optimizer_.momentum(int(g));
  }
  for (size_t g = 0; g < schedules_.size(); ++g) {
    optimizer_.set_lr(int(g), lrs[g]);
    if (const auto m = schedules_[g].momentum(last_epoch_)) optimizer_.set_momentum(int(g), *m);
  }
  last_lr_ = std::move(lrs);
}
void LRScheduler::step() {
  ++last_epoch_;
  try {
    apply();
  } catch (...) {
    --last_epoch_;
    throw;
  }
}

NamedTensors LRScheduler::state_dict() const {
  return {{"base_lrs", tensor(base_lrs_)}, {"last_epoch", detail::count_entry(last_epoch_)}, {"_last_lr", tensor(last_lr_)}};
}
void LRScheduler::load_state_dict(const NamedTensors& state) {
  detail::Entries entries("lr_scheduler", state);
  const auto base = entries.numbers("base_lrs", int64_t(base_lrs_.size()));
  const int64_t epoch = entries.count("last_epoch");
  const auto last = entries.numbers("_last_lr", int64_t(base_lrs_.size()));
  entries.check_empty();
  LRScheduler loaded = *this;
  loaded.base_lrs_ = base, loaded.last_epoch_ = epoch;
  loaded.apply();
  base_lrs_ = base, last_epoch_ = epoch, last_lr_ = loaded.last_lr_;
}

ReduceLROnPlateau::ReduceLROnPlateau(Optimizer& optimizer, const ReduceLROnPlateauOptions& options)
    : optimizer_(optimizer), options_(options), best_(options.mode == PlateauMode::min ? INFINITY : -INFINITY) {
  constexpr auto name = "reduce_lr_on_plateau";
  require(options.factor >= 0 && options.factor < 1, name, "factor", options.factor, "at least 0 and below 1");
  require(options.patience >= 0, name, "patience", options.patience, "at least 0");
  require(options.cooldown >= 0, name, "cooldown", options.cooldown, "at least 0");
  auto& min_lr = options_.min_lr;
  if (min_lr.empty()) min_lr = {0};
  if (min_lr.size() == 1) min_lr.assign(size_t(optimizer.group_count()), min_lr.front());
  if (int64_t(min_lr.size()) != optimizer.group_count())
    throw Error(fmt::format("{}: {} numbers in min_lr for {} parameter groups", name, min_lr.size(), optimizer.group_count()));
  for (const double lr : min_lr) detail::check_not_negative(name, "min_lr", lr);
}

void ReduceLROnPlateau::step(double metric) {
  const ReduceLROnPlateauOptions& o = options_;
  ++last_epoch_;
  const bool falls = o.mode == PlateauMode::min;
  const double sign = falls ? -1 : 1,
               bound = o.threshold_mode == ThresholdMode::rel ? best_ * (1 + sign * o.threshold) : best_ + sign * o.threshold;
  if (falls ? metric < bound : metric > bound) best_ = metric, bad_ = 0;
  else ++bad_;
  if (cooldown_ > 0) --cooldown_, bad_ = 0;
  if (bad_ <= o.patience) return;
  for (int g = 0; g < optimizer_.group_count(); ++g) {
    const double before = optimizer_.lr(g), after = std::max(before * o.factor, o.min_lr[size_t(g)]);
    if (before - after > o.eps) optimizer_.set_lr(g, after);
  }
  cooldown_ = o.cooldown, bad_ = 0;
}
std::vector<double> ReduceLROnPlateau::get_last_lr() const {
  std::vector<double> lrs;
  for (int g = 0; g < optimizer_.group_count(); ++g) lrs.push_back(optimizer_.lr(g));
  return lrs;
}
NamedTensors ReduceLROnPlateau::state_dict() const {
  return {{"best", detail::number_entry(best_)},
          {"num_bad_epochs", detail::count_entry(bad_)},
          {"cooldown_counter", detail::count_entry(cooldown_)},
          {"last_epoch", detail::count_entry(last_epoch_)}};
}
void ReduceLROnPlateau::load_state_dict(const NamedTensors& state) {
  detail::Entries entries("reduce_lr_on_plateau", state);
  const double best = entries.number("best");
  const int64_t bad = entries.count("num_bad_epochs"), cooldown = entries.count("cooldown_counter"), last = entries.count("last_epoch");
  entries.check_empty();
  best_ = best, bad_ = bad, cooldown_ = cooldown, last_epoch_ = last;
}

}  // namespace retape
