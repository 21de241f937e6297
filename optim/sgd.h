// Stochastic gradient descent.
#pragma once
#include <retape/optim/optimizer.h>

namespace retape {

struct SGDOptions {
  double lr = 1e-3;
  double momentum = 0;
  double dampening = 0;     ///< the buffer takes 1 - dampening of a gradient; the first one whole
  double weight_decay = 0;  ///< added to the gradient, times the weight
  bool nesterov = false;    ///< needs a momentum, and no dampening
  bool maximize = false;

  static constexpr auto optimizer = "sgd";
  void check() const;
};
/// With momentum as Sutskever et al. 2013, in PyTorch's form. torch: optim.SGD. Takes sparse gradients
/// (autograd/sparse.h) without momentum and weight_decay. A parameter's step count starts with its buffer.
class SGD : public OptimizerWith<SGDOptions> {
 public:
  using OptimizerWith::OptimizerWith;

 protected:
  std::vector<const char*> state_names() const override;
  bool uses_state(int group, const Tensor&, int) const override { return options(group).momentum != 0; }
  const char* refuses_rows(int group) const override {
    return options(group).momentum != 0 ? "with momentum" : options(group).weight_decay != 0 ? "with weight_decay" : nullptr;
  }
  void update(int group, Device device, const Tensor& found_inf, const std::vector<OptimizerSlot>& slots) override;
};

}  // namespace retape
