// Attention with several heads.
#pragma once
#include <optional>

#include <retape/nn/kv_cache.h>
#include <retape/nn/linear.h>

namespace retape::nn {

struct MultiheadAttentionOptions {
  double dropout = 0;  ///< of the attention weights, while training
  bool bias = true;
  bool add_bias_kv = false;                     ///< one more key and value, learned, behind all others
  bool add_zero_attn = false;                   ///< one more key and value of zeros, behind all others
  std::optional<int64_t> kdim = {}, vdim = {};  ///< sizes of key and value; absent: embed_dim
  bool batch_first = false;
};
struct MultiheadAttentionInputs {
  Tensor key_padding_mask = {};  ///< (N, S) or unbatched (S); bool: true leaves a key out; floating: is added to the scores
  Tensor attn_mask = {};         ///< (L, S) or (N * num_heads, L, S); the same meaning, and may want a gradient
  bool is_causal = false;        ///< query i sees keys 0 .. i only; adds to the masks
  bool need_weights = true;      ///< false: `weights` stays undefined and the L x S scores are never stored
  bool average_attn_weights = true;
};
struct MultiheadAttentionOutput {
  Tensor output;   ///< shaped like query
  Tensor weights;  ///< (N, L, S), or (N, num_heads, L, S) if not averaged; without N if unbatched; S counts added keys
};
/// Attention of num_heads heads between linear projections. query (L, N, embed_dim), key (S, N, kdim), value (S, N, vdim), or N first
/// with batch_first, or without N. A query that may attend to no key gets zeros from every head. Throws Error if sizes disagree.
/// Vaswani et al. 2017; torch: nn.MultiheadAttention, with its parameter names.
struct MultiheadAttention : Module {
  int64_t embed_dim, num_heads;
  double dropout;
  bool batch_first, add_zero_attn;
  Parameter in_proj_weight;                               // (3 embed_dim, embed_dim), unless kdim or vdim differ, when it is
  Parameter q_proj_weight, k_proj_weight, v_proj_weight;  // these three
  Parameter in_proj_bias;
  Parameter bias_k, bias_v;  // (1, 1, embed_dim), with add_bias_kv
  Linear out_proj;

  MultiheadAttention(int64_t embed_dim, int64_t num_heads, MultiheadAttentionOptions options = {});
  MultiheadAttentionOutput forward(const Tensor& query, const Tensor& key, const Tensor& value,
                                   const MultiheadAttentionInputs& inputs = {}) const;
  /// Takes the inputs in braces: `attention(x, x, x, {.is_causal = true})`.
  MultiheadAttentionOutput operator()(const Tensor& query, const Tensor& key, const Tensor& value,
                                      const MultiheadAttentionInputs& inputs = {}) const;

  /// Keys and values of a sequence that many queries will attend to, (N, num_heads, S, head size) each.
  struct Memory {
    Tensor k, v;
  };
  /// Of a sequence (N, S, embed_dim); batch_first only.
  Memory remember(const Tensor& sequence) const;
  /// Attention from query (N, L, embed_dim) to what remember() gave, without dropout. key_padding_mask (M, S), bool: true leaves a key out.
  /// Where N = r M, each of the M sequences is attended to by r rows of query, one after the other. Throws Error if N is no multiple of M.
  Tensor attend(const Tensor& query, const Memory& memory, const Tensor& key_padding_mask = {}) const;
  /// Causal self-attention of the next positions x (N, T, embed_dim), without dropout; for generation, see KVCache. batch_first only.
  Tensor step(const Tensor& x, KVCache& cache) const;
  RETAPE_FIELDS(in_proj_weight, q_proj_weight, k_proj_weight, v_proj_weight, in_proj_bias, bias_k, bias_v, out_proj)

 private:
  struct Heads {
    Tensor q, k, v;
  };
  Heads project(const Tensor& query, const Tensor& key, const Tensor& value) const;
  void check_generation(const char* what) const;
};

}  // namespace retape::nn
