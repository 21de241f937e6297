// Linear attention with a state that decays: plain linear attention, retention, Mamba-2's state-space duality, gated linear attention.
#pragma once
#include <retape/core/tensor.h>

namespace retape {

struct GatedLinearAttentionParams {
  Tensor g = {};        ///< log of the decay: (B, T, H), or (B, T, H, K) with one for each feature of k; undefined: nothing decays
  double scale = 0;     ///< of y; 0: 1 / sqrt(K)
  Tensor initial = {};  ///< (B, H, K, V): the state before the first step; undefined: 0
  /// Divides y by the sum of its weights, z_t: that which a last column of v with ones would give. States have that column, (B, H, K, V +
  /// 1).
  bool normalize = false;
  double eps = 0;  ///< is added to z_t
};
struct GatedLinearAttentionResult {
  Tensor y;           ///< (B, T, H, V)
  Tensor last_state;  ///< (B, H, K, V) or, with `normalize`, (B, H, K, V + 1), f32 for half types
};
/// S_t = diag(exp(g_t)) S_(t-1) + k_t v_t^T, y_t = scale S_t^T q_t, for every head: q, k (B, T, H, K), v (B, T, H, V). Time and memory are
/// linear in T: chunks of 64 steps are products of matrices, and the states between them are kept for backward. However strong the decay,
/// no power of it above 1 appears; -infinity forgets everything. `normalize` gives y_t / (z_t + eps) for z_t = scale (sum of k)^T q_t, k
/// decayed as in S_t. Floating; q, k and v promote, and y is of their dtype; g and the states are f32 for half types. Under autocast q, k
/// and v are cast as in scaled_dot_product_attention. Throws Error where shapes, dtypes or devices do not fit. Katharopoulos et al. 2020
/// (arXiv 2006.16236), Yang et al. 2023 (arXiv 2312.06635), Dao & Gu 2024 (arXiv 2405.21060); fla: chunk_linear_attn, chunk_simple_gla,
/// chunk_gla.
GatedLinearAttentionResult gated_linear_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                                                  const GatedLinearAttentionParams& params = {});
/// One step from `state` (B, H, K, V) on: q, k (B, H, K), v (B, H, V), g (B, H) or (B, H, K), y (B, H, V). Steps give the same numbers as
/// the whole, up to the order of sums. params.initial is `state` and must not be given. fla: fused_recurrent_gla with one step.
GatedLinearAttentionResult gated_linear_attention_step(const Tensor& state, const Tensor& q, const Tensor& k, const Tensor& v,
                                                       const GatedLinearAttentionParams& params = {});

}  // namespace retape
