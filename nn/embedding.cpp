#include <retape/nn/embedding.h>

#include <fmt/format.h>

#include <retape/autograd/index.h>
#include <retape/autograd/reduce.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/views.h>
#include <retape/nn/init.h>

namespace retape::nn {

Embedding::Embedding(int64_t num, int64_t dim, EmbeddingOptions options)
    : weight(empty_parameter({num, dim})),
      padding_idx(options.padding_idx),
      max_norm(options.max_norm),
      norm_type(options.norm_type),
      sparse(options.sparse) {
  init::normal(weight);
  if (!padding_idx) return;
  if (*padding_idx < -num || *padding_idx >= num)
    throw Error(fmt::format("Embedding: padding_idx {} is out of range for {} embeddings", *padding_idx, num));
  if (*padding_idx < 0) *padding_idx += num;
  const NoGrad off;
  init::zeros(select(weight, 0, *padding_idx));
}
Tensor Embedding::forward(const Tensor& ids) const {
  if (max_norm && ids && ids.numel() > 0) {
    const NoGrad off;
    const Tensor at = reshape(ids, {-1}), rows = index_select(weight, 0, at), norms = norm(rows, norm_type, {1}, true);
    const Tensor scaled = where(gt(norms, *max_norm), rows * (*max_norm / (norms + 1e-7)), rows);
    copy_into(index_copy(weight, 0, at, scaled), weight);
  }
  return embedding(weight, ids, padding_idx.value_or(-1), sparse);
}

}  // namespace retape::nn
