#include <retape/autograd/cross_entropy.h>

#include <fmt/format.h>

#include <retape/autograd/binary.h>
#include <retape/autograd/check.h>
#include <retape/autograd/index.h>
#include <retape/autograd/reduce.h>
#include <retape/autograd/softmax.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/unary.h>
#include <retape/autograd/views.h>

namespace retape {
namespace {

int class_dim(const Tensor& logits) { return logits.dim() == 1 ? 0 : 1; }
Tensor classes_last(const Tensor& x) {
  if (x.dim() <= 2) return x;
  Shape order{0};
  for (int d = 2; d < x.dim(); ++d) order.push_back(d);
  order.push_back(1);
  return permute(x, order);
}
Tensor classes_back(const Tensor& x) {
  if (x.dim() <= 2) return x;
  Shape order{0, x.dim() - 1};
  for (int d = 1; d + 1 < x.dim(); ++d) order.push_back(d);
  return permute(x, order);
}

struct CrossEntropyBackward {  // lse is for the kernel
  static constexpr auto name = "cross_entropy_backward";
  int64_t ignore_index;
  double label_smoothing;
  Tensor forward(const Tensor& dlosses, const Tensor& logits, const Tensor& target, const Tensor& lse) {
    const Tensor in = contiguous(classes_last(logits)), d = contiguous(dlosses), t = contiguous(target);
    Tensor dlogits = empty_like(in);
    RETAPE_DISPATCH(in.device(), cross_entropy_backward(d, in, t, lse, ignore_index, label_smoothing, dlogits));
    return classes_back(dlogits);
  }
  Tensor composite(const Tensor& dlosses, const Tensor& logits, const Tensor& target, const Tensor&) {
    const Tensor in = classes_last(logits), t = unsqueeze(target, -1), classes = arange(0, double(in.shape()[-1]), 1, t.options());
    const Tensor wanted = cast(eq(t, classes), in.dtype()) * (1 - label_smoothing) + label_smoothing / double(in.shape()[-1]);
    const Tensor counts = cast(ne(t, ignore_index), dlosses.dtype());
    return classes_back((softmax(in, -1) - wanted) * (unsqueeze(dlosses, -1) * counts));
  }
};
struct CrossEntropy {  // the losses of single elements, in the shape of target; f32 for half types
  static constexpr auto name = "cross_entropy";
  static constexpr auto precision = Precision::full;
  int64_t ignore_index;
  double label_smoothing;
  Saved logits = {}, target = {}, lse = {};
  Tensor forward(const Tensor& x, const Tensor& t) {
    const Tensor in = contiguous(classes_last(x)), labels = contiguous(t);
    Tensor losses = empty(t.shape(), {x.dtype() == DType::f64 ? DType::f64 : DType::f32, x.device()}), log_sums = empty_like(losses);
    RETAPE_DISPATCH(x.device(), cross_entropy(in, labels, ignore_index, label_smoothing, losses, log_sums));
    logits = save(x), target = save(t), lse = save(log_sums);
    return losses;
  }
  void backward(const Tensor& dlosses, Grads& dx) {
    dx.set(0, record(CrossEntropyBackward{ignore_index, label_smoothing}, dlosses, *logits, *target, *lse));
  }
};

void check(const Tensor& logits, const Tensor& target, const CrossEntropyOptions& options) {
  if (!logits || !target) throw Error("cross_entropy: logits or target is an undefined tensor");
  if (!is_floating(logits.dtype()))
    throw Error(fmt::format("cross_entropy: logits have dtype {}; they must be floating", name_of(logits.dtype())));
  if (target.dtype() != DType::i64 && !is_floating(target.dtype()))
    throw Error(
        fmt::format("cross_entropy: target has dtype {}; class numbers must be i64, shares of classes floating", name_of(target.dtype())));
  check_one_device("cross_entropy", logits, target);
  if (logits.dim() == 0) throw Error("cross_entropy: logits have no dims; they must be (C), (N, C) or (N, C, d1, ...)");
  Shape wanted = logits.shape();
  if (target.dtype() == DType::i64) wanted.erase(class_dim(logits));
  if (!(target.shape() == wanted))
    throw Error(fmt::format("cross_entropy: target of shape {} does not fit logits of shape {}; it must have shape {}",
                            target.shape().str(), logits.shape().str(), wanted.str()));
  if (!(options.label_smoothing >= 0 && options.label_smoothing <= 1))
    throw Error(fmt::format("cross_entropy: label_smoothing {} is not valid; it must be from 0 to 1", options.label_smoothing));
  if (options.reduction == Reduction::batchmean)
    throw Error("cross_entropy: reduction batchmean is not valid; it must be none, mean or sum");
  if (!options.weight) return;
  check_one_device("cross_entropy", logits, options.weight);
  if (const Shape classes{logits.shape()[class_dim(logits)]}; !(options.weight.shape() == classes))
    throw Error(fmt::format("cross_entropy: weight has shape {}; there are {} classes", options.weight.shape().str(),
                            logits.shape()[class_dim(logits)]));
}
DType wide(const Tensor& logits) { return logits.dtype() == DType::f64 ? DType::f64 : DType::f32; }
// The weight of each class, along the classes of logits.
Tensor along_classes(const Tensor& weight, const Tensor& logits) {
  Shape shape = Shape::filled(logits.dim(), 1);
  shape[class_dim(logits)] = weight.numel();
  return reshape(cast(weight, wide(logits)), shape);
}

// Class numbers, where each class has a weight: the losses, and the weights that the mean divides by.
struct Weighted {
  Tensor losses, weights;
};
Weighted of_weighted(const Tensor& logits, const Tensor& target, const CrossEntropyOptions& options) {
  const Tensor counts = ne(target, options.ignore_index), plain = record(CrossEntropy{options.ignore_index, 0}, logits, target);
  const Tensor of_class = cast(options.weight, plain.dtype());
  const Tensor picked = reshape(index_select(of_class, 0, reshape(where(counts, target, 0), {-1})), target.shape());
  Weighted result{plain * where(counts, picked, 0), where(counts, picked, 0)};
  if (const double smoothing = options.label_smoothing; smoothing > 0) {
    const int dim = class_dim(logits);
    const Tensor all = neg(sum(log_softmax(cast(logits, plain.dtype()), dim) * along_classes(options.weight, logits), {dim}));
    result.losses = result.losses * (1 - smoothing) + where(counts, all, 0) * (smoothing / double(logits.shape()[dim]));
  }
  return result;
}

// target has the share of each class.
Tensor of_shares(const Tensor& logits, const Tensor& target, const CrossEntropyOptions& options) {
  const DType dtype = wide(logits);
  const int dim = class_dim(logits);
  const double smoothing = options.label_smoothing, classes = double(logits.shape()[dim]);
  Tensor shares = cast(target, dtype);
  if (smoothing > 0) shares = shares * (1 - smoothing) + smoothing / classes;
  if (options.weight) shares = shares * along_classes(options.weight, logits);
  const Tensor losses = neg(sum(shares * log_softmax(cast(logits, dtype), dim), {dim}));
  if (options.reduction == Reduction::none) return losses;
  return options.reduction == Reduction::sum ? sum(losses) : mean(losses);
}

}  // namespace

Tensor cross_entropy(const Tensor& logits, const Tensor& target, CrossEntropyOptions options) {
  if (autocasting())
    return under_autocast(
        CrossEntropy::precision, [&](const Tensor& in) { return cross_entropy(in, target, options); }, logits);
  check(logits, target, options);
  if (target.dtype() != DType::i64) return cast(of_shares(logits, target, options), logits.dtype());
  if (options.weight) {
    const auto [losses, weights] = of_weighted(logits, target, options);
    if (options.reduction == Reduction::none) return cast(losses, logits.dtype());
    return cast(options.reduction == Reduction::sum ? sum(losses) : sum(losses) / sum(weights), logits.dtype());
  }
  Tensor loss = record(CrossEntropy{options.ignore_index, options.label_smoothing}, logits, target);
  if (options.reduction != Reduction::none) loss = sum(loss);
  if (options.reduction == Reduction::mean) loss = loss / cast(sum(ne(target, options.ignore_index)), loss.dtype());
  return cast(loss, logits.dtype());
}

}  // namespace retape
