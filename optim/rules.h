// Optimizers of one rule each: NAdam, RAdam, Adamax, Adadelta, RMSprop, Rprop, ASGD and Lion. All take dense gradients only, as PyTorch's do;
// names and defaults of options are PyTorch's, Lion's its paper's. Members that are no options tell RuleOptimizer what it runs.
#pragma once
#include <retape/optim/optimizer.h>

namespace retape {

struct NAdamOptions {
  double lr = 2e-3;
  std::pair<double, double> betas = {0.9, 0.999};
  double eps = 1e-8;
  double weight_decay = 0;
  double momentum_decay = 4e-3;         ///< step t has the momentum beta1 * (1 - 0.96^(t * momentum_decay) / 2)
  bool decoupled_weight_decay = false;  ///< decay the weight itself, as AdamW does
  bool maximize = false;

  static constexpr auto optimizer = "nadam";
  static constexpr auto rule = UpdateKind::nadam;
  static constexpr const char* states[] = {"exp_avg", "exp_avg_sq", "mu_product"};
  static constexpr int scalars = 1;
  double initial(int k) const { return k == 2 ? 1 : 0; }
  void check() const;
  UpdateArgs args() const;
};
/// Adam with Nesterov's momentum (Dozat 2016). torch: optim.NAdam.
using NAdam = RuleOptimizer<NAdamOptions>;

struct RAdamOptions {
  double lr = 1e-3;
  std::pair<double, double> betas = {0.9, 0.999};
  double eps = 1e-8;
  double weight_decay = 0;
  bool decoupled_weight_decay = false;
  bool maximize = false;

  static constexpr auto optimizer = "radam";
  static constexpr auto rule = UpdateKind::radam;
  static constexpr const char* states[] = {"exp_avg", "exp_avg_sq"};
  void check() const;
  UpdateArgs args() const;
};
/// Adam whose rate is rectified while few steps have been seen (Liu et al. 2020). torch: optim.RAdam.
using RAdam = RuleOptimizer<RAdamOptions>;

struct AdamaxOptions {
  double lr = 2e-3;
  std::pair<double, double> betas = {0.9, 0.999};
  double eps = 1e-8;
  double weight_decay = 0;
  bool maximize = false;

  static constexpr auto optimizer = "adamax";
  static constexpr auto rule = UpdateKind::adamax;
  static constexpr const char* states[] = {"exp_avg", "exp_inf"};
  void check() const;
  UpdateArgs args() const;
};
/// Adam with the infinity norm (Kingma & Ba 2015, section 7.1). torch: optim.Adamax.
using Adamax = RuleOptimizer<AdamaxOptions>;

struct AdadeltaOptions {
  double lr = 1;
  double rho = 0.9;  ///< how slowly the means of squares move
  double eps = 1e-6;
  double weight_decay = 0;
  bool maximize = false;

  static constexpr auto optimizer = "adadelta";
  static constexpr auto rule = UpdateKind::adadelta;
  static constexpr const char* states[] = {"square_avg", "acc_delta"};
  void check() const;
  UpdateArgs args() const;
};
/// Zeiler 2012. torch: optim.Adadelta.
using Adadelta = RuleOptimizer<AdadeltaOptions>;

struct RMSpropOptions {
  double lr = 1e-2;
  double alpha = 0.99;  ///< how slowly the mean of squares moves
  double eps = 1e-8;
  double weight_decay = 0;
  double momentum = 0;
  bool centered = false;  ///< divide by the deviation from the mean gradient
  bool maximize = false;

  static constexpr auto optimizer = "rmsprop";
  static constexpr auto rule = UpdateKind::rmsprop;
  static constexpr const char* states[] = {"square_avg", "momentum_buffer", "grad_avg"};
  bool uses(int k) const { return k == 0 || (k == 1 ? momentum > 0 : centered); }
  void check() const;
  UpdateArgs args() const;
};
/// Hinton 2012; centered: Graves 2013. torch: optim.RMSprop.
using RMSprop = RuleOptimizer<RMSpropOptions>;

struct RpropOptions {
  double lr = 1e-2;                             ///< the first step size; later changes do nothing
  std::pair<double, double> etas = {0.5, 1.2};  ///< what a step size is multiplied by when the gradient's sign changes, and when not
  std::pair<double, double> step_sizes = {1e-6, 50.0};  ///< the smallest and the largest
  bool maximize = false;

  static constexpr auto optimizer = "rprop";
  static constexpr auto rule = UpdateKind::rprop;
  static constexpr const char* states[] = {"prev", "step_size"};
  double initial(int k) const { return k == 1 ? lr : 0; }
  void check() const;
  UpdateArgs args() const;
};
/// The sign of the gradient alone, with a step size for each element (Riedmiller & Braun 1993). For full batches. torch: optim.Rprop.
using Rprop = RuleOptimizer<RpropOptions>;

struct ASGDOptions {
  double lr = 1e-2;
  double lambd = 1e-4;  ///< decay, which makes the rate fall, too
  double alpha = 0.75;  ///< the rate of step t is lr / (1 + lambd * lr * t)^alpha
  double t0 = 1e6;      ///< the step from which on weights are averaged
  double weight_decay = 0;
  bool maximize = false;

  static constexpr auto optimizer = "asgd";
  static constexpr auto rule = UpdateKind::asgd;
  static constexpr const char* states[] = {"ax", "eta", "mu"};
  static constexpr int scalars = 2;
  double initial(int k) const { return k == 0 ? 0 : k == 1 ? lr : 1; }
  void check() const;
  UpdateArgs args() const;
};
/// Averaged stochastic gradient descent (Polyak & Juditsky 1992); the averages are "i.ax" in state_dict(). torch: optim.ASGD.
using ASGD = RuleOptimizer<ASGDOptions>;

struct LionOptions {
  double lr = 1e-4;
  std::pair<double, double> betas = {0.9, 0.99};  ///< of the interpolation whose sign is taken, and of the mean that is kept
  double weight_decay = 0;                        ///< a step takes lr * weight_decay of the weight away
  bool maximize = false;

  static constexpr auto optimizer = "lion";
  static constexpr auto rule = UpdateKind::lion;
  static constexpr const char* states[] = {"exp_avg"};
  void check() const;
  UpdateArgs args() const;
};
/// The sign of an interpolation of gradient and momentum (Chen et al. 2023). Wants a rate three to ten times smaller than AdamW's, and a
/// weight_decay as much larger.
using Lion = RuleOptimizer<LionOptions>;

}  // namespace retape
