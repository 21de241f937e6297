#include <retape/nn/causal_self_attention.h>

#include <fmt/format.h>

#include <retape/autograd/attention.h>
#include <retape/autograd/views.h>
#include <retape/nn/causal.h>

namespace retape::nn {
namespace {

CausalSelfAttentionOptions checked(int64_t embed_dim, CausalSelfAttentionOptions o) {
  if (embed_dim <= 0 || o.num_heads <= 0 || o.num_kv_heads < 0 || o.head_dim < 0 || (o.head_dim == 0 && embed_dim % o.num_heads))
    throw Error(fmt::format(
        "CausalSelfAttention: embed_dim {} does not divide into {} heads, {} for keys and values, of {} features; give positive "
        "numbers, or a head_dim",
        embed_dim, o.num_heads, o.num_kv_heads, o.head_dim));
  if (o.num_kv_heads == 0) o.num_kv_heads = o.num_heads;
  if (o.head_dim == 0) o.head_dim = embed_dim / o.num_heads;
  if (o.num_heads % o.num_kv_heads)
    throw Error(fmt::format("CausalSelfAttention: {} heads do not share {} heads of keys and values evenly; the first must be a multiple",
                            o.num_heads, o.num_kv_heads));
  detail::check_dropout("CausalSelfAttention", o.dropout);
  if (o.window < 0 || !(o.softcap >= 0))
    throw Error(fmt::format("CausalSelfAttention: window {} and softcap {} are not valid; both must be positive, or 0 for none", o.window,
                            o.softcap));
  if (o.window > 0 && o.sparse.sees)
    throw Error(
        fmt::format("CausalSelfAttention: a window of {} forgets positions that a block pattern may see; give one of the two", o.window));
  return o;
}
// With other positions there are no tables, and any head_dim will do.
RotaryEmbedding rotary_of(const CausalSelfAttentionOptions& o) {
  return o.position == AttentionPosition::rope ? RotaryEmbedding(o.head_dim, o.rope) : RotaryEmbedding(2);
}

}  // namespace

CausalSelfAttention::CausalSelfAttention(int64_t embed, CausalSelfAttentionOptions o)
    : embed_dim(embed),
      options(checked(embed, std::move(o))),
      c_attn(embed, (options.num_heads + 2 * options.num_kv_heads) * options.head_dim, {.bias = options.bias}),
      c_proj(options.num_heads * options.head_dim, embed, {.bias = options.bias}),
      rotary(rotary_of(options)) {
  if (options.qk_norm) {
    q_norm.emplace(options.head_dim, RMSNormOptions{.eps = options.qk_norm_eps});
    k_norm.emplace(options.head_dim, RMSNormOptions{.eps = options.qk_norm_eps});
  }
  if (options.position == AttentionPosition::t5)
    relative_attention.emplace(
        options.num_heads,
        T5RelativePositionBiasOptions{.num_buckets = options.num_buckets, .max_distance = options.max_distance, .bidirectional = false});
  if (options.position == AttentionPosition::alibi) slopes = Buffer(alibi_slopes(options.num_heads), false);
}

CausalSelfAttention::Heads CausalSelfAttention::project(const Tensor& x, int64_t start) const {
  if (x.dim() != 3 || x.size(2) != embed_dim)
    throw Error(fmt::format("CausalSelfAttention: x has shape {}; it must be (B, T, {})", x.shape().str(), embed_dim));
  const Tensor all = c_attn(x);
  const auto part = [&](int64_t first, int64_t heads) {  // (B, heads, T, D), a view
    const Tensor y = narrow(all, -1, first * options.head_dim, heads * options.head_dim);
    return transpose(reshape(y, {x.size(0), x.size(1), heads, options.head_dim}), 1, 2);
  };
  Heads h{part(0, options.num_heads), part(options.num_heads, options.num_kv_heads),
          part(options.num_heads + options.num_kv_heads, options.num_kv_heads)};
  if (options.qk_norm) h.q = (*q_norm)(h.q), h.k = (*k_norm)(h.k);
  if (options.position == AttentionPosition::rope) h.q = rotary(h.q, start), h.k = rotary(h.k, start);
  return h;
}
AttentionParams CausalSelfAttention::params(int64_t queries, int64_t keys, int64_t query_offset, Device device) const {
  AttentionParams p{.softcap = options.softcap, .alibi_slopes = slopes};
  if (options.position == AttentionPosition::t5) p.relative_bias = (*relative_attention)(queries, keys, query_offset);
  if (options.sparse.sees) {
    p.block_mask = options.sparse.mask(queries, keys, query_offset, device);
    p.block_size = options.sparse.block_size;
  }
  return p;
}
Tensor CausalSelfAttention::merge(const Tensor& y) const {
  return c_proj(reshape(transpose(y, 1, 2), {y.size(0), y.size(2), options.num_heads * options.head_dim}));
}

Tensor CausalSelfAttention::forward(const Tensor& x) const {
  const Heads h = project(x, 0);
  AttentionParams p = params(x.size(1), x.size(1), 0, x.device());
  p.is_causal = true, p.window_left = options.window - 1, p.dropout_p = is_training() ? options.dropout : 0;
  return merge(scaled_dot_product_attention(h.q, h.k, h.v, p));
}

Tensor CausalSelfAttention::step(const Tensor& x, State& state) const {
  const ModuleScope scope(*this);
  if (!state.keys() && state.options().capacity == 0 && state.options().window == 0) state = KVCache({.window = options.window});
  if (state.options().window != options.window)
    throw Error(
        fmt::format("CausalSelfAttention: step() got a state with a window of {}, but the layer's is {}; take a KVCache made by default",
                    state.options().window, options.window));
  const Heads h = project(x, state.length());
  const int64_t queries = x.size(1), keys = state.keys_for(queries);
  return merge(state.attend(h.q, h.k, h.v, params(queries, keys, keys - queries, x.device())));
}

}  // namespace retape::nn
