// Causal self-attention as a layer for sequences.
#pragma once
#include <optional>

#include <retape/nn/kv_cache.h>
#include <retape/nn/linear.h>
#include <retape/nn/relative_position.h>
#include <retape/nn/rms_norm.h>
#include <retape/nn/rope.h>
#include <retape/nn/sequence_mixer.h>
#include <retape/nn/sparse_patterns.h>

namespace retape::nn {

/// How attention knows where keys are: not at all, by rotated queries and keys, or by biases of its scores.
enum class AttentionPosition : uint8_t { none, rope, alibi, t5 };

struct CausalSelfAttentionOptions {
  int64_t num_heads = 8;
  int64_t num_kv_heads = 0;  ///< groups of heads that share keys and values (Ainslie et al. 2023); 0: num_heads
  int64_t head_dim = 0;      ///< 0: embed_dim / num_heads
  bool bias = false;
  double dropout = 0;     ///< of the attention weights, while training
  int64_t window = 0;     ///< a position sees the last so many, itself among them; 0: all
  BlockPattern sparse{};  ///< the blocks that are attended to; without `sees`: all
  AttentionPosition position = AttentionPosition::rope;
  RotaryEmbeddingOptions rope = {};
  int64_t num_buckets = 32, max_distance = 128;  ///< of t5
  double softcap = 0;                            ///< of the scores; 0: none
  bool qk_norm = false;                          ///< RMSNorm over the features of each head of queries and keys
  double qk_norm_eps = 1e-6;
};
/// A SequenceMixer: x (B, T, embed_dim) to the same. Parameters have GPT-2's names, those of qk_norm Qwen3's. A state keeps the keys and values of
/// all positions, or of the window, which a state made by default takes from the layer; nothing of it is differentiable. With dynamic scaling of rope, step() leaves keys as they were rotated, as
/// transformers does, and forward() rotates all anew. Throws Error for numbers that do not fit each other. Vaswani et al. 2017.
struct CausalSelfAttention : Module {
  using State = KVCache;

  int64_t embed_dim;
  CausalSelfAttentionOptions options;                        // without zeros that stand for something
  Linear c_attn, c_proj;                                     // c_attn gives queries, keys and values, one behind the other
  std::optional<RMSNorm> q_norm, k_norm;                     // with qk_norm
  std::optional<T5RelativePositionBias> relative_attention;  // with t5
  Buffer slopes;                                             // with alibi, not saved
  RotaryEmbedding rotary;

  explicit CausalSelfAttention(int64_t embed_dim, CausalSelfAttentionOptions options = {});
  Tensor forward(const Tensor& x) const;
  Tensor step(const Tensor& x, State& state) const;
  RETAPE_FIELDS(c_attn, c_proj, q_norm, k_norm, relative_attention, slopes, rotary)

 private:
  struct Heads {
    Tensor q, k, v;
  };
  Heads project(const Tensor& x, int64_t start) const;
  AttentionParams params(int64_t queries, int64_t keys, int64_t query_offset, Device device) const;
  Tensor merge(const Tensor& y) const;
};

}  // namespace retape::nn
