// Rotary position embedding.
#pragma once
#include <memory>
#include <optional>
#include <vector>

#include <retape/nn/module.h>

namespace retape::nn {

/// How angles change for sequences longer than those a model was trained on.
enum class RopeScalingType : uint8_t {
  none,
  linear,   ///< all frequencies are divided by factor (Chen et al. 2023)
  ntk,      ///< the base grows by factor^(d / (d - 2)): the lowest frequency is divided by factor, the highest stays ("NTK-aware")
  dynamic,  ///< the same for a factor that follows the length beyond original_max_position_embeddings
  yarn,     ///< by parts: high frequencies stay, low ones are divided by factor (Peng et al. 2023)
  llama3,   ///< by wavelength, as Llama 3.1 does
};
/// Names and defaults of transformers' rope_scaling.
struct RopeScaling {
  RopeScalingType type = RopeScalingType::none;
  double factor = 1;
  int64_t original_max_position_embeddings = 0;  ///< of dynamic, yarn and llama3; for dynamic, transformers' max_position_embeddings
  double beta_fast = 32, beta_slow = 1;  ///< of yarn: rotations over the original length at which frequencies stay, and are divided whole
  bool truncate = true;                  ///< of yarn: the range between is one of whole features
  /// Of yarn, what cosines and sines are multiplied by; absent: 0.1 log(factor) + 1 or, with both mscales, the quotient of two such.
  std::optional<double> attention_factor = {};
  double mscale = 0, mscale_all_dim = 0;
  double low_freq_factor = 1, high_freq_factor = 4;  ///< of llama3
};
struct RotaryEmbeddingOptions {
  double base = 10000;
  bool interleaved = false;  ///< rotate features (2i, 2i + 1) instead of (i, i + rotary_dim / 2)
  int64_t rotary_dim = 0;    ///< so many features from the first on are rotated, and the others stay; 0: all
  RopeScaling scaling = {};
};
/// Rotates the features of queries and keys x (..., T, head_dim) by angles that grow with the position. Tables are made when they are
/// needed, for as many positions as are needed, and kept; several threads may do so at once. Has no parameters and no saved state.
/// Throws Error for an odd head_dim or rotary_dim, and for scaling that is not valid. Su et al. 2021; transformers: modeling_rope_utils.
struct RotaryEmbedding : Module {
  int64_t head_dim;
  RotaryEmbeddingOptions options;
  explicit RotaryEmbedding(int64_t head_dim, RotaryEmbeddingOptions options = {});
  /// `start` is the position of x's first row.
  Tensor forward(const Tensor& x, int64_t start = 0) const;
  /// The angles between positions, (rotary_dim / 2), for a sequence of so many; and what cosines and sines are multiplied by.
  std::vector<double> inv_freq(int64_t length = 0) const;
  double attention_scaling() const;
  RETAPE_FIELDS()

 private:
  struct Tables;
  std::shared_ptr<Tables> tables_;  // clones share them
};

}  // namespace retape::nn
