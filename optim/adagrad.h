// Adagrad: rates that fall with the gradients an element has seen.
#pragma once
#include <retape/optim/optimizer.h>

namespace retape {

struct AdagradOptions {
  double lr = 1e-2;
  double lr_decay = 0;                   ///< the rate of step t, from 0, is lr / (1 + t * lr_decay)
  double weight_decay = 0;               ///< added to the gradient, times the weight; not with sparse gradients
  double initial_accumulator_value = 0;  ///< of the sums of squares
  double eps = 1e-10;
  bool maximize = false;

  static constexpr auto optimizer = "adagrad";
  void check() const;
};
/// Duchi, Hazan & Singer 2011. Takes sparse gradients (autograd/sparse.h): rows without one stay as they are. torch: optim.Adagrad.
class Adagrad : public OptimizerWith<AdagradOptions> {
 public:
  using OptimizerWith::OptimizerWith;

 protected:
  std::vector<const char*> state_names() const override;
  double initial_state(int group, int) const override { return options(group).initial_accumulator_value; }
  const char* refuses_rows(int group) const override { return options(group).weight_decay != 0 ? "with weight_decay" : nullptr; }
  void update(int group, Device device, const Tensor& found_inf, const std::vector<OptimizerSlot>& slots) override;
};

}  // namespace retape
