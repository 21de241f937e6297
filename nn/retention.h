// Retention, the mixing layer of RetNet.
#pragma once
#include <optional>

#include <retape/nn/gated.h>
#include <retape/nn/rope.h>
#include <retape/nn/sequence_mixer.h>

namespace retape::nn {

struct MultiScaleRetentionOptions {
  int64_t num_heads = 4;
  std::optional<int64_t> value_dim = {};  ///< of all heads together; absent: 2 embed_dim, the paper's
  Gate gate = Gate::silu;                 ///< torchscale: gate_fn
  double eps = 1e-6;                      ///< of the normalisation; torchscale: layernorm_eps
  bool rms_norm = false;                  ///< divide by the root of the mean square only: what torchscale does today
};
/// Linear attention in num_heads heads whose states decay by 1 - 2^(-5 - h) at every position, queries and keys rotated by their positions,
/// each head's result normalised without weights (the paper's group norm), gated and projected: (B, T, embed_dim) to the same. Parameters
/// q_proj, k_proj, v_proj, g_proj, out_proj, without biases, start Xavier-uniform, with gain 2^-2.5 but for out_proj, as torchscale's. The
/// factors by which the paper's parallel form scales the rows of scores cancel in the normalisation, up to eps, and are left out. The state
/// is f32 for half types, also under autocast. Throws Error if num_heads does not divide embed_dim into an even number of features, or
/// value_dim, and, in forward, for x other than (B, T, embed_dim). Sun et al. 2023 (arXiv 2307.08621).
struct MultiScaleRetention : Module {
  struct State {
    Tensor kv;             ///< (B, num_heads, embed_dim / num_heads, value_dim / num_heads)
    int64_t position = 0;  ///< how many positions there were
  };
  int64_t embed_dim, value_dim, num_heads;
  Gate gate;
  double eps;
  bool rms_norm;
  Linear q_proj, k_proj, v_proj, g_proj, out_proj;
  RotaryEmbedding rotary;

  MultiScaleRetention(int64_t embed_dim, MultiScaleRetentionOptions options = {});
  Tensor forward(const Tensor& x) const;
  /// Throws Error, and leaves the state as it is, if it is of sequences of another number.
  Tensor step(const Tensor& x, State& state) const;
  RETAPE_FIELDS(q_proj, k_proj, v_proj, g_proj, out_proj, rotary)

 private:
  Tensor run(const Tensor& x, State* state) const;
};

}  // namespace retape::nn
