// What works around another optimizer: Lookahead and SAM. Both keep a reference to it.
#pragma once
#include <retape/optim/optimizer.h>

namespace retape {

struct LookaheadOptions {
  int64_t k = 5;       ///< steps between two of the slow weights
  double alpha = 0.5;  ///< how much of the way to the fast weights those go
};
/// Zhang et al. 2019: every k-th step, slow weights go alpha of the way to where the optimizer has come, which goes on from there.
///
///     AdamW fast(model.parameters());
///     Lookahead optimizer(fast);
///
/// Is used like the optimizer, whose groups, rates, state (with the slow weights, "i.slow_buffer" and "i.lookahead_step", in it) it shows.
/// Steps that a GradScaler skips do not count. Throws Error unless k is at least 1 and alpha between 0 and 1.
class Lookahead : public Optimizer {
 public:
  explicit Lookahead(Optimizer& optimizer, const LookaheadOptions& options = {});
  void step(const Tensor& found_inf = {}) override;
  Tensor step(const Closure& closure) override;
  NamedTensors state_dict() const override;
  void load_state_dict(const NamedTensors& state) override;

 protected:
  const char* name() const override { return "lookahead"; }
  std::vector<const char*> state_names() const override { return {}; }
  double& lr_of(int group) override { return Optimizer::lr_of(optimizer_, group); }
  double* momentum_of(int group) override { return Optimizer::momentum_of(optimizer_, group); }
  bool has_betas() const override { return Optimizer::has_betas(optimizer_); }
  void check_options(int) const override {}
  void update(int, Device, const Tensor&, const std::vector<OptimizerSlot>&) override {}

 private:
  void follow(const Tensor& found_inf);
  Optimizer& optimizer_;
  LookaheadOptions options_;
  std::vector<Tensor> params_, slow_, steps_;
};

struct SAMOptions {
  double rho = 0.05;      ///< how far up the gradient goes, over all parameters together
  bool adaptive = false;  ///< by the size of each weight (Kwon et al. 2021, ASAM), which wants a rho about ten times larger
};
/// Sharpness-aware minimization (Foret et al. 2021): a step takes the gradient from where the loss is worst within a distance of rho. Calls
/// its closure twice:
///
///     SGD base(model.parameters(), {.lr = 0.1, .momentum = 0.9});
///     SAM optimizer(base);
///     optimizer.step([&] { base.zero_grad(); const Tensor loss = ...; backward(loss); return loss; });
///
/// Has no state between steps: what a checkpoint needs is the base optimizer's. Throws Error unless rho is at least 0.
class SAM {
 public:
  explicit SAM(Optimizer& optimizer, const SAMOptions& options = {});
  /// Returns the loss of the first call. If the second one throws, the weights are what they were.
  Tensor step(const Closure& closure);
  /// The halves of step(), for loops that have no closure: first_step() after a backward() goes up, second_step() after the next one goes
  /// back and steps. Both throw Error in another order; first_step() also for a sparse gradient.
  void first_step();
  void second_step(const Tensor& found_inf = {});

 private:
  void go_back();
  Optimizer& optimizer_;
  SAMOptions options_;
  std::vector<std::pair<Tensor, Tensor>> before_;  // parameters and their values
  bool up_ = false;
};

}  // namespace retape
