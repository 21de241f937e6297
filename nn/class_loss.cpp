#include <retape/nn/class_loss.h>

#include <fmt/format.h>

#include <utility>

#include <retape/autograd/binary.h>
#include <retape/autograd/check.h>
#include <retape/autograd/index.h>
#include <retape/autograd/reduce.h>
#include <retape/autograd/scan.h>
#include <retape/autograd/unary.h>
#include <retape/autograd/views.h>
#include <retape/nn/reduction.h>

namespace retape {
namespace {

using detail::check_classes;
using detail::check_floating;
using detail::in_full_precision;
using detail::reduced;

void check_weight(const char* name, const Tensor& weight, int64_t classes) {
  if (weight && !(weight.shape() == Shape{classes}))
    throw Error(fmt::format("{}: weight has shape {}; there are {} classes", name, weight.shape().str(), classes));
}
void check_target(const char* name, const Tensor& input, const Tensor& target, const Shape& wanted) {
  if (!target) throw Error(fmt::format("{}: target is an undefined tensor", name));
  if (!(target.shape() == wanted))
    throw Error(fmt::format("{}: target of shape {} does not fit input of shape {}; it must have shape {}", name, target.shape().str(),
                            input.shape().str(), wanted.str()));
  check_one_device(name, input, target);
}
Tensor chosen_weights(const Tensor& weight, const Tensor& target, DType dtype) {
  return reshape(index_select(cast(weight, dtype), 0, reshape(target, {-1})), target.shape());
}

}  // namespace

Tensor nll_loss(const Tensor& input, const Tensor& target, NLLLossOptions options) {
  constexpr auto name = "nll_loss";
  check_floating(name, input, "input");
  if (input.dim() == 0) throw Error("nll_loss: input has no dims; it must be (C), (N, C) or (N, C, d1, ...)");
  const int dim = input.dim() == 1 ? 0 : 1;
  const int64_t classes = input.shape()[dim];
  Shape wanted = input.shape();
  wanted.erase(dim);
  check_target(name, input, target, wanted);
  check_classes(name, target, classes, options.ignore_index);
  check_weight(name, options.weight, classes);
  if (options.reduction == Reduction::batchmean) throw Error("nll_loss: reduction batchmean is not valid; it must be none, mean or sum");
  return in_full_precision(
      [&](const Tensor& x) {
        const Tensor counts = ne(target, options.ignore_index), at = where(counts, target, 0);
        const Tensor weights = where(counts, options.weight ? chosen_weights(options.weight, at, x.dtype()) : ones_like(at), 0);
        const Tensor losses = neg(where(counts, squeeze(gather(x, dim, unsqueeze(at, dim)), dim), 0) * cast(weights, x.dtype()));
        if (options.reduction == Reduction::mean) return sum(losses) / cast(sum(weights), x.dtype());
        return reduced(name, losses, options.reduction);
      },
      input);
}

Tensor multi_margin_loss(const Tensor& input, const Tensor& target, MultiMarginLossOptions options) {
  constexpr auto name = "multi_margin_loss";
  check_floating(name, input, "input");
  if (input.dim() != 1 && input.dim() != 2)
    throw Error(fmt::format("{}: input has shape {}; it must be (N, C) or (C)", name, input.shape().str()));
  if (options.p != 1 && options.p != 2) throw Error(fmt::format("{}: p is {}; it must be 1 or 2", name, options.p));
  const int64_t classes = input.shape()[-1];
  Tensor labels = target;
  if (target && input.dim() == 1 && target.shape() == Shape{1}) labels = reshape(target, {});
  check_target(name, input, labels, input.dim() == 2 ? Shape{input.shape()[0]} : Shape{});
  check_classes(name, labels, classes, -100);
  check_weight(name, options.weight, classes);
  return in_full_precision(
      [&](const Tensor& x) {
        const Tensor at = unsqueeze(labels, -1), others = ne(at, arange(double(classes), labels.options()));
        Tensor gaps = relu(x - gather(x, -1, at) + options.margin);
        if (options.p == 2) gaps = square(gaps);
        Tensor losses = sum(where(others, gaps, 0), {-1});
        if (options.weight) losses = losses * chosen_weights(options.weight, labels, x.dtype());
        return reduced(name, losses / double(classes), options.reduction);
      },
      input);
}

Tensor multilabel_margin_loss(const Tensor& input, const Tensor& target, Reduction reduction) {
  constexpr auto name = "multilabel_margin_loss";
  check_floating(name, input, "input");
  if (input.dim() != 1 && input.dim() != 2)
    throw Error(fmt::format("{}: input has shape {}; it must be (N, C) or (C)", name, input.shape().str()));
  check_target(name, input, target, input.shape());
  const int64_t classes = input.shape()[-1];
  check_classes(name, target, classes, -1);
  return in_full_precision(
      [&](const Tensor& x) {
        // The classes before the first -1, and whether a class is one of them.
        const Tensor counts = eq(cumsum(cast(eq(target, -1), DType::i64), -1), 0), at = where(counts, target, 0);
        const Tensor named = scatter_add(zeros(x.shape(), {DType::i64, x.device()}), -1, at, cast(counts, DType::i64));
        const Tensor gaps = relu(1 - unsqueeze(gather(x, -1, at), -1) + unsqueeze(x, -2));  // (..., target, class)
        const Tensor pairs = logical_and(unsqueeze(counts, -1), unsqueeze(eq(named, 0), -2));
        return reduced(name, sum(where(pairs, gaps, 0), {-2, -1}) / double(classes), reduction);
      },
      input);
}

Tensor multilabel_soft_margin_loss(const Tensor& input, const Tensor& target, MultilabelSoftMarginOptions options) {
  constexpr auto name = "multilabel_soft_margin_loss";
  detail::check_pair(name, input, target);
  if (input.dim() == 0) throw Error(fmt::format("{}: input has no dims; the last one is for classes", name));
  check_weight(name, options.weight, input.shape()[-1]);
  const Tensor losses = binary_cross_entropy_with_logits(input, target, {.weight = options.weight, .reduction = Reduction::none});
  return reduced(name, mean(losses, {-1}), options.reduction);
}

Tensor sigmoid_focal_loss(const Tensor& inputs, const Tensor& targets, FocalLossOptions options) {
  constexpr auto name = "sigmoid_focal_loss";
  detail::check_pair(name, inputs, targets, "inputs", "targets");
  return in_full_precision(
      [&](const Tensor& x, const Tensor& t) {
        const Tensor p = sigmoid(x), wrong = p + t - 2 * p * t;  // 1 - (p t + (1 - p) (1 - t))
        Tensor losses = binary_cross_entropy_with_logits(x, t, {.reduction = Reduction::none}) * pow(wrong, options.gamma);
        if (options.alpha >= 0) losses = losses * (t * (2 * options.alpha - 1) + (1 - options.alpha));
        return reduced(name, losses, options.reduction);
      },
      inputs, targets);
}

namespace nn {
namespace {
// What the module holds as a Buffer instead.
template <class Options> Options without_weight(Options options) {
  options.weight = {};
  return options;
}
Buffer optional_buffer(const Tensor& value) { return value ? Buffer(value) : Buffer(); }
template <class Options> Options with_weight(Options options, const Buffer& weight) {
  options.weight = weight;
  return options;
}
}  // namespace

CrossEntropyLoss::CrossEntropyLoss(CrossEntropyOptions o) : weight(optional_buffer(o.weight)), options(without_weight(o)) {}
Tensor CrossEntropyLoss::forward(const Tensor& logits, const Tensor& target) const {
  return cross_entropy(logits, target, with_weight(options, weight));
}
NLLLoss::NLLLoss(NLLLossOptions o) : weight(optional_buffer(o.weight)), options(without_weight(o)) {}
Tensor NLLLoss::forward(const Tensor& input, const Tensor& target) const { return nll_loss(input, target, with_weight(options, weight)); }
MultiMarginLoss::MultiMarginLoss(MultiMarginLossOptions o) : weight(optional_buffer(o.weight)), options(without_weight(o)) {}
Tensor MultiMarginLoss::forward(const Tensor& input, const Tensor& target) const {
  return multi_margin_loss(input, target, with_weight(options, weight));
}
MultiLabelSoftMarginLoss::MultiLabelSoftMarginLoss(MultilabelSoftMarginOptions o)
    : weight(optional_buffer(o.weight)), reduction(o.reduction) {}

}  // namespace nn
}  // namespace retape
