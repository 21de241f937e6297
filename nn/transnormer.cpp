#include <retape/nn/transnormer.h>

#include <fmt/format.h>

#include <retape/autograd/attention.h>
#include <retape/autograd/diagonal.h>
#include <retape/autograd/rearrange.h>
#include <retape/autograd/views.h>
#include <retape/nn/causal.h>

namespace retape::nn {

// ---- linear, with a norm ---------------------------------------------------------------------------------------------

NormAttention::NormAttention(int64_t embed, NormAttentionOptions o)
    : HeadProjections("NormAttention", embed, o.num_heads, o.bias, o.causal), map(o.feature_map), norm(embed, {.eps = o.eps}) {
  if (!(o.eps >= 0)) throw Error(fmt::format("NormAttention: eps {} is not valid; it must be 0 or more", o.eps));
}
Tensor NormAttention::forward(const Tensor& x) const {
  State start;
  return attend(x, start);
}
Tensor NormAttention::step(const Tensor& x, State& state) const {
  const ModuleScope scope(*this);
  detail::check_step(name_, causal, x, embed_dim, state.sums);
  return attend(x, state);
}
Tensor NormAttention::attend(const Tensor& x, State& state) const {
  const Heads h = project_wide(x);
  if (x.numel() == 0) return merge(h.v, x);
  Tensor y;
  {
    const detail::Wide no_autocast;
    const Tensor q = feature_map(map, h.q), k = feature_map(map, h.k);
    y = norm(reshape(causal ? detail::attend_to_past(q, k, h.v, state.sums) : detail::attend_to_all(q, k, h.v), x.shape()));
  }
  return merge(y, x);
}

// ---- softmax inside blocks -------------------------------------------------------------------------------------------

namespace {
// Attention of q (B, n, H, D) to k and v (B, S, H, D), whose last n positions are the queries' own.
Tensor attend_in_block(const Tensor& q, const Tensor& k, const Tensor& v, bool causal) {
  const int64_t queries = q.shape()[1], keys = k.shape()[1];
  AttentionParams params{.is_causal = causal && queries == keys};
  if (causal && queries < keys) params.mask = tril(ones({queries, keys}, {DType::boolean, q.device()}), keys - queries);
  const auto by_head = [](const Tensor& t) { return transpose(t, 1, 2); };
  return by_head(scaled_dot_product_attention(by_head(q), by_head(k), by_head(v), params));
}
}  // namespace

DiagAttention::DiagAttention(int64_t embed, DiagAttentionOptions o)
    : HeadProjections("DiagAttention", embed, o.num_heads, o.bias, o.causal), block_size(o.block_size) {
  detail::check_positive("DiagAttention", "block_size", block_size);
}
Tensor DiagAttention::forward(const Tensor& x) const {
  const Heads h = project(x);
  if (x.numel() == 0) return merge(h.v, x);
  const int64_t batch = x.shape()[0], length = x.shape()[1], whole = length / block_size * block_size;
  std::vector<Tensor> ys;
  if (whole > 0) {
    const int64_t size = embed_dim / num_heads;
    const auto blocks = [&](const Tensor& t) {
      return reshape(narrow(t, 1, 0, whole), {batch * (whole / block_size), block_size, num_heads, size});
    };
    ys.push_back(reshape(attend_in_block(blocks(h.q), blocks(h.k), blocks(h.v), causal), {batch, whole, num_heads, size}));
  }
  if (whole < length) {
    const auto rest = [&](const Tensor& t) { return narrow(t, 1, whole, length - whole); };
    ys.push_back(attend_in_block(rest(h.q), rest(h.k), rest(h.v), causal));
  }
  return merge(ys.size() == 1 ? ys[0] : cat(ys, 1), x);
}
Tensor DiagAttention::step(const Tensor& x, State& state) const {
  const ModuleScope scope(*this);
  detail::check_step(name_, causal, x, embed_dim, state.k.all());
  const Heads h = project(x);
  if (x.numel() == 0) return merge(h.v, x);
  std::vector<Tensor> ys;
  for (int64_t at = 0; at < x.shape()[1];) {
    if (state.k.length() == block_size) state.k.clear(), state.v.clear();
    const int64_t n = std::min(block_size - state.k.length(), x.shape()[1] - at);
    const auto next = [&](const Tensor& t) { return narrow(t, 1, at, n); };
    state.k = state.k.with(next(h.k)), state.v = state.v.with(next(h.v));
    ys.push_back(attend_in_block(next(h.q), state.k.all(), state.v.all(), true));
    at += n;
  }
  return merge(ys.size() == 1 ? ys[0] : cat(ys, 1), x);
}

AnySequenceMixer transnormer_attention(int64_t embed_dim, const TransNormerOptions& o) {
  if (o.attention == TransNormerAttention::diag)
    return DiagAttention(embed_dim, {.num_heads = o.num_heads, .block_size = o.block_size, .bias = o.bias, .causal = o.causal});
  return NormAttention(embed_dim, {.num_heads = o.num_heads, .feature_map = o.feature_map, .bias = o.bias, .causal = o.causal});
}

}  // namespace retape::nn
