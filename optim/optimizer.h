// What all optimizers share: parameter groups, the step over all parameters, and the state that a checkpoint holds.
//
//     AdamW optimizer(model.parameters(), {.lr = 3e-4});
//     AdamW optimizer({{matrices, {.weight_decay = 0.1}}, {vectors, {.weight_decay = 0}}});  // two groups
//     ...
//     optimizer.zero_grad();
//     backward(loss);
//     optimizer.step();
#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <retape/autograd/sparse.h>
#include <retape/core/capture.h>
#include <retape/core/kernel_args.h>
#include <retape/core/tensor.h>

namespace retape {

/// Parameters that are trained with the same options.
template <class Options> struct ParamGroup {
  std::vector<Tensor> params;
  Options options = {};
};

/// Computes the loss, and its gradients: what some optimizers call several times in a step.
///
///     optimizer.step([&] {
///       optimizer.zero_grad();
///       const Tensor loss = model.loss(x, y);
///       backward(loss);
///       return loss;
///     });
using Closure = std::function<Tensor()>;

class Optimizer {
 public:
  virtual ~Optimizer();

  /// Updates every parameter that has a gradient, in place; the tape records nothing. Parameters without one (frozen, or unused)
  /// and their state stay as they are, as do the rows that a sparse gradient (autograd/sparse.h) lacks. Throws Error, before anything has
  /// changed, if an option is out of range, if a parameter has changed its dtype or device since its state was made, or if the optimizer
  /// does not take a gradient that is sparse, or dense.
  ///
  /// `found_inf` is for loss scaling (GradScaler::step gives it): f32 without dims. Where it is not 0 nothing changes, step counts
  /// and running means included; that is decided on the device, nobody waits for it.
  virtual void step(const Tensor& found_inf = {});
  /// Calls closure(), steps, and returns its loss. LBFGS and SAM call it several times, and cannot do without.
  virtual Tensor step(const Closure& closure);
  /// Drops all gradients. torch: zero_grad(set_to_none=True).
  void zero_grad();

  /// All parameters, in the order that state_dict() counts them.
  std::vector<Tensor> parameters() const;
  int group_count() const { return int(groups_.size()); }
  double lr(int group = 0) const;
  void set_lr(double lr);             ///< of every group
  void set_lr(int group, double lr);  ///< of one group
  /// The momentum, or the first beta, which some schedules move against the rate. Throws Error if there is none, or for a value below 0,
  /// or a beta of 1 or more.
  double momentum(int group = 0) const;
  void set_momentum(int group, double momentum);

  /// What a checkpoint needs: for parameter i (counted through all groups) "i.step" and the optimizer's own tensors, such as
  /// "i.exp_avg", if it has been updated before; for group g "param_groups.g.lr" and "param_groups.g.params". The tensors are
  /// those that the next step changes, not copies.
  virtual NamedTensors state_dict() const;
  /// Continues from a state_dict() of the same kind of optimizer with the same parameters; values are copied. Throws Error if
  /// anything is missing, unknown, or of another shape or dtype, and has changed nothing then.
  virtual void load_state_dict(const NamedTensors& state);

 protected:
  Optimizer() = default;
  Optimizer(const Optimizer&) = delete;
  Optimizer& operator=(const Optimizer&) = delete;

  /// Throws Error if a tensor is no leaf, is not floating, or is there already.
  void add_group(const char* optimizer, const std::vector<Tensor>& params);

  virtual const char* name() const = 0;
  // Of all tensors that a slot may have, in its order. Of them a group may use some; each is like its parameter, in f32 for half types,
  // and starts with `initial`.
  virtual std::vector<const char*> state_names() const = 0;
  virtual bool uses_state(int, const Tensor&, int) const { return true; }
  virtual double initial_state(int, int) const { return 0; }
  virtual std::pair<Shape, DType> state_layout(const Tensor& param, int k) const;
  virtual double& lr_of(int group) = 0;
  virtual double* momentum_of(int) { return nullptr; }
  virtual bool has_betas() const { return false; }
  static double& lr_of(Optimizer& of, int group) { return of.lr_of(group); }  // for those that wrap another
  static double* momentum_of(Optimizer& of, int group) { return of.momentum_of(group); }
  static bool has_betas(const Optimizer& of) { return of.has_betas(); }
  const std::vector<int64_t>& numbers_of(int group) const { return groups_[size_t(group)]; }
  static const std::vector<int64_t>& numbers_of(const Optimizer& of, int group) { return of.groups_[size_t(group)]; }
  /// What the last step kept for parameter i; undefined before the first.
  const Tensor& state(int64_t i, int k) const { return states_[size_t(i)].tensors[k]; }
  /// Null if update() may be given some rows of a parameter and its state, with the others left as they are; else what forbids it.
  virtual const char* refuses_rows(int) const { return "in any form"; }
  virtual bool takes_dense() const { return true; }
  virtual void check_options(int group) const = 0;
  virtual void update(int group, Device device, const Tensor& found_inf, const std::vector<OptimizerSlot>& slots) = 0;

 private:
  struct State {
    Tensor param;
    Tensor tensors[4];
    Tensor step;  // undefined before the first update
  };
  void check_group(int group) const;
  OptimizerSlot make_slot(int group, int64_t index, const std::optional<SparseRows>& rows, int states) const;
  int group_of(int64_t index) const;
  void count_state();
  void forget_state();
  std::vector<std::vector<int64_t>> groups_;         // numbers of parameters
  std::vector<State> states_;                        // one a parameter
  std::vector<std::pair<Device, int64_t>> counted_;  // bytes of state that messages about memory know of
};

/// Adds the options, a struct with `lr` and check(), which throws Error.
template <class Options> class OptimizerWith : public Optimizer {
 public:
  /// Throws Error for an empty list, for a tensor that is no floating leaf or is listed twice, and for options out of range.
  explicit OptimizerWith(const std::vector<Tensor>& params, const Options& options = {}) { add({params, options}); }
  explicit OptimizerWith(const std::vector<ParamGroup<Options>>& groups) {
    for (auto& group : groups) add(group);
    if (groups.empty()) add_group(Options::optimizer, {});  // throws
  }

  /// May be changed at any time; the next step uses it.
  Options& options(int group = 0) { return *options_.at(size_t(group)); }
  const Options& options(int group = 0) const { return *options_.at(size_t(group)); }

 protected:
  const char* name() const override { return Options::optimizer; }
  double& lr_of(int group) override { return options(group).lr; }
  double* momentum_of([[maybe_unused]] int group) override {
    if constexpr (requires { options(group).momentum; }) return &options(group).momentum;
    else if constexpr (requires { options(group).betas; }) return &options(group).betas.first;
    else return nullptr;
  }
  bool has_betas() const override {
    if constexpr (requires { options().momentum; }) return false;
    else if constexpr (requires { options().betas; }) return true;
    else return false;
  }
  void check_options(int group) const override { options(group).check(); }
  /// What a kernel is given, f(options). A captured graph asks f again before each launch.
  template <class Args> Args arguments(int group, Args (*f)(const Options&)) const {
    Args args = f(options(group));
    args.later = detail::captured_value<Args>(args, [o = options_.at(size_t(group)), f] { return f(*o); });
    return args;
  }

 private:
  void add(const ParamGroup<Options>& group) {
    group.options.check();
    add_group(Options::optimizer, group.params);
    options_.push_back(std::make_shared<Options>(group.options));
  }
  std::vector<std::shared_ptr<Options>> options_;  // with the captured graphs that step
};

namespace detail {
/// Throws Error naming the optimizer and the option unless value is at least 0.
void check_not_negative(const char* optimizer, const char* option, double value);
/// Throws Error unless both are at least 0 and below 1.
void check_betas(const char* optimizer, std::pair<double, double> betas);
/// Runs a rule of core/update_rules.h on slots of one device.
void update(Device device, UpdateKind rule, const UpdateArgs& args, const Tensor& found_inf, const std::vector<OptimizerSlot>& slots);
/// The same for slots of any devices, whose tensors need not be contiguous.
void update_everywhere(UpdateKind rule, const UpdateArgs& args, const Tensor& found_inf, const std::vector<OptimizerSlot>& slots);
/// Gives the slots two more states, from `first` on: the squares of the norms of what two of their tensors hold.
void add_norms(std::vector<OptimizerSlot>& slots, int first, const Tensor& (*a)(const OptimizerSlot&),
               const Tensor& (*b)(const OptimizerSlot&));
}  // namespace detail

/// An optimizer that is one rule of core/update_rules.h. Its Options say which, what its states are called (those without dims last), and
/// what the rule is given.
template <class Options> class RuleOptimizer : public OptimizerWith<Options> {
 public:
  using OptimizerWith<Options>::OptimizerWith;

 protected:
  std::vector<const char*> state_names() const override { return {std::begin(Options::states), std::end(Options::states)}; }
  bool uses_state([[maybe_unused]] int group, const Tensor&, [[maybe_unused]] int k) const override {
    if constexpr (requires(const Options& o) { o.uses(0); }) return this->options(group).uses(k);
    else return true;
  }
  double initial_state([[maybe_unused]] int group, [[maybe_unused]] int k) const override {
    if constexpr (requires(const Options& o) { o.initial(0); }) return this->options(group).initial(k);
    else return 0;
  }
  std::pair<Shape, DType> state_layout(const Tensor& param, int k) const override {
    if constexpr (requires { Options::scalars; })
      if (k >= int(std::size(Options::states)) - Options::scalars) return {Shape{}, DType::f64};
    return Optimizer::state_layout(param, k);
  }
  void update(int group, Device device, const Tensor& found_inf, const std::vector<OptimizerSlot>& slots) override {
    detail::update(device, Options::rule,
                   this->arguments(
                       group, +[](const Options& o) { return o.args(); }),
                   found_inf, slots);
  }
};

}  // namespace retape
