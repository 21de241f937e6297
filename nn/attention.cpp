#include <retape/nn/attention.h>

#include <fmt/format.h>

#include <cmath>
#include <limits>

#include <retape/autograd/attention.h>
#include <retape/autograd/dropout.h>
#include <retape/autograd/matmul.h>
#include <retape/autograd/rearrange.h>
#include <retape/autograd/reduce.h>
#include <retape/autograd/softmax.h>
#include <retape/autograd/views.h>
#include <retape/nn/causal.h>
#include <retape/nn/init.h>

namespace retape::nn {
namespace {

// (N, T, H * D) as (N, H, T, D)
Tensor split_heads(const Tensor& x, int64_t heads) {
  const Shape& s = x.shape();
  return transpose(reshape(x, {s[0], s[1], heads, s[2] / heads}), 1, 2);
}
void check_mask(const char* name, const Tensor& mask, const Shape& expected, const Shape& other) {
  if (mask.shape() == expected || mask.shape() == other) {
    if (mask.dtype() == DType::boolean || is_floating(mask.dtype())) return;
    throw Error(fmt::format("MultiheadAttention: {} has dtype {}; it must be bool or floating", name, name_of(mask.dtype())));
  }
  const std::string either = expected == other ? "" : fmt::format(" or {}", other.str());
  throw Error(fmt::format("MultiheadAttention: {} has shape {}, expected {}{}", name, mask.shape().str(), expected.str(), either));
}
Tensor as_bias(const Tensor& mask, DType dtype) {
  if (mask.dtype() != DType::boolean) return cast(mask, dtype);
  const Tensor zero = zeros({}, {.dtype = dtype, .device = mask.device()});
  return where(mask, -std::numeric_limits<double>::infinity(), zero);
}
// Both masks as one: bool with true for left out if both are bool, else what is added to the scores.
Tensor join_masks(const Tensor& a, const Tensor& b, DType dtype) {
  if (!a || !b) return a ? a : b;
  if (a.dtype() == DType::boolean && b.dtype() == DType::boolean) return logical_or(a, b);
  return as_bias(a, dtype) + as_bias(b, dtype);
}
// `extra` more keys at the end, left in.
Tensor with_extra(const Tensor& mask, int64_t extra) {
  if (!mask || extra == 0) return mask;
  Shape shape = mask.shape();
  shape[-1] = extra;
  return cat({mask, zeros(shape, mask.options())}, -1);
}
// x (N, H, S, D) with one more position: `more` (1, 1, H D), or zeros
Tensor with_position(const Tensor& x, const Tensor& more) {
  const Shape& s = x.shape();
  const Shape one{s[0], s[1], 1, s[3]};
  return cat({x, more ? expand(reshape(more, {1, s[1], 1, s[3]}), one) : zeros(one, x.options())}, 2);
}
Tensor later_keys(int64_t queries, int64_t keys, Device device) {
  const Options options{.dtype = DType::i64, .device = device};
  return gt(arange(keys, options), unsqueeze(arange(queries, options), 1));
}

}  // namespace

MultiheadAttention::MultiheadAttention(int64_t embed, int64_t heads, MultiheadAttentionOptions options)
    : embed_dim(embed),
      num_heads(heads),
      dropout(options.dropout),
      batch_first(options.batch_first),
      add_zero_attn(options.add_zero_attn),
      out_proj(embed, embed, {.bias = options.bias}) {
  if (heads <= 0 || embed <= 0 || embed % heads)
    throw Error(fmt::format("MultiheadAttention: embed_dim {} does not divide into {} heads", embed, heads));
  detail::check_dropout("MultiheadAttention", dropout);
  const int64_t kdim = options.kdim.value_or(embed), vdim = options.vdim.value_or(embed);
  if (kdim == embed && vdim == embed) {
    in_proj_weight = empty_parameter({3 * embed, embed});
    init::xavier_uniform(in_proj_weight);
  } else {
    q_proj_weight = empty_parameter({embed, embed});
    k_proj_weight = empty_parameter({embed, kdim});
    v_proj_weight = empty_parameter({embed, vdim});
    for (const Parameter* p : {&q_proj_weight, &k_proj_weight, &v_proj_weight}) init::xavier_uniform(*p);
  }
  if (options.add_bias_kv) {
    bias_k = empty_parameter({1, 1, embed}), bias_v = empty_parameter({1, 1, embed});
    for (const Parameter* p : {&bias_k, &bias_v}) init::xavier_normal(*p);
  }
  if (!options.bias) return;
  in_proj_bias = empty_parameter({3 * embed});
  init::zeros(in_proj_bias);
  init::zeros(out_proj.bias);
}

MultiheadAttentionOutput MultiheadAttention::operator()(const Tensor& query, const Tensor& key, const Tensor& value,
                                                        const MultiheadAttentionInputs& inputs) const {
  const ModuleScope scope(*this);
  return forward(query, key, value, inputs);
}

// query (N, L, embed_dim), key (N, S, kdim), value (N, S, vdim)
MultiheadAttention::Heads MultiheadAttention::project(const Tensor& query, const Tensor& key, const Tensor& value) const {
  const auto bias = [&](int64_t i) { return in_proj_bias ? narrow(in_proj_bias, 0, i * embed_dim, embed_dim) : Tensor(); };
  const auto weight = [&](int64_t i) -> Tensor {
    if (in_proj_weight) return narrow(in_proj_weight, 0, i * embed_dim, embed_dim);
    return i == 0 ? q_proj_weight : i == 1 ? k_proj_weight : v_proj_weight;
  };
  Heads h;
  if (in_proj_weight && query.impl() == key.impl() && query.impl() == value.impl()) {  // self-attention: one product
    const auto parts = chunk(linear(query, in_proj_weight, in_proj_bias), 3, -1);
    h = {parts[0], parts[1], parts[2]};
  } else if (in_proj_weight && key.impl() == value.impl()) {  // attention to another sequence: two
    const Tensor both = linear(key, narrow(in_proj_weight, 0, embed_dim, 2 * embed_dim),
                               in_proj_bias ? narrow(in_proj_bias, 0, embed_dim, 2 * embed_dim) : Tensor());
    h = {linear(query, weight(0), bias(0)), narrow(both, -1, 0, embed_dim), narrow(both, -1, embed_dim, embed_dim)};
  } else {
    h = {linear(query, weight(0), bias(0)), linear(key, weight(1), bias(1)), linear(value, weight(2), bias(2))};
  }
  return {split_heads(h.q, num_heads), split_heads(h.k, num_heads), split_heads(h.v, num_heads)};
}

MultiheadAttentionOutput MultiheadAttention::forward(const Tensor& query, const Tensor& key, const Tensor& value,
                                                     const MultiheadAttentionInputs& inputs) const {
  const int rank = query.dim();
  if ((rank != 2 && rank != 3) || key.dim() != rank || value.dim() != rank)
    throw Error(fmt::format("MultiheadAttention: query {}, key {} and value {} must all have 3 dims, or 2 without a batch",
                            query.shape().str(), key.shape().str(), value.shape().str()));
  const bool same = query.impl() == key.impl() && query.impl() == value.impl();
  const auto batched = [&](const Tensor& x) { return rank == 2 ? unsqueeze(x, 0) : batch_first ? x : transpose(x, 0, 1); };
  const Tensor q = batched(query), k = same ? q : batched(key), v = same ? q : batched(value);
  const int64_t n = q.shape()[0], queries = q.shape()[1], keys = k.shape()[1];
  if (q.shape()[2] != embed_dim || k.shape()[0] != n || v.shape()[0] != n || v.shape()[1] != keys)
    throw Error(fmt::format(
        "MultiheadAttention: query {}, key {} and value {} do not fit: query's last size must be {}, batch sizes must agree, and key and value must be equally long",
        query.shape().str(), key.shape().str(), value.shape().str(), embed_dim));
  Heads heads = project(q, k, v);
  if (bias_k) heads.k = with_position(heads.k, bias_k), heads.v = with_position(heads.v, bias_v);
  if (add_zero_attn) heads.k = with_position(heads.k, {}), heads.v = with_position(heads.v, {});
  const int64_t extra = (bias_k ? 1 : 0) + (add_zero_attn ? 1 : 0);

  Tensor attn_mask = inputs.attn_mask, padding = inputs.key_padding_mask;
  if (attn_mask) {
    check_mask("attn_mask", attn_mask, {queries, keys}, {n * num_heads, queries, keys});
    if (attn_mask.dim() == 3) attn_mask = reshape(attn_mask, {n, num_heads, queries, keys});
  }
  if (padding) {
    const Shape expected = rank == 2 ? Shape{keys} : Shape{n, keys};
    check_mask("key_padding_mask", padding, expected, expected);
    padding = reshape(padding, {n, 1, 1, keys});
  }
  const DType dtype = heads.q.dtype();
  Tensor mask = with_extra(join_masks(attn_mask, padding, dtype), extra);
  const double drop = is_training() ? dropout : 0, scale = 1 / std::sqrt(double(embed_dim / num_heads));

  MultiheadAttentionOutput out;
  if (inputs.need_weights || mask.requires_grad()) {  // the fused kernel has no gradient for a mask
    if (inputs.is_causal) mask = join_masks(mask, with_extra(later_keys(queries, keys, heads.q.device()), extra), dtype);
    Tensor scores = matmul(heads.q * scale, transpose(heads.k));
    if (mask && mask.dtype() == DType::boolean) scores = masked_fill(scores, mask, -std::numeric_limits<double>::infinity());
    else if (mask) scores = scores + cast(mask, dtype);
    const Tensor weights = retape::dropout(softmax(scores, -1), drop, drop > 0, default_generator());
    out.output = matmul(weights, heads.v);
    if (inputs.need_weights) out.weights = inputs.average_attn_weights ? mean(weights, {1}) : weights;
    if (out.weights && rank == 2) out.weights = squeeze(out.weights, 0);
  } else {
    if ((mask || extra) && inputs.is_causal) mask = join_masks(mask, with_extra(later_keys(queries, keys, heads.q.device()), extra), dtype);
    if (mask && mask.dtype() == DType::boolean) mask = logical_not(mask);  // there, true means: attend
    out.output = scaled_dot_product_attention(heads.q, heads.k, heads.v,
                                              {.mask = mask,
                                               .is_causal = inputs.is_causal && !mask,
                                               .dropout_p = drop,
                                               .scale = scale,
                                               .allow_masked_rows = true});  // as in the sums above
  }
  out.output = out_proj(reshape(transpose(out.output, 1, 2), {n, queries, embed_dim}));
  if (rank == 2) out.output = squeeze(out.output, 0);
  else if (!batch_first) out.output = transpose(out.output, 0, 1);
  return out;
}

// ---- generation ------------------------------------------------------------------------------------------------------

void MultiheadAttention::check_generation(const char* what) const {
  if (!batch_first || !in_proj_weight || bias_k || add_zero_attn)
    throw Error(fmt::format("MultiheadAttention: {} needs batch_first, and no kdim, vdim, add_bias_kv or add_zero_attn", what));
}

MultiheadAttention::Memory MultiheadAttention::remember(const Tensor& sequence) const {
  check_generation("remember()");
  const ModuleScope scope(*this);
  const Tensor both = linear(sequence, narrow(in_proj_weight, 0, embed_dim, 2 * embed_dim),
                             in_proj_bias ? narrow(in_proj_bias, 0, embed_dim, 2 * embed_dim) : Tensor());
  return {contiguous(split_heads(narrow(both, -1, 0, embed_dim), num_heads)),
          contiguous(split_heads(narrow(both, -1, embed_dim, embed_dim), num_heads))};
}

Tensor MultiheadAttention::attend(const Tensor& query, const Memory& memory, const Tensor& key_padding_mask) const {
  check_generation("attend()");
  const ModuleScope scope(*this);
  const int64_t n = query.size(0), queries = query.size(1), sequences = memory.k.size(0), rows = sequences ? n / sequences : 1;
  if (rows * sequences != n)
    throw Error(fmt::format("MultiheadAttention: query {} has {} rows, but memory has {}; as many, or a multiple of them, would be right",
                            query.shape().str(), n, sequences));
  const Tensor q = linear(query, narrow(in_proj_weight, 0, 0, embed_dim), in_proj_bias ? narrow(in_proj_bias, 0, 0, embed_dim) : Tensor());
  AttentionParams params{.allow_masked_rows = true};
  if (key_padding_mask) params.mask = logical_not(reshape(key_padding_mask, {sequences, 1, 1, memory.k.size(2)}));
  // Rows of one sequence are like further queries: keys and values are read once for all.
  const Tensor y =
      scaled_dot_product_attention(split_heads(reshape(q, {sequences, rows * queries, embed_dim}), num_heads), memory.k, memory.v, params);
  return out_proj(reshape(transpose(y, 1, 2), {n, queries, embed_dim}));
}

Tensor MultiheadAttention::step(const Tensor& x, KVCache& cache) const {
  check_generation("step()");
  const ModuleScope scope(*this);
  const Heads h = project(x, x, x);
  return out_proj(reshape(transpose(cache.attend(h.q, h.k, h.v), 1, 2), {x.size(0), x.size(1), embed_dim}));
}

}  // namespace retape::nn
