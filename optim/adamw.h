// Adam, and AdamW, which decays weights apart from the gradient.
#pragma once
#include <retape/optim/optimizer.h>

namespace retape {

struct AdamOptions {
  double lr = 1e-3;
  std::pair<double, double> betas = {0.9, 0.999};  ///< how slowly the means of the gradient and of its square move
  double eps = 1e-8;                               ///< added to the root, outside the bias correction
  double weight_decay = 0;                         ///< added to the gradient, times the weight
  bool amsgrad = false;                            ///< divide by the largest mean of squares so far (Reddi, Kale & Kumar 2018)
  bool maximize = false;
  bool decoupled_weight_decay = false;  ///< decay as AdamW does

  static constexpr auto optimizer = "adam";
  void check() const;
};
struct AdamWOptions {
  double lr = 1e-3;
  std::pair<double, double> betas = {0.9, 0.999};
  double eps = 1e-8;
  double weight_decay = 1e-2;  ///< a step takes lr * weight_decay of the weight away
  bool amsgrad = false;
  bool maximize = false;

  static constexpr auto optimizer = "adamw";
  void check() const;
};

namespace detail {
template <class Options> class AdamBase : public OptimizerWith<Options> {
 public:
  using OptimizerWith<Options>::OptimizerWith;

 protected:
  std::vector<const char*> state_names() const override { return {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"}; }
  bool uses_state(int group, const Tensor&, int k) const override { return k < 2 || this->options(group).amsgrad; }
  void update(int group, Device device, const Tensor& found_inf, const std::vector<OptimizerSlot>& slots) override;
};
}  // namespace detail

/// Kingma & Ba 2015. torch: optim.Adam.
class Adam : public detail::AdamBase<AdamOptions> {
 public:
  using AdamBase::AdamBase;
};
/// Loshchilov & Hutter 2019. torch: optim.AdamW.
class AdamW : public detail::AdamBase<AdamWOptions> {
 public:
  using AdamBase::AdamBase;
};

}  // namespace retape
