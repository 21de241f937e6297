// The two attentions of TransNormer: linear with a norm in the normaliser's place, and softmax inside blocks (Qin et al. 2022, "The Devil in Linear
// Transformer", arXiv 2210.10340). Its first layers use DiagAttention, its later ones NormAttention.
#pragma once
#include <retape/nn/growing_tensor.h>
#include <retape/nn/linear_attention.h>
#include <retape/nn/rms_norm.h>

namespace retape::nn {

struct NormAttentionOptions {
  int64_t num_heads = 8;
  FeatureMap feature_map = FeatureMap::elu_plus_one;
  double eps = 1e-5;  ///< of the norm
  bool bias = true;
  bool causal = true;
};
/// RMSNorm of sum over s <= t of (phi(q_t) phi(k_s)) v_s, over the features of all heads: nothing is divided by a sum of weights, whose gradients have no bound.
/// The sums and the norm are in f32 for half types.
struct NormAttention : HeadProjections {
  FeatureMap map;
  RMSNorm norm;
  struct State {
    Tensor sums;  ///< (B, H, features, D)
  };
  explicit NormAttention(int64_t embed_dim, NormAttentionOptions options = {});
  Tensor forward(const Tensor& x) const;
  Tensor step(const Tensor& x, State& state) const;
  RETAPE_FIELDS(q_proj, k_proj, v_proj, o_proj, norm)

 private:
  Tensor attend(const Tensor& x, State& state) const;
};

struct DiagAttentionOptions {
  int64_t num_heads = 8;
  int64_t block_size = 64;
  bool bias = true;
  bool causal = true;
};
/// Softmax attention inside blocks of block_size positions, the last of which may be shorter; a block sees nothing of another. Time is linear in T.
struct DiagAttention : HeadProjections {
  int64_t block_size;
  struct State {
    GrowingTensor k{1}, v{1};  ///< (B, n, H, D): of the present block so far
  };
  explicit DiagAttention(int64_t embed_dim, DiagAttentionOptions options = {});
  Tensor forward(const Tensor& x) const;
  Tensor step(const Tensor& x, State& state) const;
  RETAPE_FIELDS(q_proj, k_proj, v_proj, o_proj)
};

enum class TransNormerAttention : uint8_t { diag, norm };
struct TransNormerOptions {
  TransNormerAttention attention = TransNormerAttention::norm;
  int64_t num_heads = 8;
  int64_t block_size = 64;                            ///< of diag
  FeatureMap feature_map = FeatureMap::elu_plus_one;  ///< of norm
  bool bias = true;
  bool causal = true;
};
/// The one of the two that options.attention names.
AnySequenceMixer transnormer_attention(int64_t embed_dim, const TransNormerOptions& options = {});

static_assert(SequenceMixer<NormAttention> && SequenceMixer<DiagAttention>);

}  // namespace retape::nn
