// Optimizers whose rate depends on the norm of each parameter: LAMB, LARS and Adafactor. Norms stay on the device: nothing waits for them.
// All take dense gradients only.
#pragma once
#include <retape/optim/optimizer.h>

namespace retape {

struct LAMBOptions {
  double lr = 1e-3;
  std::pair<double, double> betas = {0.9, 0.999};
  double eps = 1e-6;
  double weight_decay = 1e-2;  ///< part of the direction, whose norm decides the rate
  bool adapt = true;           ///< false: without the ratio of norms, as is usual for biases and norms' weights
  bool maximize = false;

  static constexpr auto optimizer = "lamb";
  void check() const;
};
/// Adam's direction, as long as lr times the weight (You et al. 2020, "Large Batch Optimization for Deep Learning", algorithm 2, phi(x) = x,
/// with bias correction). Where weight or direction is 0 the ratio is 1.
class LAMB : public OptimizerWith<LAMBOptions> {
 public:
  using OptimizerWith::OptimizerWith;

 protected:
  std::vector<const char*> state_names() const override { return {"exp_avg", "exp_avg_sq"}; }
  void update(int group, Device device, const Tensor& found_inf, const std::vector<OptimizerSlot>& slots) override;
};

struct LARSOptions {
  double lr = 0.1;
  double momentum = 0.9;
  double weight_decay = 0;
  double trust_coefficient = 1e-3;
  double eps = 0;     ///< added to the norm that is divided by
  bool adapt = true;  ///< false: plain SGD with momentum, as is usual for biases and norms' weights
  bool maximize = false;

  static constexpr auto optimizer = "lars";
  void check() const;
};
/// SGD with momentum whose rate is lr * trust_coefficient * |w| / (|g| + weight_decay |w|) for each parameter (You, Gitman & Ginsburg 2017,
/// algorithm 1: the momentum buffer holds the rates it was made with). Where weight or gradient is 0 the rate is lr.
class LARS : public OptimizerWith<LARSOptions> {
 public:
  using OptimizerWith::OptimizerWith;

 protected:
  std::vector<const char*> state_names() const override { return {"momentum_buffer"}; }
  void update(int group, Device device, const Tensor& found_inf, const std::vector<OptimizerSlot>& slots) override;
};

struct AdafactorOptions {
  double lr = 1e-2;  ///< the largest relative step; step t makes min(lr, 1 / sqrt(t))
  double beta2_decay = -0.8;
  std::pair<std::optional<double>, double> eps = {std::nullopt, 1e-3};  ///< least root of the mean square of gradients, by default the
                                                                        ///< dtype's epsilon; least root mean square of the weight
  double d = 1;                                                         ///< what the direction's root mean square is clipped to
  double weight_decay = 0;                                              ///< a step takes lr * weight_decay of the weight away
  bool maximize = false;

  static constexpr auto optimizer = "adafactor";
  void check() const;
};
/// Adam without momentum, whose second moment of a matrix is kept as one number a row and one a column (Shazeer & Stern 2018). Parameters of
/// more dims are stacks of matrices of the last two; those of fewer keep the whole moment. torch: optim.Adafactor. In a captured graph
/// beta2_decay and eps stay as they were.
class Adafactor : public OptimizerWith<AdafactorOptions> {
 public:
  using OptimizerWith::OptimizerWith;

 protected:
  std::vector<const char*> state_names() const override { return {"row_var", "col_var", "variance"}; }
  bool uses_state(int, const Tensor& param, int k) const override { return (param.dim() > 1) == (k < 2); }
  std::pair<Shape, DType> state_layout(const Tensor& param, int k) const override;
  void update(int group, Device device, const Tensor& found_inf, const std::vector<OptimizerSlot>& slots) override;
};

}  // namespace retape
