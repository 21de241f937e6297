// Connectionist temporal classification: the loss of a sequence of labels whose places in time are not known.
#pragma once
#include <retape/autograd/cross_entropy.h>

namespace retape {

struct CTCLossOptions {
  int64_t blank = 0;  ///< the class that stands for no label
  Reduction reduction = Reduction::mean;
  bool zero_infinity = false;  ///< a target that cannot be reached in so few frames has loss 0 and no gradient, not an infinite loss
};
/// -log of the probability that frames emit a target, over all ways to do so. log_probs (T, N, C) or (T, C), floating, logarithms of probabilities as
/// log_softmax() makes them; targets, integers in [0, C) other than blank: (N, S), of which each row's first ones count, or all one after the
/// other (sum of target_lengths); input_lengths (N), at most T, and target_lengths (N), integers, which the host reads. `none` gives (N) or a
/// scalar; the mean divides each loss by its target's length. The gradient is that of the logits below log_softmax(), as in torch; there is no second
/// derivative. Throws Error if shapes or lengths disagree, for lengths that are negative or too large, and for a label out of range.
/// Graves et al. 2006; torch: functional.ctc_loss.
Tensor ctc_loss(const Tensor& log_probs, const Tensor& targets, const Tensor& input_lengths, const Tensor& target_lengths,
                CTCLossOptions options = {});
inline Tensor ctc_loss(const Tensor& log_probs, const Tensor& targets, const std::vector<int64_t>& input_lengths,
                       const std::vector<int64_t>& target_lengths, CTCLossOptions options = {}) {
  return ctc_loss(log_probs, targets, tensor(input_lengths), tensor(target_lengths), options);
}

}  // namespace retape
