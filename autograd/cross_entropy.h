// Cross-entropy of logits and class numbers, or shares of classes.
#pragma once
#include <retape/core/tensor.h>

namespace retape {

/// What becomes of the losses of single elements. batchmean, the sum divided by the size of dim 0, is for losses of whole tensors such as kl_div().
enum class Reduction : uint8_t { none, mean, sum, batchmean };

struct CrossEntropyOptions {
  Tensor weight = {};           ///< (C): each class's loss is multiplied by its own; the mean is then weighted by those of the targets
  int64_t ignore_index = -100;  ///< a target with this value has loss 0 and no gradient, and does not count in the mean
  double label_smoothing = 0;   ///< the share of the target distribution that is spread evenly over all classes
  Reduction reduction = Reduction::mean;
};
/// -log softmax(logits)[target], from the logits: probabilities are never stored. logits (C), (N, C) or (N, C, d1, ...), floating;
/// target i64 of the same shape without C, values in [0, C) or ignore_index. `none` gives the target's shape, otherwise a scalar; the
/// mean is over targets that are not ignored, nan if there are none. Half types are computed in f32. With shares, the mean is over positions.
///
/// A floating target has the logits' shape and the share of each class, as mixup() makes it: -sum(target log softmax(logits)) over the
/// classes, by the ops that are written here; it may want a gradient. ignore_index means nothing then. Throws Error if shapes disagree or a target is
/// out of range. torch: cross_entropy.
Tensor cross_entropy(const Tensor& logits, const Tensor& target, CrossEntropyOptions options = {});

}  // namespace retape
