// The gated attention unit, and FLASH, which has it in chunks (Hua et al. 2022, "Transformer Quality in Linear Time", arXiv 2202.10447): one head, gates, and
// the square of relu instead of a softmax. Both are what is between the norm and the sum of the paper's layer: x + unit(norm(x)).
#pragma once
#include <optional>

#include <retape/nn/growing_tensor.h>
#include <retape/nn/linear.h>
#include <retape/nn/rope.h>
#include <retape/nn/sequence_mixer.h>

namespace retape::nn {

enum class RelativeBias : uint8_t {
  none,
  toeplitz,  ///< a number for each distance below a largest length; the paper's for up to 512 positions
  rope,      ///< the product of two vectors, each rotated by its position as in RoFormer: for any length; the paper's for more
};
/// What is added to the scores of queries and keys, and depends on their distance alone. Undefined for RelativeBias::none.
struct DistanceBias : Module {
  RelativeBias kind;
  int64_t max_length;
  Parameter weight;  // toeplitz: (2 max_length - 1), for key - query from 1 - max_length on
  Parameter a, b;    // rope: (dim), of queries and keys
  std::optional<RotaryEmbedding> rotary;
  /// max_length is toeplitz's, dim is rope's and must be even.
  DistanceBias(RelativeBias kind, int64_t max_length, int64_t dim);
  /// (queries, keys), for queries from position `first` on and keys from position 0 on.
  Tensor forward(int64_t first, int64_t queries, int64_t keys) const;
  /// (count), for keys that stand `first`, first + 1, ... positions before the query, or behind it where that is below 0.
  Tensor by_distance(int64_t first, int64_t count) const;
  /// (queries, keys), for the last of the keys as queries, made of by_distance(0, keys); with 0 for keys behind the query.
  static Tensor of_past(const Tensor& by_distance, int64_t queries);
  RETAPE_FIELDS(weight, a, b, rotary)
};

struct GatedAttentionUnitOptions {
  double expansion_factor = 2;  ///< of u and v: e = expansion_factor embed_dim features, rounded down
  int64_t query_key_dim = 128;  ///< s
  RelativeBias relative_bias = RelativeBias::rope;
  int64_t max_length = 512;  ///< of toeplitz
  bool bias = true;
  bool causal = true;
};
/// o_proj(u * A v) with u, v (B, T, e) and a base z (B, T, s) from silu(in_proj(x)), q = gamma_0 z + beta_0, k = gamma_1 z + beta_1, and
/// A = relu(q k^T / n + bias)^2, where n is how many keys a query sees. Time and memory are quadratic in T. FLASH-pytorch: GAU, whose rule for n this is.
struct GatedAttentionUnit : Module {
  int64_t embed_dim, hidden_dim, query_key_dim;
  bool causal;
  Linear in_proj;         // to u, v and z
  Parameter gamma, beta;  // (2, s); gamma starts normal with standard deviation 0.02, beta at 0
  DistanceBias relative_bias;
  Linear o_proj;
  struct State {
    GrowingTensor k{1}, v{1};  ///< (B, n, s) and (B, n, e): of all positions so far
    GrowingTensor bias{0};     ///< (n): relative_bias of the distances 0, 1, ...
  };
  explicit GatedAttentionUnit(int64_t embed_dim, GatedAttentionUnitOptions options = {});
  Tensor forward(const Tensor& x) const;
  Tensor step(const Tensor& x, State& state) const;
  RETAPE_FIELDS(in_proj, gamma, beta, relative_bias, o_proj)

 private:
  Tensor attend(const Tensor& x, State& state) const;
};

struct FLASHOptions {
  int64_t chunk_size = 256;
  double expansion_factor = 2;
  int64_t query_key_dim = 128;
  RelativeBias relative_bias = RelativeBias::toeplitz;  ///< inside a chunk
  bool bias = true;
  bool causal = true;
};
/// Mixed-chunk attention: o_proj(u * (A v + L)), where A is that of GatedAttentionUnit inside chunks of c = chunk_size positions, with n = c, and L is linear
/// attention without a normaliser, with q and k of its own: to all earlier chunks, divided by c, or, not causal, to all positions, divided by T. The last
/// chunk may be shorter. Time and memory are linear in T: no more than c x c scores are made for a chunk. FLASH-pytorch: FLASH.
struct FLASH : Module {
  int64_t embed_dim, hidden_dim, query_key_dim, chunk_size;
  bool causal;
  Linear in_proj;
  Parameter gamma, beta;  // (4, s): of the queries inside a chunk, of those across, of the keys inside, of those across
  DistanceBias relative_bias;
  Linear o_proj;
  struct State {
    Tensor sums;  ///< (B, s, e): what earlier chunks are to later ones; undefined in the first one; f32 for half types
    GrowingTensor k{1}, lin_k{1}, v{1};  ///< (B, n, s), (B, n, s) and (B, n, e): of the present chunk so far
  };
  explicit FLASH(int64_t embed_dim, FLASHOptions options = {});
  Tensor forward(const Tensor& x) const;
  Tensor step(const Tensor& x, State& state) const;
  RETAPE_FIELDS(in_proj, gamma, beta, relative_bias, o_proj)
};

static_assert(SequenceMixer<GatedAttentionUnit> && SequenceMixer<FLASH>);

}  // namespace retape::nn
