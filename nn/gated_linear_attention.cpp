#include <retape/nn/gated_linear_attention.h>

#include <fmt/format.h>

#include <limits>

#include <retape/autograd/gated_linear_attention.h>
#include <retape/autograd/unary.h>
#include <retape/autograd/views.h>
#include <retape/nn/causal.h>

namespace retape::nn {

using namespace detail;

namespace {

static_assert(SequenceMixer<GatedLinearAttention>);
constexpr auto name = "GatedLinearAttention";

// How many of `features` the heads get that have keys and values.
int64_t share(const char* what, int64_t features, const GatedLinearAttentionOptions& o) {
  const int64_t heads = o.num_heads, kv = o.num_kv_heads.value_or(heads);
  const std::pair<const char*, int64_t> numbers[] = {
      {"num_heads", heads}, {"num_kv_heads", kv}, {"conv_size", o.conv_size}, {"gate_low_rank_dim", o.gate_low_rank_dim}, {what, features}};
  for (const auto& [option, number] : numbers) check_positive(name, option, number);
  if (features % heads || heads % kv)
    throw Error(
        fmt::format("{}: {} {} does not divide into {} heads, {} of them with keys; num_heads must divide {}, and num_kv_heads num_heads",
                    name, what, features, heads, kv, what));
  return features / heads * kv;
}
std::optional<Conv1d> short_conv(int64_t channels, const GatedLinearAttentionOptions& o) {
  if (!o.use_short_conv) return {};
  return Conv1d(channels, channels, {.kernel_size = o.conv_size, .padding = o.conv_size - 1, .groups = channels, .bias = o.conv_bias});
}

}  // namespace

GatedLinearAttention::GatedLinearAttention(int64_t hidden, const GatedLinearAttentionOptions& o)
    : options(o),
      hidden_size(hidden),
      kv_heads(o.num_kv_heads.value_or(o.num_heads)),
      key_dim(int64_t(double(hidden) * o.expand_k)),
      value_dim(int64_t(double(hidden) * o.expand_v)),
      q_proj(hidden, key_dim, {.bias = false}),
      k_proj(hidden, share("hidden_size * expand_k", key_dim, o), {.bias = false}),
      v_proj(hidden, share("hidden_size * expand_v", value_dim, o), {.bias = false}),
      q_conv1d(short_conv(key_dim, o)),
      k_conv1d(short_conv(share("hidden_size * expand_k", key_dim, o), o)),
      v_conv1d(short_conv(share("hidden_size * expand_v", value_dim, o), o)),
      o_proj(value_dim, hidden, {.bias = false}),
      norm(value_dim / o.num_heads, {.eps = o.norm_eps, .elementwise_affine = o.elementwise_affine}) {
  if (o.use_output_gate) g_proj.emplace(hidden, value_dim, LinearOptions{.bias = false});
  gk_proj.emplace_back(hidden, o.gate_low_rank_dim, LinearOptions{.bias = false});
  gk_proj.emplace_back(o.gate_low_rank_dim, share("hidden_size * expand_k", key_dim, o));
}

void GatedLinearAttention::fields(Visitor& v) {
  visit_field(v, "q_proj", q_proj);
  visit_field(v, "k_proj", k_proj);
  visit_field(v, "v_proj", v_proj);
  visit_field(v, "g_proj", g_proj);
  visit_field(v, "q_conv1d", q_conv1d);
  visit_field(v, "k_conv1d", k_conv1d);
  visit_field(v, "v_conv1d", v_conv1d);
  visit_field(v, "gk_proj", gk_proj);
  visit_field(v, options.use_output_gate && options.gate_fn == Gate::silu ? "g_norm_swish_gate" : "g_norm", norm);
  visit_field(v, "o_proj", o_proj);
}

Tensor GatedLinearAttention::forward(const Tensor& x) const { return run(x, nullptr); }
Tensor GatedLinearAttention::step(const Tensor& x, State& state) const {
  const ModuleScope scope(*this);
  return run(x, &state);
}

Tensor GatedLinearAttention::run(const Tensor& x, State* state) const {
  check_sequence(name, x, hidden_size, state != nullptr);
  const int64_t batch = x.size(0), T = x.size(1), H = options.num_heads, K = key_dim / H, V = value_dim / H;
  State next = state ? *state : State{};
  if (state) {
    check_state(name, "q", next.q, {batch, options.conv_size - 1, key_dim});
    check_state(name, "k", next.k, {batch, options.conv_size - 1, kv_heads * K});
    check_state(name, "v", next.v, {batch, options.conv_size - 1, kv_heads * V});
    check_state(name, "recurrent", next.recurrent, {batch, H, K, V});
  }
  const auto projected = [&](const Linear& linear, const std::optional<Conv1d>& conv, Tensor& past) {
    const Tensor y = linear(x);
    return conv ? silu(causal_conv1d(y, conv->weight, conv->bias, state ? &past : nullptr)) : y;
  };
  const auto of_heads = [&](const Tensor& t, int64_t features) {  // a head of keys for each of queries
    const Tensor few = reshape(t, {batch, T, kv_heads, features});
    if (kv_heads == H) return few;
    return reshape(expand(unsqueeze(few, 3), {batch, T, kv_heads, H / kv_heads, features}), {batch, T, H, features});
  };
  Tensor q = reshape(projected(q_proj, q_conv1d, next.q), {batch, T, H, K}), k = of_heads(projected(k_proj, k_conv1d, next.k), K);
  const Tensor v = of_heads(projected(v_proj, v_conv1d, next.v), V);
  if (options.feature_map) q = gate_of(*options.feature_map, q), k = gate_of(*options.feature_map, k);
  Tensor g = logsigmoid(widened(gk_proj[1](gk_proj[0](x)))) / options.gate_logit_normalizer;
  if (options.clamp_min) g = clamp(g, *options.clamp_min, std::numeric_limits<double>::infinity());
  const auto r = gated_linear_attention(q, k, v, {.g = of_heads(g, K), .initial = next.recurrent});
  Tensor y = reshape(norm(r.y), {batch, T, value_dim});
  if (g_proj) y = y * gate_of(options.gate_fn, (*g_proj)(x));
  y = o_proj(y);
  next.recurrent = r.last_state;
  if (state) *state = next;
  return y;
}

}  // namespace retape::nn
