// What attention layers of self-attention share: projections to heads and back, and checks of what they are called with.
#pragma once
#include <retape/autograd/autocast.h>
#include <retape/nn/linear.h>

namespace retape::nn {

/// The projections of self-attention with num_heads heads of embed_dim / num_heads features: a base for layers that differ in between. Throws Error unless
/// num_heads divides embed_dim.
struct HeadProjections : Module {
  int64_t embed_dim, num_heads;
  bool causal;  ///< a position sees those before it and itself; else all
  Linear q_proj, k_proj, v_proj, o_proj;
  RETAPE_FIELDS(q_proj, k_proj, v_proj, o_proj)

 protected:
  /// `name` is for errors.
  HeadProjections(const char* name, int64_t embed_dim, int64_t num_heads, bool bias, bool causal);
  struct Heads {
    Tensor q, k, v;  // (B, T, H, D)
  };
  /// One of the projections of x (B, T, embed_dim): (B, T, H, D).
  Tensor heads_of(const Linear& proj, const Tensor& x) const;
  /// q, k and v of x. Throws Error for another shape.
  Heads project(const Tensor& x) const;
  /// The same in f32 at least: sums over a whole sequence do not fit into half types.
  Heads project_wide(const Tensor& x) const;
  /// y (B, T, H, D), in whatever dtype, through o_proj: (B, T, embed_dim) as x has it.
  Tensor merge(const Tensor& y, const Tensor& x) const;
  const char* name_;
};

namespace detail {
/// Throws Error, naming the layer, unless step() may go on with x: the layer is causal, x is (B, T, features) with T >= 1, and `part` of the state, (B, ...),
/// is undefined or of the same B.
void check_step(const char* layer, bool causal, const Tensor& x, int64_t features, const Tensor& part);

/// While it lives, autocast is off: sums over a whole sequence are made in the dtype that they are given.
struct Wide : Autocast {
  Wide() : Autocast(DType::bf16, false) {}
};
/// q_t with the sum over all s of k_s v_s^T: q, k (B, T, H, F), v (B, T, H, V): (B, T, H, V).
Tensor attend_to_all(const Tensor& q, const Tensor& k, const Tensor& v);
/// The same over s <= t, behind what `sums` (B, H, F, V) already holds, if it is defined, and with all of it afterwards; log_decay is gated_linear_attention's g.
Tensor attend_to_past(const Tensor& q, const Tensor& k, const Tensor& v, Tensor& sums, const Tensor& log_decay = {});

/// y[..., i, j] = x[..., i, j - i + T - 1] for x (..., T, N), T positions behind which keys end: from products by distance, from the largest on, to those by
/// key, j < keys < N. A view of a contiguous x, but for a last column that no key has: rows of N elements, read as if they had N - 1, move one place a row.
Tensor relative_shift(const Tensor& x, int64_t keys);
/// The reverse: y[..., i, m] = x[..., i, m + i - T + 1], and 0 where x has no such key, for m < distances and x (..., T, keys), keys < distances.
Tensor relative_unshift(const Tensor& x, int64_t distances);
}  // namespace detail

}  // namespace retape::nn
