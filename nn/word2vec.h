// Word vectors (Mikolov et al. 2013): skip-gram and CBOW, with negative sampling or hierarchical softmax.
#pragma once
#include <retape/core/kernel_args.h>
#include <retape/nn/embedding.h>

namespace retape {

struct Word2VecStepOptions {
  bool mean = false;  ///< CBOW: a window's contexts count as one, their mean; else each is an example, as in skip-gram
  int64_t batch = 1;  ///< windows whose gradients are computed before any of them is added
  bool loss = false;  ///< compute it
};
/// Gradient descent on windows, without a tape: for every batch of them in and out, f32 (rows, dim), become what Word2Vec::loss() and
/// SGD(lr) make of them (to rounding; the gradient is of the batch's summed loss). Returns the sum of all losses, each at the values that
/// its batch began with, f64 without dims; undefined unless options.loss.
///
/// On the CPU threads take batches at the same time and change rows that others read and change (Hogwild, Recht et al. 2011): with more
/// than one thread the result depends on who comes first and is not reproducible; with one it is. All pairs of a window are one product of
/// matrices (HogBatch, Ji et al. 2016). On a CUDA device batches follow each other, and rows are added up in an order that is not defined.
///
/// Throws Error for windows that are not as Word2VecWindows says, for ids out of range, and if in or out is not contiguous f32, is the result
/// of a recorded op, or is not on the windows' device.
Tensor word2vec_step(const Word2VecWindows& windows, const Tensor& in, const Tensor& out, double lr, Word2VecStepOptions options = {});

namespace nn {

struct Word2VecOptions {
  bool cbow = false;   ///< predict from the mean of the contexts
  bool sparse = true;  ///< gradients of the rows that were used only; see autograd/sparse.h
};
/// Two tables of vectors: of words as they are read, which are the result, and of what is predicted, words or inner nodes of a Huffman
/// tree. in_embeddings start uniform within 0.5 / dim, out_embeddings at 0, as in word2vec.
struct Word2Vec : Module {
  bool cbow;
  Embedding in_embeddings, out_embeddings;
  /// `outputs`: rows of out_embeddings.
  Word2Vec(int64_t words, int64_t outputs, int64_t dim, Word2VecOptions options = {});
  /// The summed loss of windows, -log sigmoid(x y) for targets labelled 1 and -log sigmoid(-x y) for others, over all pairs of a window's
  /// targets with each of its contexts, or with their mean: f32 without dims. The readable form of word2vec_step().
  Tensor loss(const Word2VecWindows& windows) const;
  Tensor forward(const Word2VecWindows& windows) const { return loss(windows); }
  /// word2vec_step() on both tables.
  Tensor step(const Word2VecWindows& windows, double lr, int64_t batch = 1, bool with_loss = false);
  RETAPE_FIELDS(in_embeddings, out_embeddings)
};

}  // namespace nn
}  // namespace retape
