#include <retape/nn/heads.h>

#include <fmt/format.h>

#include <retape/autograd/gated_linear_attention.h>
#include <retape/autograd/matmul.h>
#include <retape/autograd/rearrange.h>
#include <retape/autograd/views.h>
#include <retape/nn/causal.h>

namespace retape::nn {
namespace detail {

void check_step(const char* layer, bool causal, const Tensor& x, int64_t features, const Tensor& part) {
  if (!causal)
    throw Error(fmt::format(
        "{}: step() with causal = false, where a position depends on later ones; call forward() with the whole, or make the layer causal",
        layer));
  check_sequence(layer, x, features, true);
  if (!part) return;
  Shape fits = part.shape();
  fits[0] = x.shape()[0];
  check_state(layer, "a part", part, fits);
}

Tensor attend_to_all(const Tensor& q, const Tensor& k, const Tensor& v) {
  const Tensor sums = matmul(permute(k, {0, 2, 3, 1}), transpose(v, 1, 2));
  return transpose(matmul(transpose(q, 1, 2), sums), 1, 2);
}
Tensor attend_to_past(const Tensor& q, const Tensor& k, const Tensor& v, Tensor& sums, const Tensor& log_decay) {
  const auto r = gated_linear_attention(q, k, v, {.g = log_decay, .scale = 1, .initial = sums});
  sums = r.last_state;
  return r.y;
}

Tensor relative_shift(const Tensor& x, int64_t keys) {
  const int64_t rows = x.shape()[-2], columns = x.shape()[-1];
  Shape shape = x.shape();
  shape[-1] = columns - 1;
  return narrow(reshape(narrow(flatten(x, -2, -1), -1, rows - 1, rows * (columns - 1)), shape), -1, 0, keys);
}
Tensor relative_unshift(const Tensor& x, int64_t distances) {
  const int64_t rows = x.shape()[-2];
  Shape shape = x.shape();
  shape[-1] = distances;
  return reshape(pad(flatten(pad(x, {0, distances - 1 - x.shape()[-1]}), -2, -1), {rows - 1, 1}), shape);
}

}  // namespace detail

HeadProjections::HeadProjections(const char* name, int64_t embed, int64_t heads, bool bias, bool is_causal)
    : embed_dim(embed),
      num_heads(heads),
      causal(is_causal),
      q_proj(embed, embed, {.bias = bias}),
      k_proj(embed, embed, {.bias = bias}),
      v_proj(embed, embed, {.bias = bias}),
      o_proj(embed, embed, {.bias = bias}),
      name_(name) {
  if (heads <= 0 || embed <= 0 || embed % heads)
    throw Error(fmt::format("{}: embed_dim {} does not divide into {} heads", name, embed, heads));
}
Tensor HeadProjections::heads_of(const Linear& proj, const Tensor& x) const {
  return reshape(proj(x), {x.shape()[0], x.shape()[1], num_heads, embed_dim / num_heads});
}
HeadProjections::Heads HeadProjections::project(const Tensor& x) const {
  detail::check_sequence(name_, x, embed_dim);
  return {heads_of(q_proj, x), heads_of(k_proj, x), heads_of(v_proj, x)};
}
HeadProjections::Heads HeadProjections::project_wide(const Tensor& x) const {
  const Heads h = project(x);
  return {detail::widened(h.q), detail::widened(h.k), detail::widened(h.v)};
}
Tensor HeadProjections::merge(const Tensor& y, const Tensor& x) const { return o_proj(reshape(cast(y, x.dtype()), x.shape())); }

}  // namespace retape::nn
