// Losses of classes: of one class an example, of several, and of sequences of them. cross_entropy() and ctc_loss() are in autograd.
#pragma once
#include <retape/autograd/cross_entropy.h>
#include <retape/autograd/ctc.h>
#include <retape/nn/loss.h>

namespace retape {

struct NLLLossOptions {
  Tensor weight = {};           ///< (C): factors of the classes' losses; the mean is then weighted by those of the targets
  int64_t ignore_index = -100;  ///< a target with this value has loss 0 and does not count in the mean
  Reduction reduction = Reduction::mean;
};
/// -input[target]: input (C), (N, C) or (N, C, d1, ...), logarithms of probabilities; target i64 of that shape without C. Throws Error if shapes disagree
/// or a target is out of range. torch: functional.nll_loss.
Tensor nll_loss(const Tensor& input, const Tensor& target, NLLLossOptions options = {});

struct MultiMarginLossOptions {
  int64_t p = 1;  ///< 1 or 2
  double margin = 1;
  Tensor weight = {};  ///< (C), for each target's class
  Reduction reduction = Reduction::mean;
};
/// sum over the classes c != target of max(0, margin - input[target] + input[c])^p / C. input (N, C) or (C), target i64 (N) or without dims. torch:
/// functional.multi_margin_loss.
Tensor multi_margin_loss(const Tensor& input, const Tensor& target, MultiMarginLossOptions options = {});
/// sum over the targets t and the classes c that are none of max(0, 1 - (input[t] - input[c])) / C. input (N, C) or (C); target i64 of the same shape, of
/// whose rows the classes before the first -1 count. torch: functional.multilabel_margin_loss.
Tensor multilabel_margin_loss(const Tensor& input, const Tensor& target, Reduction reduction = Reduction::mean);
struct MultilabelSoftMarginOptions {
  Tensor weight = {};  ///< (C)
  Reduction reduction = Reduction::mean;
};
/// The mean over classes, which are the last dim, of the binary cross-entropy of logits. torch: functional.multilabel_soft_margin_loss.
Tensor multilabel_soft_margin_loss(const Tensor& input, const Tensor& target, MultilabelSoftMarginOptions options = {});

struct FocalLossOptions {
  double alpha = 0.25;  ///< the weight of targets 1; that of 0 is 1 - alpha. Negative: none
  double gamma = 2;     ///< how much those count less that are right already
  Reduction reduction = Reduction::none;
};
/// Binary cross-entropy of logits times (1 - p)^gamma, where p is the probability of the target. Lin et al. 2017; torchvision: sigmoid_focal_loss.
Tensor sigmoid_focal_loss(const Tensor& inputs, const Tensor& targets, FocalLossOptions options = {});

namespace nn {

/// cross_entropy(). torch: nn.CrossEntropyLoss.
struct CrossEntropyLoss : Module {
  Buffer weight;
  CrossEntropyOptions options;
  explicit CrossEntropyLoss(CrossEntropyOptions options = {});
  Tensor forward(const Tensor& logits, const Tensor& target) const;
  RETAPE_FIELDS(weight)
};
/// torch: nn.NLLLoss.
struct NLLLoss : Module {
  Buffer weight;
  NLLLossOptions options;
  explicit NLLLoss(NLLLossOptions options = {});
  Tensor forward(const Tensor& input, const Tensor& target) const;
  RETAPE_FIELDS(weight)
};
/// torch: nn.MultiMarginLoss.
struct MultiMarginLoss : Module {
  Buffer weight;
  MultiMarginLossOptions options;
  explicit MultiMarginLoss(MultiMarginLossOptions options = {});
  Tensor forward(const Tensor& input, const Tensor& target) const;
  RETAPE_FIELDS(weight)
};
/// torch: nn.MultiLabelMarginLoss.
struct MultiLabelMarginLoss : Module {
  Reduction reduction;
  explicit MultiLabelMarginLoss(LossOptions options = {}) : reduction(options.reduction) {}
  Tensor forward(const Tensor& input, const Tensor& target) const { return multilabel_margin_loss(input, target, reduction); }
  RETAPE_FIELDS()
};
/// torch: nn.MultiLabelSoftMarginLoss.
struct MultiLabelSoftMarginLoss : Module {
  Buffer weight;
  Reduction reduction;
  explicit MultiLabelSoftMarginLoss(MultilabelSoftMarginOptions options = {});
  Tensor forward(const Tensor& input, const Tensor& target) const {
    return multilabel_soft_margin_loss(input, target, {weight, reduction});
  }
  RETAPE_FIELDS(weight)
};
/// torchvision has the function only.
struct SigmoidFocalLoss : Module {
  FocalLossOptions options;
  explicit SigmoidFocalLoss(FocalLossOptions options = {}) : options(options) {}
  Tensor forward(const Tensor& inputs, const Tensor& targets) const { return sigmoid_focal_loss(inputs, targets, options); }
  RETAPE_FIELDS()
};
/// torch: nn.CTCLoss.
struct CTCLoss : Module {
  CTCLossOptions options;
  explicit CTCLoss(CTCLossOptions options = {}) : options(options) {}
  Tensor forward(const Tensor& log_probs, const Tensor& targets, const Tensor& input_lengths, const Tensor& target_lengths) const {
    return ctc_loss(log_probs, targets, input_lengths, target_lengths, options);
  }
  RETAPE_FIELDS()
};

}  // namespace nn
}  // namespace retape
