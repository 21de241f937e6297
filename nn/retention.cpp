#include <retape/nn/retention.h>

#include <fmt/format.h>

#include <cmath>

#include <retape/autograd/gated_linear_attention.h>
#include <retape/autograd/layer_norm.h>
#include <retape/autograd/rms_norm.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/unary.h>
#include <retape/autograd/views.h>
#include <retape/nn/causal.h>
#include <retape/nn/init.h>

namespace retape::nn {

using namespace detail;

namespace {

static_assert(SequenceMixer<MultiScaleRetention>);

RotaryEmbedding rotation(int64_t embed, int64_t value, int64_t heads) {
  check_positive("MultiScaleRetention", "embed_dim", embed);
  check_positive("MultiScaleRetention", "num_heads", heads);
  check_positive("MultiScaleRetention", "value_dim", value);
  if (embed % heads || embed / heads % 2 || value % heads)
    throw Error(fmt::format(
        "MultiScaleRetention: embed_dim {} and value_dim {} do not divide into {} heads; each head must get an even share of the first, "
        "and an equal one of the second",
        embed, value, heads));
  // The paper's angles go from 1 down to 1 / 10000, both included; RotaryEmbedding's stop one short of 1 / base.
  const double pairs = double(embed / heads) / 2;
  return RotaryEmbedding(embed / heads, {.base = pairs > 1 ? std::pow(10000, pairs / (pairs - 1)) : 10000, .interleaved = true});
}

}  // namespace

MultiScaleRetention::MultiScaleRetention(int64_t embed, MultiScaleRetentionOptions o)
    : embed_dim(embed),
      value_dim(o.value_dim.value_or(2 * embed)),
      num_heads(o.num_heads),
      gate(o.gate),
      eps(o.eps),
      rms_norm(o.rms_norm),
      q_proj(embed, embed, {.bias = false}),
      k_proj(embed, embed, {.bias = false}),
      v_proj(embed, value_dim, {.bias = false}),
      g_proj(embed, value_dim, {.bias = false}),
      out_proj(value_dim, embed, {.bias = false}),
      rotary(rotation(embed, value_dim, num_heads)) {
  for (const Linear* l : {&q_proj, &k_proj, &v_proj, &g_proj}) init::xavier_uniform(l->weight, std::exp2(-2.5));
  init::xavier_uniform(out_proj.weight);
}

Tensor MultiScaleRetention::forward(const Tensor& x) const { return run(x, nullptr); }
Tensor MultiScaleRetention::step(const Tensor& x, State& state) const {
  const ModuleScope scope(*this);
  return run(x, &state);
}

Tensor MultiScaleRetention::run(const Tensor& x, State* state) const {
  check_sequence("MultiScaleRetention", x, embed_dim, state != nullptr);
  const int64_t batch = x.size(0), T = x.size(1), H = num_heads, K = embed_dim / H, V = value_dim / H, start = state ? state->position : 0;
  if (state) check_state("MultiScaleRetention", "kv", state->kv, {batch, H, K, V});
  const auto rotated = [&](const Tensor& t) { return transpose(rotary(transpose(reshape(t, {batch, T, H, K}), 1, 2), start), 1, 2); };
  const DType of_state = x.dtype() == DType::f64 ? DType::f64 : DType::f32;
  const Tensor g = log1p(-exp2(-5 - arange(H, {.dtype = of_state, .device = x.device()})));
  const auto r = gated_linear_attention(rotated(q_proj(x)), rotated(k_proj(x)), reshape(v_proj(x), {batch, T, H, V}),
                                        {.g = expand(g, {batch, T, H}), .initial = state ? state->kv : Tensor{}});
  const Tensor y = reshape(rms_norm ? retape::rms_norm(r.y, {V}, {}, eps) : layer_norm(r.y, {V}, {}, {}, eps), {batch, T, value_dim});
  const Tensor out = out_proj(gate_of(gate, g_proj(x)) * y);
  if (state) *state = {r.last_state, start + T};
  return out;
}

}  // namespace retape::nn
