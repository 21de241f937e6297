// Rotary position embedding.
#pragma once
#include <memory>

#include <retape/nn/module.h>

namespace retape::nn {

struct RotaryEmbeddingOptions {
  double base = 10000;
  bool interleaved = false;  ///< rotate features (2i, 2i + 1) instead of (i, i + head_dim / 2)
};
/// Rotates the features of queries and keys x (..., T, head_dim) by angles that grow with the position. Tables are made when they are
/// needed, for as many positions as are needed, and kept; several threads may do so at once. Has no parameters and no saved state.
/// Throws Error for an odd head_dim. Su et al. 2021.
struct RotaryEmbedding : Module {
  int64_t head_dim;
  double base;
  bool interleaved;
  explicit RotaryEmbedding(int64_t head_dim, RotaryEmbeddingOptions options = {});
  /// `start` is the position of x's first row.
  Tensor forward(const Tensor& x, int64_t start = 0) const;
  RETAPE_FIELDS()

 private:
  struct Tables;
  std::shared_ptr<Tables> tables_;  // clones share them
};

}  // namespace retape::nn
