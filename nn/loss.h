// Losses that compare two tensors element by element, as functions and as modules. (class_loss.h has those of classes, margin_loss.h those with margins
// between examples, contrastive_loss.h those that compare all pairs of a batch, rle_loss.h one of human poses.)
//
// Names, argument orders and defaults are PyTorch's. input and target are floating and of one shape, or an Error names both shapes.
#pragma once
#include <retape/autograd/cross_entropy.h>
#include <retape/nn/module.h>

namespace retape {

/// |input - target|, reduced. torch: functional.l1_loss.
Tensor l1_loss(const Tensor& input, const Tensor& target, Reduction reduction = Reduction::mean);
/// (input - target)^2, reduced. torch: functional.mse_loss.
Tensor mse_loss(const Tensor& input, const Tensor& target, Reduction reduction = Reduction::mean);
/// d^2 / (2 beta) where d = |input - target| is below beta, else d - beta / 2. Throws Error for a negative beta. Girshick 2015; torch:
/// functional.smooth_l1_loss.
Tensor smooth_l1_loss(const Tensor& input, const Tensor& target, Reduction reduction = Reduction::mean, double beta = 1);
/// d^2 / 2 where d = |input - target| is at most delta, else delta (d - delta / 2). Throws Error unless delta is above 0. Huber 1964; torch:
/// functional.huber_loss.
Tensor huber_loss(const Tensor& input, const Tensor& target, Reduction reduction = Reduction::mean, double delta = 1);

struct BCEOptions {
  Tensor weight = {};  ///< factors of the elements' losses; broadcast
  Reduction reduction = Reduction::mean;
};
/// -(target log(input) + (1 - target) log(1 - input)) for probabilities; the logarithms are at least -100. Throws Error on the CPU for an input
/// outside of [0, 1]. torch: functional.binary_cross_entropy.
Tensor binary_cross_entropy(const Tensor& input, const Tensor& target, BCEOptions options = {});
struct BCEWithLogitsOptions {
  Tensor weight = {};
  Reduction reduction = Reduction::mean;
  Tensor pos_weight = {};  ///< factors of the loss where the target is 1; broadcast
};
/// The same for the probabilities sigmoid(input), without overflow. torch: functional.binary_cross_entropy_with_logits.
Tensor binary_cross_entropy_with_logits(const Tensor& input, const Tensor& target, BCEWithLogitsOptions options = {});

struct KLDivOptions {
  Reduction reduction = Reduction::mean;  ///< batchmean is the divergence of one example, the mean is over all elements
  bool log_target = false;                ///< the target is a logarithm, too
};
/// target (log(target) - input), for logarithms of probabilities; 0 where the target is 0. torch: functional.kl_div.
Tensor kl_div(const Tensor& input, const Tensor& target, KLDivOptions options = {});
struct PoissonNLLOptions {
  bool log_input = true;  ///< the input is the logarithm of the rate
  bool full = false;      ///< with Stirling's approximation of log(target!) for targets above 1
  double eps = 1e-8;      ///< added to a rate before its logarithm
  Reduction reduction = Reduction::mean;
};
/// -log of the Poisson distribution's probability of the target. torch: functional.poisson_nll_loss.
Tensor poisson_nll_loss(const Tensor& input, const Tensor& target, PoissonNLLOptions options = {});
struct GaussianNLLOptions {
  bool full = false;  ///< with the constant log(2 pi) / 2
  double eps = 1e-6;  ///< the least variance
  Reduction reduction = Reduction::mean;
};
/// (log(var) + (input - target)^2 / var) / 2. var has the input's shape, or that with 1 as its last size, or without the last dim; variances below
/// eps count as eps. Throws Error on the CPU for a negative variance. torch: functional.gaussian_nll_loss.
Tensor gaussian_nll_loss(const Tensor& input, const Tensor& target, const Tensor& var, GaussianNLLOptions options = {});
/// log(1 + e^(-target input)) for targets -1 and 1. torch: functional.soft_margin_loss.
Tensor soft_margin_loss(const Tensor& input, const Tensor& target, Reduction reduction = Reduction::mean);

namespace nn {

struct LossOptions {
  Reduction reduction = Reduction::mean;
};
using MSELossOptions = LossOptions;
/// torch: nn.L1Loss.
struct L1Loss : Module {
  Reduction reduction;
  explicit L1Loss(LossOptions options = {}) : reduction(options.reduction) {}
  Tensor forward(const Tensor& input, const Tensor& target) const { return l1_loss(input, target, reduction); }
  RETAPE_FIELDS()
};
/// torch: nn.MSELoss.
struct MSELoss : Module {
  Reduction reduction;
  explicit MSELoss(MSELossOptions options = {}) : reduction(options.reduction) {}
  Tensor forward(const Tensor& input, const Tensor& target) const { return mse_loss(input, target, reduction); }
  RETAPE_FIELDS()
};
struct SmoothL1LossOptions {
  Reduction reduction = Reduction::mean;
  double beta = 1;
};
/// torch: nn.SmoothL1Loss.
struct SmoothL1Loss : Module {
  SmoothL1LossOptions options;
  explicit SmoothL1Loss(SmoothL1LossOptions options = {}) : options(options) {}
  Tensor forward(const Tensor& input, const Tensor& target) const { return smooth_l1_loss(input, target, options.reduction, options.beta); }
  RETAPE_FIELDS()
};
struct HuberLossOptions {
  Reduction reduction = Reduction::mean;
  double delta = 1;
};
/// torch: nn.HuberLoss.
struct HuberLoss : Module {
  HuberLossOptions options;
  explicit HuberLoss(HuberLossOptions options = {}) : options(options) {}
  Tensor forward(const Tensor& input, const Tensor& target) const { return huber_loss(input, target, options.reduction, options.delta); }
  RETAPE_FIELDS()
};
/// torch: nn.BCELoss.
struct BCELoss : Module {
  Buffer weight;
  Reduction reduction;
  explicit BCELoss(BCEOptions options = {});
  Tensor forward(const Tensor& input, const Tensor& target) const { return binary_cross_entropy(input, target, {weight, reduction}); }
  RETAPE_FIELDS(weight)
};
/// torch: nn.BCEWithLogitsLoss.
struct BCEWithLogitsLoss : Module {
  Buffer weight, pos_weight;
  Reduction reduction;
  explicit BCEWithLogitsLoss(BCEWithLogitsOptions options = {});
  Tensor forward(const Tensor& input, const Tensor& target) const {
    return binary_cross_entropy_with_logits(input, target, {weight, reduction, pos_weight});
  }
  RETAPE_FIELDS(weight, pos_weight)
};
/// torch: nn.KLDivLoss.
struct KLDivLoss : Module {
  KLDivOptions options;
  explicit KLDivLoss(KLDivOptions options = {}) : options(options) {}
  Tensor forward(const Tensor& input, const Tensor& target) const { return kl_div(input, target, options); }
  RETAPE_FIELDS()
};
/// torch: nn.PoissonNLLLoss.
struct PoissonNLLLoss : Module {
  PoissonNLLOptions options;
  explicit PoissonNLLLoss(PoissonNLLOptions options = {}) : options(options) {}
  Tensor forward(const Tensor& input, const Tensor& target) const { return poisson_nll_loss(input, target, options); }
  RETAPE_FIELDS()
};
/// torch: nn.GaussianNLLLoss.
struct GaussianNLLLoss : Module {
  GaussianNLLOptions options;
  explicit GaussianNLLLoss(GaussianNLLOptions options = {}) : options(options) {}
  Tensor forward(const Tensor& input, const Tensor& target, const Tensor& var) const {
    return gaussian_nll_loss(input, target, var, options);
  }
  RETAPE_FIELDS()
};
/// torch: nn.SoftMarginLoss.
struct SoftMarginLoss : Module {
  Reduction reduction;
  explicit SoftMarginLoss(LossOptions options = {}) : reduction(options.reduction) {}
  Tensor forward(const Tensor& input, const Tensor& target) const { return soft_margin_loss(input, target, reduction); }
  RETAPE_FIELDS()
};

}  // namespace nn
}  // namespace retape
