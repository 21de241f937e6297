// Adam, and AdamW, which decays weights apart from the gradient.
#pragma once
#include <retape/optim/optimizer.h>

namespace retape {

struct AdamOptions {
  double lr = 1e-3;
  std::pair<double, double> betas = {0.9, 0.999};  ///< how slowly the means of the gradient and of its square move
  double eps = 1e-8;                               ///< added to the root, outside the bias correction
  double weight_decay = 0;                         ///< added to the gradient, times the weight
  bool maximize = false;

  static constexpr auto optimizer = "adam";
  void check() const;
};
/// Kingma & Ba 2015. torch: optim.Adam.
class Adam : public OptimizerWith<AdamOptions> {
 public:
  using OptimizerWith::OptimizerWith;

 protected:
  std::vector<const char*> state_names() const override;
  int states(int) const override { return 2; }
  void update(int group, Device device, const Tensor& found_inf, const std::vector<OptimizerSlot>& slots) override;
};

struct AdamWOptions {
  double lr = 1e-3;
  std::pair<double, double> betas = {0.9, 0.999};
  double eps = 1e-8;
  double weight_decay = 1e-2;  ///< a step takes lr * weight_decay of the weight away
  bool maximize = false;

  static constexpr auto optimizer = "adamw";
  void check() const;
};
/// Loshchilov & Hutter 2019. torch: optim.AdamW.
class AdamW : public OptimizerWith<AdamWOptions> {
 public:
  using OptimizerWith::OptimizerWith;

 protected:
  std::vector<const char*> state_names() const override;
  int states(int) const override { return 2; }
  void update(int group, Device device, const Tensor& found_inf, const std::vector<OptimizerSlot>& slots) override;
};

}  // namespace retape
