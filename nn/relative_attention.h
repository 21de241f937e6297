// Softmax attention whose scores depend on the distance of query and key, through learned vectors. Nothing of size T x T x D is made.
#pragma once
#include <optional>

#include <retape/nn/growing_tensor.h>
#include <retape/nn/heads.h>
#include <retape/nn/position.h>

namespace retape::nn {

struct RelativeSelfAttentionOptions {
  int64_t num_heads = 8;
  int64_t max_distance = 16;    ///< k: larger distances count as this one
  bool relative_values = true;  ///< vectors for distances are added to values, too
  double dropout = 0;           ///< of the attention weights, in forward() while training
  bool bias = true;
  bool causal = true;
};
/// Scores q_i (k_j + a_(j - i)) / sqrt(D) and values v_j + b_(j - i), for learned a, b of the distances -max_distance .. max_distance, which all heads share;
/// a larger distance is the largest one. x (B, T, embed_dim) to the same. Shaw et al. 2018 (arXiv 1803.02155).
struct RelativeSelfAttention : HeadProjections {
  int64_t max_distance;
  double dropout;
  Parameter relative_keys, relative_values;  // (2 max_distance + 1, D), of key - query from -max_distance on
  struct State {
    GrowingTensor k{2}, v{2};  ///< (B, H, n, D): of all positions so far
  };
  explicit RelativeSelfAttention(int64_t embed_dim, RelativeSelfAttentionOptions options = {});
  Tensor forward(const Tensor& x) const;
  Tensor step(const Tensor& x, State& state) const;
  RETAPE_FIELDS(q_proj, k_proj, v_proj, o_proj, relative_keys, relative_values)

 private:
  Tensor attend(const Tensor& x, State& state, double drop) const;
};

struct TransformerXLAttentionOptions {
  int64_t num_heads = 8;
  std::optional<int64_t> mem_len = {};  ///< a position sees this many before it; absent: all
  double dropout = 0;                   ///< of the attention weights, while training, also in step(): segments are trained on through it
  bool bias = false;
  bool causal = true;
};
/// Scores ((q_i + u) k_j + (q_i + v) r_(i - j)) / sqrt(D), where r_d = r_proj of the sines, then the cosines, of d / 10000^(2i / embed_dim), and u, v are
/// r_w_bias and r_r_bias. Segment after segment goes through step(), whose memory is made of the layer's inputs; no gradient goes into it. Every position sees
/// as many before it (`same_length`), wherever segments begin. Dai et al. 2019 (arXiv 1901.02860); causal = false: XLNet's, Yang et al. 2019.
struct TransformerXLAttention : HeadProjections {
  std::optional<int64_t> mem_len;
  double dropout;
  Linear r_proj;                 // (embed_dim, embed_dim), without bias
  Parameter r_w_bias, r_r_bias;  // (H, D)
  struct State {
    GrowingTensor memory{1};   ///< (B, n, embed_dim): the inputs so far, the last mem_len of them
    GrowingTensor k{1}, v{1};  ///< (B, n, H, D): made of the memory, and kept while nothing is recorded
  };
  /// Throws Error also for an odd embed_dim.
  explicit TransformerXLAttention(int64_t embed_dim, TransformerXLAttentionOptions options = {});
  Tensor forward(const Tensor& x) const;
  Tensor step(const Tensor& x, State& state) const;
  RETAPE_FIELDS(q_proj, k_proj, v_proj, o_proj, r_proj, r_w_bias, r_r_bias)

 private:
  detail::PositionTable table_;
  Tensor attend(const Tensor& x, State& state) const;
};

static_assert(SequenceMixer<RelativeSelfAttention> && SequenceMixer<TransformerXLAttention>);

}  // namespace retape::nn
