// A table of vectors.
#pragma once
#include <optional>

#include <retape/nn/module.h>

namespace retape::nn {

struct EmbeddingOptions {
  std::optional<int64_t> padding_idx = {};  ///< this row starts at 0 and gets no gradient; negative counts from the end
  std::optional<double> max_norm = {};      ///< rows that are read are scaled, in place, so that their norm is no larger
  double norm_type = 2;
  bool sparse = false;  ///< the weight's gradient has the rows that were read only: for SGD, Adagrad and SparseAdam (autograd/sparse.h)
};
/// Row ids[...] of weight (num_embeddings, embedding_dim) for integer ids (...): (..., embedding_dim). Throws Error for an id that is
/// out of range. weight starts normal with standard deviation 1. torch: nn.Embedding.
struct Embedding : Module {
  Parameter weight;
  std::optional<int64_t> padding_idx;
  std::optional<double> max_norm;
  double norm_type;
  bool sparse;
  Embedding(int64_t num_embeddings, int64_t embedding_dim, EmbeddingOptions options = {});
  Tensor forward(const Tensor& ids) const;
  RETAPE_FIELDS(weight)
};

}  // namespace retape::nn
