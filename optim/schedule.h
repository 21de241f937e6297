// Learning rates as functions of the step, counted from 0: plain structs, to be called. What a schedule does depends on nothing else, so that
// training resumes wherever it stopped.
//
//     const WarmupCosine schedule{.lr = 1e-3, .min_lr = 1e-4, .warmup = 100, .steps = 2000};
//     optimizer.set_lr(schedule(step));
//
// Some say what the rate is (Warmup*, Noam): they are called with the step. The others, PyTorch's, say what becomes of the rate that the
// optimizer was made with: they are called with that rate and the step. An LRScheduler drives either, and moves all parameter groups:
//
//     LRScheduler scheduler(optimizer, CosineAnnealingLR{.T_max = 2000});
//     LRScheduler scheduler(optimizer, Warmup{.schedule = CosineAnnealingLR{.T_max = 1900}, .warmup = 100});
//     ...
//     optimizer.step();
//     scheduler.step();
//
// A schedule of your own is any callable of (step) or of (base_lr, step).
#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <type_traits>
#include <vector>

#include <retape/core/tensor.h>

namespace retape {

class Optimizer;

// ---- rates by themselves -----------------------------------------------------------------------------------------------
// The first three warm up the same way: step s < warmup has lr * (s + 1) / (warmup + 1), so that the first step is not lost and step
// `warmup` has lr itself. From step `steps` on the rate is min_lr.

struct WarmupConstant {
  double lr = 1e-3;
  int64_t warmup = 0;
  double operator()(int64_t step) const;
};
/// A straight line from lr at step `warmup` to min_lr at step `steps`.
struct WarmupLinear {
  double lr = 1e-3, min_lr = 0;
  int64_t warmup = 0, steps = 0;
  double operator()(int64_t step) const;
};
/// Half a cosine from lr at step `warmup` to min_lr at step `steps` (Loshchilov & Hutter 2017, without restarts).
struct WarmupCosine {
  double lr = 1e-3, min_lr = 0;
  int64_t warmup = 0, steps = 0;
  double operator()(int64_t step) const;
};
/// factor * dim^-0.5 * min(s^-0.5, s * warmup^-1.5) for s = step + 1: up in a straight line for `warmup` steps, then down with the root of
/// the step; there is no last step (Vaswani et al. 2017, "Noam").
struct Noam {
  double factor = 1;
  int64_t dim = 512, warmup = 4000;
  double operator()(int64_t step) const;
};

// ---- any schedule ------------------------------------------------------------------------------------------------------

/// Any of the structs here, or a callable of (step) or (base_lr, step). Throws Error if one of its options is out of range.
class Schedule {
 public:
  Schedule() = default;
  template <class S>
  requires(!std::is_same_v<std::remove_cvref_t<S>, Schedule>) Schedule(S s) {
    if constexpr (requires { s.check(); }) s.check();
    if constexpr (requires(S & of) { of.momentum(int64_t{}); })
      momentum_ = [s](int64_t step) -> std::optional<double> { return s.momentum(step); };
    if constexpr (std::is_invocable_v<S&, double, int64_t>)
      lr_ = [s](double base_lr, int64_t step) mutable { return double(s(base_lr, step)); };
    else lr_ = [s](double, int64_t step) mutable { return double(s(step)); };
  }
  /// Throws Error if there is none.
  double operator()(double base_lr, int64_t step) const;
  /// What the momentum should be; nothing if it should stay.
  std::optional<double> momentum(int64_t step) const { return momentum_ ? momentum_(step) : std::nullopt; }
  explicit operator bool() const { return bool(lr_); }

 private:
  std::function<double(double, int64_t)> lr_;
  std::function<std::optional<double>(int64_t)> momentum_;
};

// ---- PyTorch's, with its names and defaults (torch.optim.lr_scheduler) -----------------------------------------------------

/// base_lr times lr_lambda(step).
struct LambdaLR {
  std::function<double(int64_t)> lr_lambda = {};
  double operator()(double base_lr, int64_t step) const;
  void check() const;
};
/// base_lr times lr_lambda(1), lr_lambda(2), ..., lr_lambda(step).
struct MultiplicativeLR {
  std::function<double(int64_t)> lr_lambda = {};
  double operator()(double base_lr, int64_t step) const;
  void check() const;
};
/// Times gamma every step_size steps.
struct StepLR {
  int64_t step_size = 0;
  double gamma = 0.1;
  double operator()(double base_lr, int64_t step) const;
  void check() const;
};
/// Times gamma at each of the milestones, in any order.
struct MultiStepLR {
  std::vector<int64_t> milestones = {};
  double gamma = 0.1;
  double operator()(double base_lr, int64_t step) const;
};
/// Times factor until step total_iters.
struct ConstantLR {
  double factor = 1.0 / 3;
  int64_t total_iters = 5;
  double operator()(double base_lr, int64_t step) const;
  void check() const;
};
/// Times a factor that goes in a straight line from start_factor to end_factor, which it is from step total_iters on.
struct LinearLR {
  double start_factor = 1.0 / 3, end_factor = 1;
  int64_t total_iters = 5;
  double operator()(double base_lr, int64_t step) const;
  void check() const;
};
/// Times gamma^step.
struct ExponentialLR {
  double gamma = 1;
  double operator()(double base_lr, int64_t step) const;
};
/// Times (1 - step / total_iters)^power; 0 from step total_iters on.
struct PolynomialLR {
  int64_t total_iters = 5;
  double power = 1;
  double operator()(double base_lr, int64_t step) const;
  void check() const;
};
/// Half a cosine from base_lr down to eta_min at step T_max, then up again, and so on.
struct CosineAnnealingLR {
  int64_t T_max = 0;
  double eta_min = 0;
  double operator()(double base_lr, int64_t step) const;
  void check() const;
};
/// Half a cosine from base_lr to eta_min in T_0 steps, then from base_lr again in T_0 * T_mult, and so on (Loshchilov & Hutter 2017).
struct CosineAnnealingWarmRestarts {
  int64_t T_0 = 0, T_mult = 1;
  double eta_min = 0;
  double operator()(double base_lr, int64_t step) const;
  void check() const;
};

enum class Anneal : uint8_t { cos, linear };
/// From max_lr / div_factor up to max_lr in pct_start of all steps, then down to max_lr / div_factor / final_div_factor; three_phase: down as
/// it came up, then on. The momentum, or the first beta, goes the other way if cycle_momentum. What the optimizer was made with does not
/// matter (Smith & Topin 2019). Throws Error after total_steps.
struct OneCycleLR {
  double max_lr = 0;
  int64_t total_steps = 0;
  double pct_start = 0.3;
  Anneal anneal_strategy = Anneal::cos;
  bool cycle_momentum = true;
  double base_momentum = 0.85, max_momentum = 0.95, div_factor = 25, final_div_factor = 1e4;
  bool three_phase = false;
  double operator()(double base_lr, int64_t step) const;
  std::optional<double> momentum(int64_t step) const;
  void check() const;

 private:
  double at(int64_t step, double initial, double top, double last) const;
};

enum class Cycle : uint8_t { triangular, triangular2, exp_range };
/// From base_lr up to max_lr in step_size_up steps and down again in step_size_down (by default as many); triangular2 halves the height with
/// each cycle, exp_range makes it gamma^step. The momentum, or the first beta, goes the other way if cycle_momentum (Smith 2017).
struct CyclicLR {
  double base_lr = 0, max_lr = 0;
  int64_t step_size_up = 2000;
  std::optional<int64_t> step_size_down = {};
  Cycle mode = Cycle::triangular;
  double gamma = 1;
  bool cycle_momentum = true;
  double base_momentum = 0.8, max_momentum = 0.9;
  double operator()(double base_lr, int64_t step) const;
  std::optional<double> momentum(int64_t step) const;
  void check() const;

 private:
  double height(int64_t step) const;
};
/// From base_lr to swa_lr in anneal_epochs steps, then constant. torch: optim.swa_utils.SWALR.
struct SWALR {
  double swa_lr = 0;
  int64_t anneal_epochs = 10;
  Anneal anneal_strategy = Anneal::cos;
  double operator()(double base_lr, int64_t step) const;
  void check() const;
};
/// schedules[0] until step milestones[0], then schedules[1], whose steps count from there, and so on.
struct SequentialLR {
  std::vector<Schedule> schedules = {};
  std::vector<int64_t> milestones = {};
  double operator()(double base_lr, int64_t step) const;
  std::optional<double> momentum(int64_t step) const;
  void check() const;

 private:
  size_t phase(int64_t step, int64_t& begin) const;
};
/// Each schedule gets the rate that those before it have made: what multiplies is multiplied. (PyTorch's differs for schedules that do not
/// multiply, such as CosineAnnealingLR with eta_min.)
struct ChainedScheduler {
  std::vector<Schedule> schedules = {};
  double operator()(double base_lr, int64_t step) const;
  std::optional<double> momentum(int64_t step) const;
  void check() const;
};

// ---- others ------------------------------------------------------------------------------------------------------------

/// Any schedule after a warm-up: step s < warmup has (s + 1) / (warmup + 1) of its first rate; its own steps count from there.
struct Warmup {
  Schedule schedule = {};
  int64_t warmup = 0;
  double operator()(double base_lr, int64_t step) const;
  std::optional<double> momentum(int64_t step) const;
  void check() const;
};
/// base_lr * sqrt(timescale / (step - warmup + timescale)) after a straight line up from 0; timescale is by default the warm-up, or 10000
/// without one. transformers: get_inverse_sqrt_schedule.
struct InverseSqrtLR {
  int64_t warmup = 0;
  std::optional<int64_t> timescale = {};
  double operator()(double base_lr, int64_t step) const;
  void check() const;
};

enum class WsdDecay : uint8_t { linear, cosine, sqrt };
/// Warm-up in a straight line, base_lr for `stable` steps, then a decay to min_lr_ratio * base_lr in `decay` steps: in a line, as half a
/// cosine, or as 1 minus a root (Hu et al. 2024, "warmup-stable-decay"). transformers: get_wsd_schedule.
struct WSD {
  int64_t warmup = 0, stable = 0, decay = 0;
  double min_lr_ratio = 0;
  WsdDecay decay_type = WsdDecay::linear;
  double operator()(double base_lr, int64_t step) const;
  void check() const;
};

// ---- what moves an optimizer's rates -----------------------------------------------------------------------------------

/// Gives the groups of an optimizer their rates: those of step 0 at once, those of the next step with each step(). What a group had then is
/// its base_lr. One LRScheduler an optimizer: combine schedules by ChainedScheduler and SequentialLR. The optimizer must outlive it. torch:
/// a scheduler object, such as lr_scheduler.StepLR(optimizer, ...).
class LRScheduler {
 public:
  /// Throws Error if a schedule moves the momentum of an optimizer that has none.
  LRScheduler(Optimizer& optimizer, const Schedule& schedule);
  /// One schedule for each parameter group.
  LRScheduler(Optimizer& optimizer, const std::vector<Schedule>& schedules);
  /// To be called after optimizer.step().
  void step();
  int64_t last_epoch() const { return last_epoch_; }  ///< how many steps were made
  const std::vector<double>& get_last_lr() const { return last_lr_; }
  const std::vector<double>& base_lrs() const { return base_lrs_; }

  /// base_lrs, last_epoch and _last_lr, of each group.
  NamedTensors state_dict() const;
  /// Continues from a state_dict(), with the same schedules, and sets the optimizer's rates. Throws Error, and changes nothing, if it
  /// does not fit.
  void load_state_dict(const NamedTensors& state);

 private:
  void apply();
  Optimizer& optimizer_;
  std::vector<Schedule> schedules_;
  std::vector<double> base_lrs_, last_lr_;
  int64_t last_epoch_ = 0;
};

enum class PlateauMode : uint8_t { min, max };
enum class ThresholdMode : uint8_t { rel, abs };
struct ReduceLROnPlateauOptions {
  PlateauMode mode = PlateauMode::min;  ///< whether the metric should fall or rise
  double factor = 0.1;
  int64_t patience = 10;    ///< calls without improvement that are let pass
  double threshold = 1e-4;  ///< an improvement is more than this, relative to the best so far, or absolute
  ThresholdMode threshold_mode = ThresholdMode::rel;
  int64_t cooldown = 0;             ///< calls after a reduction in which nothing is counted
  std::vector<double> min_lr = {};  ///< one for all groups or one each; none is 0
  double eps = 1e-8;                ///< smaller changes are not made
};
/// Multiplies rates by factor when a metric has stopped improving; the one schedule that depends on more than the step. torch:
/// lr_scheduler.ReduceLROnPlateau.
class ReduceLROnPlateau {
 public:
  /// Throws Error for options out of range.
  explicit ReduceLROnPlateau(Optimizer& optimizer, const ReduceLROnPlateauOptions& options = {});
  void step(double metric);
  std::vector<double> get_last_lr() const;

  /// best, num_bad_epochs, cooldown_counter and last_epoch; the rates themselves are the optimizer's state.
  NamedTensors state_dict() const;
  /// Throws Error, and changes nothing, if it does not fit.
  void load_state_dict(const NamedTensors& state);

 private:
  Optimizer& optimizer_;
  ReduceLROnPlateauOptions options_;
  double best_;
  int64_t bad_ = 0, cooldown_ = 0, last_epoch_ = 0;
};

}  // namespace retape
