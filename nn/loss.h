// Losses, as functions and as modules.
#pragma once
#include <retape/autograd/cross_entropy.h>
#include <retape/nn/module.h>

namespace retape {

/// (input - target)^2, reduced. Floating tensors of one shape; throws Error if the shapes differ. torch: functional.mse_loss.
Tensor mse_loss(const Tensor& input, const Tensor& target, Reduction reduction = Reduction::mean);

namespace nn {

struct MSELossOptions {
  Reduction reduction = Reduction::mean;
};
/// torch: nn.MSELoss.
struct MSELoss : Module {
  Reduction reduction;
  explicit MSELoss(MSELossOptions options = {}) : reduction(options.reduction) {}
  Tensor forward(const Tensor& input, const Tensor& target) const { return mse_loss(input, target, reduction); }
  RETAPE_FIELDS()
};

/// cross_entropy() of logits (N, C) and class numbers target (N). torch: nn.CrossEntropyLoss.
struct CrossEntropyLoss : Module {
  CrossEntropyOptions options;
  explicit CrossEntropyLoss(CrossEntropyOptions options = {}) : options(options) {}
  Tensor forward(const Tensor& logits, const Tensor& target) const { return cross_entropy(logits, target, options); }
  RETAPE_FIELDS()
};

}  // namespace nn
}  // namespace retape
