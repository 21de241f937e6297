#include <retape/nn/relative_attention.h>

#include <fmt/format.h>

#include <cmath>
#include <limits>

#include <retape/autograd/dropout.h>
#include <retape/autograd/matmul.h>
#include <retape/autograd/rearrange.h>
#include <retape/autograd/reduce.h>
#include <retape/autograd/rope.h>
#include <retape/autograd/softmax.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/unary.h>
#include <retape/autograd/views.h>
#include <retape/nn/causal.h>
#include <retape/nn/init.h>

namespace retape::nn {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

Tensor by_head(const Tensor& x) { return transpose(x, 1, 2); }
// key - query, i64 (queries, keys), for queries behind `first` other positions
Tensor distances(int64_t first, int64_t queries, int64_t keys, Device device) {
  const Options options{.dtype = DType::i64, .device = device};
  return arange(0, keys, 1, options) - unsqueeze(arange(first, first + queries, 1, options), 1);
}
}  // namespace

// ---- clipped distances -----------------------------------------------------------------------------------------------

RelativeSelfAttention::RelativeSelfAttention(int64_t embed, RelativeSelfAttentionOptions o)
    : HeadProjections("RelativeSelfAttention", embed, o.num_heads, o.bias, o.causal),
      max_distance(o.max_distance),
      dropout(detail::check_dropout("RelativeSelfAttention", o.dropout)) {
  detail::check_positive("RelativeSelfAttention", "max_distance", max_distance);
  const auto vectors = [&] {
    Parameter p = empty_parameter({2 * max_distance + 1, embed / o.num_heads});
    init::xavier_uniform(p);
    return p;
  };
  relative_keys = vectors();
  if (o.relative_values) relative_values = vectors();
}
Tensor RelativeSelfAttention::forward(const Tensor& x) const {
  State start;
  return attend(x, start, is_training() ? dropout : 0);
}
Tensor RelativeSelfAttention::step(const Tensor& x, State& state) const {
  const ModuleScope scope(*this);
  detail::check_step(name_, causal, x, embed_dim, state.k.all());
  return attend(x, state, 0);
}
Tensor RelativeSelfAttention::attend(const Tensor& x, State& state, double drop) const {
  const Heads h = project(x);
  if (x.numel() == 0) return merge(h.v, x);
  const int64_t batch = x.shape()[0], queries = x.shape()[1], first = state.k.length(), keys = first + queries;
  const Tensor q = by_head(h.q) * (1 / std::sqrt(double(embed_dim / num_heads)));
  state.k = state.k.with(by_head(h.k)), state.v = state.v.with(by_head(h.v));

  // Of distances -(keys - 1) .. furthest, and one that no pair has, so many on either side are clipped to the ends of the vectors.
  const int64_t furthest = causal ? 0 : queries - 1, kinds = max_distance + 1 + std::min(max_distance, furthest);
  const int64_t near = std::min(max_distance, keys - 1), unused = max_distance - near;
  const int64_t before = keys - 1 - near, after = furthest - std::min(max_distance, furthest);
  const auto vectors = [&](const Tensor& all) { return narrow(all, 0, unused, kinds - unused); };
  const Tensor by_kind = matmul(q, transpose(vectors(relative_keys)));
  const auto repeated = [&](int64_t kind, int64_t count) {
    return expand(narrow(by_kind, 3, kind, 1), {batch, num_heads, queries, count});
  };
  const int64_t last = kinds - unused - 1;
  const Tensor of_distance = detail::relative_shift(cat({repeated(0, before), by_kind, repeated(last, after + 1)}, 3), keys);
  Tensor scores = matmul(q, transpose(state.k.all())) + of_distance;
  if (causal && queries > 1) scores = masked_fill(scores, gt(distances(first, queries, keys, x.device()), 0), -infinity);
  const Tensor weights = retape::dropout(softmax(scores, -1), drop, drop > 0);
  Tensor y = matmul(weights, state.v.all());
  if (relative_values) {
    const Tensor by_distance = detail::relative_unshift(weights, keys + furthest + 1);
    const auto clipped = [&](int64_t start, int64_t count) { return sum(narrow(by_distance, 3, start, count), {3}, true); };
    const Tensor by_vector =
        last == 0 ? clipped(0, 1)  // one position alone
                  : cat({clipped(0, before + 1), narrow(by_distance, 3, before + 1, last - 1), clipped(before + last, after + 1)}, 3);
    y = y + matmul(by_vector, vectors(relative_values));
  }
  return merge(by_head(y), x);
}

// ---- segments --------------------------------------------------------------------------------------------------------

TransformerXLAttention::TransformerXLAttention(int64_t embed, TransformerXLAttentionOptions o)
    : HeadProjections("TransformerXLAttention", embed, o.num_heads, o.bias, o.causal),
      mem_len(o.mem_len),
      dropout(detail::check_dropout("TransformerXLAttention", o.dropout)),
      r_proj(embed, embed, {.bias = false}),
      table_([=](int64_t length, Options options) {
        const auto [cos, sin] = rope_tables(length, embed, 10000, options);
        return cat({sin, cos}, 1);
      }) {
  if (embed % 2) throw Error(fmt::format("TransformerXLAttention: embed_dim {} is not valid; it must be even", embed));
  if (mem_len && *mem_len < 0) throw Error(fmt::format("TransformerXLAttention: mem_len {} is not valid; it must be 0 or more", *mem_len));
  const auto biases = [&] {
    Parameter p = empty_parameter({o.num_heads, embed / o.num_heads});
    init::normal(p, 0, 0.02);
    return p;
  };
  r_w_bias = biases(), r_r_bias = biases();
}
Tensor TransformerXLAttention::forward(const Tensor& x) const {
  State start;
  return attend(x, start);
}
Tensor TransformerXLAttention::step(const Tensor& x, State& state) const {
  const ModuleScope scope(*this);
  detail::check_step(name_, causal, x, embed_dim, state.memory.all());
  return attend(x, state);
}
Tensor TransformerXLAttention::attend(const Tensor& x, State& state) const {
  const Heads h = project(x);
  if (x.numel() == 0) return merge(h.v, x);
  const int64_t queries = x.shape()[1], first = state.memory.length(), keys = first + queries;
  const int64_t size = embed_dim / num_heads;
  // While gradients are recorded, the parameters get theirs from the memory, too.
  const auto behind = [&](const GrowingTensor& kept, const Linear& proj, const Tensor& next) {
    if (kept.length() > 0 && !ctx.recording) return kept.with(next);
    const GrowingTensor none(1);
    return first > 0 ? none.with(heads_of(proj, state.memory.all())).with(next) : none.with(next);
  };
  GrowingTensor k = behind(state.k, k_proj, h.k), v = behind(state.v, v_proj, h.v);
  // Of distances from keys - 1 down to 0, on to 1 - queries where later keys are seen, and one more that no pair has.
  Tensor waves = flip(table_.rows(0, keys, x.options()), {0});
  if (!causal) {
    const Tensor later = table_.rows(1, queries - 1, x.options());
    const auto halves = chunk(later, 2, 1);
    waves = cat({waves, cat({neg(halves[0]), halves[1]}, 1)}, 0);
  }
  waves = pad(waves, {0, 0, 0, 1});
  const Tensor r = permute(reshape(r_proj(cast(waves, x.dtype())), {waves.shape()[0], num_heads, size}), {1, 2, 0});
  const Tensor of_content = matmul(by_head(h.q + r_w_bias), permute(k.all(), {0, 2, 3, 1}));
  const Tensor of_distance = detail::relative_shift(matmul(by_head(h.q + r_r_bias), r), keys);
  Tensor scores = (of_content + of_distance) * (1 / std::sqrt(double(size)));
  if (queries > 1 && (causal || mem_len)) {  // one position sees all of its memory
    const Tensor distance = distances(first, queries, keys, x.device());
    if (causal) scores = masked_fill(scores, gt(distance, 0), -infinity);
    if (mem_len) scores = masked_fill(scores, lt(distance, -*mem_len), -infinity);
  }
  const double drop = is_training() ? dropout : 0;
  const Tensor y = matmul(retape::dropout(softmax(scores, -1), drop, drop > 0), by_head(v.all()));

  state.memory = state.memory.with(retape::clone(x.detach()));  // x may be written into
  if (ctx.recording) k = v = GrowingTensor(1);
  state.k = std::move(k), state.v = std::move(v);
  if (mem_len)
    for (GrowingTensor* part : {&state.memory, &state.k, &state.v}) part->keep(*mem_len);
  return merge(by_head(y), x);
}

}  // namespace retape::nn
