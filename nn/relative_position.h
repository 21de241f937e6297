// Biases of attention scores that depend on distances alone.
#pragma once
#include <vector>

#include <retape/nn/embedding.h>

namespace retape::nn {

/// The slopes of ALiBi's heads, f32 (heads): 2^(-8 i / heads) for a power of two; for other numbers those of the next power of two below, then every
/// other one of the next above. Press et al. 2021.
Tensor alibi_slopes(int64_t heads, Device device = {});

struct T5RelativePositionBiasOptions {
  int64_t num_buckets = 32, max_distance = 128;
  bool bidirectional = true;  ///< false, in decoders: all later positions are in one bucket with the query's own
};
/// A learned bias for each head and each bucket of distances: distances up to a fourth of num_buckets (half without bidirectional) have one each, longer
/// ones share one that grows with them. Raffel et al. 2020; transformers: T5Attention, with its parameter name.
struct T5RelativePositionBias : Module {
  T5RelativePositionBiasOptions options;
  Embedding relative_attention_bias;  // (num_buckets, heads); starts normal
  explicit T5RelativePositionBias(int64_t heads, T5RelativePositionBiasOptions options = {});
  /// (heads, queries + keys - 1), AttentionParams::relative_bias for queries from query_offset on.
  Tensor forward(int64_t queries, int64_t keys, int64_t query_offset = 0) const;
  /// The bucket of a key `distance` positions behind its query, or before it if that is negative.
  int64_t bucket(int64_t distance) const;
  RETAPE_FIELDS(relative_attention_bias)
};

}  // namespace retape::nn
