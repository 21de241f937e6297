#include <retape/nn/gated_attention_unit.h>

#include <fmt/format.h>

#include <retape/autograd/diagonal.h>
#include <retape/autograd/matmul.h>
#include <retape/autograd/rearrange.h>
#include <retape/autograd/reduce.h>
#include <retape/autograd/scan.h>
#include <retape/autograd/unary.h>
#include <retape/autograd/views.h>
#include <retape/nn/causal.h>
#include <retape/nn/heads.h>
#include <retape/nn/init.h>

namespace retape::nn {
namespace {

int64_t expanded(const char* name, int64_t embed_dim, double factor) {
  const double size = factor * double(embed_dim);
  if (!(size >= 1 && size < 1e9))
    throw Error(
        fmt::format("{}: expansion_factor {} of embed_dim {} is not valid; it must give 1 or more features", name, factor, embed_dim));
  return int64_t(size);
}
Parameter scales(int64_t count, int64_t size) {
  Parameter gamma = empty_parameter({count, size});
  init::normal(gamma, 0, 0.02);
  return gamma;
}
Parameter offsets(int64_t count, int64_t size) {
  Parameter beta = empty_parameter({count, size});
  init::zeros(beta);
  return beta;
}
struct Projected {
  Tensor u, v, base;  // (B, T, e), (B, T, e), (B, T, s)
};
template <class M> Projected project(const M& m, const Tensor& x) {
  const Tensor all = silu(m.in_proj(x));
  const auto parts = split(all, {m.hidden_dim, m.hidden_dim, m.query_key_dim}, -1);
  return {parts[0], parts[1], parts[2]};
}
template <class M> Tensor offset_scale(const M& m, const Tensor& base, int64_t i) {
  return base * select(m.gamma, 0, i) + select(m.beta, 0, i);
}

// relu(q k^T + bias)^2 for q (..., queries, s), already divided, and k (..., keys, s); the first query stands at position `first`.
Tensor squared_relu(const Tensor& q, const Tensor& k, const Tensor& bias, bool causal, int64_t first) {
  Tensor scores = matmul(q, transpose(k));
  if (bias) scores = scores + cast(bias, scores.dtype());
  const Tensor weights = square(relu(scores));
  return causal && weights.shape()[-2] > 1 ? tril(weights, first) : weights;
}

}  // namespace

// ---- biases by distance ----------------------------------------------------------------------------------------------

DistanceBias::DistanceBias(RelativeBias of, int64_t length, int64_t dim) : kind(of), max_length(length) {
  const auto vector = [](int64_t size) {
    Parameter p = empty_parameter({size});
    init::normal(p, 0, 0.02);
    return p;
  };
  if (kind == RelativeBias::toeplitz) {
    weight = vector(2 * detail::check_positive("DistanceBias", "max_length", length) - 1);
  } else if (kind == RelativeBias::rope) {
    rotary.emplace(dim);
    a = vector(dim), b = vector(dim);
  }
}
Tensor DistanceBias::by_distance(int64_t first, int64_t count) const {
  if (kind == RelativeBias::none) return {};
  if (kind == RelativeBias::toeplitz) {
    const int64_t positions = std::max(first + count, 1 - first);
    if (positions > max_length)
      throw Error(fmt::format("DistanceBias: {} positions are beyond max_length {} of RelativeBias::toeplitz", positions, max_length));
    return flip(narrow(weight, 0, max_length - first - count, count), {0});
  }
  // Turning both by as much more leaves the product as it is, and no position below 0.
  const int64_t more = std::max<int64_t>(0, -first);
  return sum((*rotary)(expand(a, {count, a->shape()[0]}), first + more) * (*rotary)(unsqueeze(b, 0), more), {1});
}
Tensor DistanceBias::forward(int64_t first, int64_t queries, int64_t keys) const {
  if (kind == RelativeBias::none) return {};
  const int64_t distances = queries + keys - 1;
  const Tensor falling = flip(by_distance(first + 1 - keys, distances), {0});
  return detail::relative_shift(expand(pad(falling, {0, 1}), {queries, distances + 1}), keys);
}
Tensor DistanceBias::of_past(const Tensor& by_distance, int64_t queries) {
  const int64_t keys = by_distance.shape()[0];
  return detail::relative_shift(expand(pad(flip(by_distance, {0}), {0, queries}), {queries, keys + queries}), keys);
}

// ---- gated attention unit --------------------------------------------------------------------------------------------

GatedAttentionUnit::GatedAttentionUnit(int64_t embed, GatedAttentionUnitOptions o)
    : embed_dim(embed),
      hidden_dim(expanded("GatedAttentionUnit", embed, o.expansion_factor)),
      query_key_dim(detail::check_positive("GatedAttentionUnit", "query_key_dim", o.query_key_dim)),
      causal(o.causal),
      in_proj(embed, 2 * hidden_dim + query_key_dim, {.bias = o.bias}),
      gamma(scales(2, query_key_dim)),
      beta(offsets(2, query_key_dim)),
      relative_bias(o.relative_bias, o.max_length, query_key_dim),
      o_proj(hidden_dim, embed, {.bias = o.bias}) {}
Tensor GatedAttentionUnit::forward(const Tensor& x) const {
  detail::check_sequence("GatedAttentionUnit", x, embed_dim);
  State start;
  return attend(x, start);
}
Tensor GatedAttentionUnit::step(const Tensor& x, State& state) const {
  const ModuleScope scope(*this);
  detail::check_step("GatedAttentionUnit", causal, x, embed_dim, state.k.all());
  return attend(x, state);
}
Tensor GatedAttentionUnit::attend(const Tensor& x, State& state) const {
  const Projected p = project(*this, x);
  if (x.numel() == 0) return o_proj(p.u);
  const int64_t first = state.k.length(), queries = x.shape()[1], keys = first + queries;
  GrowingTensor by_distance(0);
  Tensor bias;
  if (!causal) {
    bias = relative_bias(first, queries, keys);
  } else if (relative_bias.kind != RelativeBias::none) {
    by_distance = state.bias.with(relative_bias.by_distance(first, queries));
    bias = DistanceBias::of_past(by_distance.all(), queries);
  }
  GrowingTensor k = state.k.with(offset_scale(*this, p.base, 1)), v = state.v.with(p.v);
  Tensor q = offset_scale(*this, p.base, 0);
  if (causal) q = q / cast(unsqueeze(arange(first + 1, keys + 1, 1, {DType::f64, q.device()}), 1), q.dtype());
  else q = q / double(keys);
  const Tensor y = matmul(squared_relu(q, k.all(), bias, causal, first), v.all());
  state.k = std::move(k), state.v = std::move(v), state.bias = std::move(by_distance);
  return o_proj(p.u * y);
}

// ---- mixed chunks ----------------------------------------------------------------------------------------------------

FLASH::FLASH(int64_t embed, FLASHOptions o)
    : embed_dim(embed),
      hidden_dim(expanded("FLASH", embed, o.expansion_factor)),
      query_key_dim(detail::check_positive("FLASH", "query_key_dim", o.query_key_dim)),
      chunk_size(detail::check_positive("FLASH", "chunk_size", o.chunk_size)),
      causal(o.causal),
      in_proj(embed, 2 * hidden_dim + query_key_dim, {.bias = o.bias}),
      gamma(scales(4, query_key_dim)),
      beta(offsets(4, query_key_dim)),
      relative_bias(o.relative_bias, o.chunk_size, query_key_dim),
      o_proj(hidden_dim, embed, {.bias = o.bias}) {}
Tensor FLASH::forward(const Tensor& x) const {
  detail::check_sequence("FLASH", x, embed_dim);
  const Projected p = project(*this, x);
  if (x.numel() == 0) return o_proj(p.u);
  const int64_t batch = x.shape()[0], length = x.shape()[1], size = std::min(chunk_size, length), chunks = (length + size - 1) / size;
  // Positions that fill up the last chunk have values of 0, so that nothing comes from them.
  const auto in_chunks = [&](const Tensor& t) {
    const Tensor full = chunks * size == length ? t : pad(t, {0, 0, 0, chunks * size - length});
    return reshape(full, {batch, chunks, size, t.shape()[2]});
  };
  const auto part = [&](int64_t i) { return in_chunks(offset_scale(*this, p.base, i)); };
  const Tensor v = in_chunks(p.v);
  Tensor y = matmul(squared_relu(part(0) / double(chunk_size), part(2), relative_bias(0, size, size), causal, 0), v);
  if (!causal || chunks > 1) {
    Tensor sums = detail::widened(matmul(transpose(part(3)), v)) / double(causal ? chunk_size : length);  // (B, chunks, s, e)
    if (causal) sums = cumsum(pad(narrow(sums, 1, 0, chunks - 1), {0, 0, 0, 0, 1, 0}), 1);
    else sums = sum(sums, {1}, true);
    y = y + matmul(part(1), cast(sums, v.dtype()));
  }
  return o_proj(p.u * narrow(reshape(y, {batch, chunks * size, hidden_dim}), 1, 0, length));
}
Tensor FLASH::step(const Tensor& x, State& state) const {
  const ModuleScope scope(*this);
  detail::check_step("FLASH", causal, x, embed_dim, state.v.all());
  const Projected p = project(*this, x);
  if (x.numel() == 0) return o_proj(p.u);
  const Tensor q = offset_scale(*this, p.base, 0) / double(chunk_size), lin_q = offset_scale(*this, p.base, 1);
  const Tensor k = offset_scale(*this, p.base, 2), lin_k = offset_scale(*this, p.base, 3);
  std::vector<Tensor> ys;
  for (int64_t at = 0; at < x.shape()[1];) {
    if (state.v.length() == chunk_size) {
      const Tensor chunk = detail::widened(matmul(transpose(state.lin_k.all()), state.v.all())) / double(chunk_size);
      state.sums = state.sums ? state.sums + chunk : chunk;
      state.k.clear(), state.lin_k.clear(), state.v.clear();
    }
    const int64_t before = state.v.length(), n = std::min(chunk_size - before, x.shape()[1] - at);
    const auto next = [&](const Tensor& t) { return narrow(t, 1, at, n); };
    state.k = state.k.with(next(k)), state.lin_k = state.lin_k.with(next(lin_k)), state.v = state.v.with(next(p.v));
    Tensor y = matmul(squared_relu(next(q), state.k.all(), relative_bias(before, n, before + n), true, before), state.v.all());
    if (state.sums) y = y + matmul(next(lin_q), cast(state.sums, p.v.dtype()));
    ys.push_back(y);
    at += n;
  }
  return o_proj(p.u * (ys.size() == 1 ? ys[0] : cat(ys, 1)));
}

}  // namespace retape::nn
