#include <retape/nn/word2vec.h>

#include <fmt/format.h>

#include <retape/autograd/binary.h>
#include <retape/autograd/check.h>
#include <retape/autograd/index.h>
#include <retape/autograd/matmul.h>
#include <retape/autograd/reduce.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/unary.h>
#include <retape/autograd/views.h>
#include <retape/nn/init.h>

namespace retape {
namespace {

std::string describe(const Tensor& t) { return t ? fmt::format("{} {}", name_of(t.dtype()), t.shape().str()) : "undefined"; }

void check_windows(const char* op, const Word2VecWindows& w) {
  const auto is = [](const Tensor& t, DType dtype) { return t && t.dtype() == dtype && t.dim() == 1 && t.is_contiguous(); };
  if (!is(w.contexts, DType::i32) || !is(w.context_begin, DType::i32) || !is(w.targets, DType::i32) || !is(w.target_begin, DType::i32) ||
      !is(w.labels, DType::f32))
    throw Error(fmt::format(
        "{}: contexts {}, context_begin {}, targets {}, target_begin {}, labels {}; each must have one dim, labels f32, the "
        "others i32, and lie contiguous",
        op, describe(w.contexts), describe(w.context_begin), describe(w.targets), describe(w.target_begin), describe(w.labels)));
  if (w.context_begin.numel() == 0 || w.context_begin.numel() != w.target_begin.numel() || w.labels.numel() != w.targets.numel())
    throw Error(
        fmt::format("{}: {} places of contexts, {} of targets, {} targets, {} labels; both lists of places must have one more than "
                    "there are windows, and every target one label",
                    op, w.context_begin.numel(), w.target_begin.numel(), w.targets.numel(), w.labels.numel()));
  for (const Tensor* t : {&w.context_begin, &w.targets, &w.target_begin, &w.labels}) check_one_device(op, w.contexts, *t);
}

}  // namespace

Tensor word2vec_step(const Word2VecWindows& windows, const Tensor& in, const Tensor& out, double lr, Word2VecStepOptions options) {
  constexpr auto op = "word2vec_step";
  check_windows(op, windows);
  for (const Tensor* t : {&in, &out}) {
    if (!*t || t->dim() != 2 || t->dtype() != DType::f32 || !t->is_contiguous())
      throw Error(fmt::format("{}: a table of vectors is {}; it must be f32 (rows, dim), contiguous", op, describe(*t)));
    check_one_device(op, windows.contexts, *t);
    if (ctx.recording && t->requires_grad() && !t->is_leaf())
      throw Error(fmt::format("{}: a table of vectors {} was made by an op, whose history would not know of the step", op, describe(*t)));
  }
  if (in.size(1) != out.size(1))
    throw Error(fmt::format("{}: vectors have {} and {} dims; both tables must have as many", op, in.size(1), out.size(1)));
  if (options.batch < 1) throw Error(fmt::format("{}: a batch of {} windows is not possible; it must be at least 1", op, options.batch));
  Tensor loss = options.loss ? zeros({}, {DType::f64, in.device()}) : Tensor();
  Tensor words = in, outputs = out;
  RETAPE_DISPATCH(in.device(), word2vec(windows, options.mean, options.batch, lr, words, outputs, loss));
  return loss;
}

namespace nn {

Word2Vec::Word2Vec(int64_t words, int64_t outputs, int64_t dim, Word2VecOptions options)
    : cbow(options.cbow), in_embeddings(words, dim, {.sparse = options.sparse}), out_embeddings(outputs, dim, {.sparse = options.sparse}) {
  init::uniform(in_embeddings.weight, -0.5 / double(dim), 0.5 / double(dim));
  init::zeros(out_embeddings.weight);
}

Tensor Word2Vec::loss(const Word2VecWindows& w) const {
  check_windows("word2vec", w);
  const Device device = w.contexts.device();
  // Which rows of contexts, or of windows, and of targets make the pairs.
  const auto context_begin = w.context_begin.to_vector<int64_t>(), target_begin = w.target_begin.to_vector<int64_t>();
  std::vector<int64_t> left, right, window_of;
  std::vector<float> share;
  for (size_t i = 0; i + 1 < context_begin.size(); ++i) {
    const int64_t contexts = context_begin[i + 1] - context_begin[i];
    for (int64_t c = 0; c < contexts; ++c) window_of.push_back(int64_t(i)), share.push_back(1 / float(contexts));
    const int64_t first = cbow ? int64_t(i) : context_begin[i], rows = cbow ? (contexts > 0) : contexts;
    for (int64_t r = first; r < first + rows; ++r)
      for (int64_t t = target_begin[i]; t < target_begin[i + 1]; ++t) left.push_back(r), right.push_back(t);
  }
  Tensor x = in_embeddings(w.contexts);  // (contexts, dim)
  if (cbow) {
    const Tensor weighted = x * unsqueeze(retape::to(tensor(share), device), 1);
    x = index_add(zeros({int64_t(context_begin.size()) - 1, x.size(1)}, x.options()), 0, retape::to(tensor(window_of), device), weighted);
  }
  const Tensor pairs = retape::to(tensor(right), device);
  const Tensor y = index_select(out_embeddings(w.targets), 0, pairs);
  const Tensor logits = sum(index_select(x, 0, retape::to(tensor(left), device)) * y, {-1});
  const Tensor sign = 1 - 2 * index_select(w.labels, 0, pairs);
  return sum(logaddexp(sign * logits, zeros({}, logits.options())));  // softplus
}

Tensor Word2Vec::step(const Word2VecWindows& windows, double lr, int64_t batch, bool with_loss) {
  return word2vec_step(windows, in_embeddings.weight, out_embeddings.weight, lr, {.mean = cbow, .batch = batch, .loss = with_loss});
}

}  // namespace nn
}  // namespace retape
