// Sums, means or maxima of rows of a table.
#pragma once
#include <optional>

#include <retape/nn/module.h>

namespace retape {

enum class BagMode : uint8_t { sum, mean, max };
struct EmbeddingBagFunctionOptions {
  Tensor offsets = {};  ///< integers (B): where each bag begins in ids (n); none if ids are (B, n), a bag a row
  BagMode mode = BagMode::mean;
  bool sparse = false;               ///< as in embedding(); not with max
  Tensor per_sample_weights = {};    ///< factors, in the shape of ids; with sum only
  bool include_last_offset = false;  ///< offsets (B + 1) have the end of the last bag, too
  int64_t padding_idx = -1;          ///< this id is left out of its bag; -1: none
};
/// Rows ids of weight (rows, dim), joined bag by bag: (B, dim). An empty bag gives 0. Throws Error for ids out of range, for offsets that do not
/// begin at 0 or lie beyond ids, and for options that do not go together. torch: functional.embedding_bag.
Tensor embedding_bag(const Tensor& ids, const Tensor& weight, const EmbeddingBagFunctionOptions& options = {});

namespace nn {

struct EmbeddingBagOptions {
  BagMode mode = BagMode::mean;
  bool sparse = false, include_last_offset = false;
  std::optional<int64_t> padding_idx = {};  ///< this row starts at 0; negative counts from the end
};
/// weight (num_embeddings, embedding_dim) starts normal with standard deviation 1. torch: nn.EmbeddingBag.
struct EmbeddingBag : Module {
  Parameter weight;
  EmbeddingBagOptions options;
  EmbeddingBag(int64_t num_embeddings, int64_t embedding_dim, EmbeddingBagOptions options = {});
  Tensor forward(const Tensor& ids, const Tensor& offsets = {}, const Tensor& per_sample_weights = {}) const;
  RETAPE_FIELDS(weight)
};

}  // namespace nn
}  // namespace retape
