// Gated linear attention as a layer.
#pragma once
#include <optional>

#include <retape/nn/convolution.h>
#include <retape/nn/gated.h>
#include <retape/nn/rms_norm.h>
#include <retape/nn/sequence_mixer.h>

namespace retape::nn {

struct GatedLinearAttentionOptions {
  double expand_k = 0.5, expand_v = 1;  ///< keys and values of all heads together have so many times hidden_size features
  int64_t num_heads = 4;
  std::optional<int64_t> num_kv_heads = {};  ///< absent: num_heads; fewer: several heads share keys, values and decay
  std::optional<Gate> feature_map = {};      ///< of queries and keys
  bool use_short_conv = false;               ///< causal_conv1d() and silu of queries, keys and values
  int64_t conv_size = 4;
  bool conv_bias = false;
  bool use_output_gate = true;
  Gate gate_fn = Gate::silu;
  bool elementwise_affine = true;  ///< of the normalisation of each head
  double norm_eps = 1e-5;
  double gate_logit_normalizer = 16;  ///< decays are sigmoid(gate)^(1 / this)
  int64_t gate_low_rank_dim = 16;
  std::optional<double> clamp_min = {};  ///< of the logarithm of decays
};
/// gated_linear_attention() with a decay for each feature of a key, between projections; each head's result is normalised by its root mean
/// square and gated. Parameters under fla's names: q_proj, k_proj, v_proj, g_proj, q_conv1d, k_conv1d, v_conv1d, gk_proj.0, gk_proj.1,
/// o_proj and g_norm_swish_gate, which is g_norm without output gate or with one other than silu. The state is f32 for half types, also
/// under autocast. Throws Error if num_heads does not divide keys and values, or num_kv_heads the heads, and, in forward, for x other than
/// (B, T, hidden_size). Yang et al. 2023 (arXiv 2312.06635); fla: GatedLinearAttention.
struct GatedLinearAttention : Module {
  struct State {
    Tensor q, k, v;    ///< (B, conv_size - 1, features) each, if use_short_conv: the inputs of the convolutions at the last positions
    Tensor recurrent;  ///< (B, num_heads, features of a key, features of a value)
  };
  GatedLinearAttentionOptions options;
  int64_t hidden_size, kv_heads, key_dim, value_dim;
  Linear q_proj, k_proj, v_proj;
  std::optional<Linear> g_proj;
  std::optional<Conv1d> q_conv1d, k_conv1d, v_conv1d;
  std::vector<Linear> gk_proj;
  Linear o_proj;
  RMSNorm norm;

  GatedLinearAttention(int64_t hidden_size, const GatedLinearAttentionOptions& options = {});
  Tensor forward(const Tensor& x) const;
  /// Throws Error, and leaves the state as it is, if it is of sequences of another number.
  Tensor step(const Tensor& x, State& state) const;
  void fields(Visitor& visitor) override;
  RETAPE_MODULE_BODY

 private:
  Tensor run(const Tensor& x, State* state) const;
};

}  // namespace retape::nn
