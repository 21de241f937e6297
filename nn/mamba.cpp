#include <retape/nn/mamba.h>

#include <fmt/format.h>

#include <cmath>

#include <retape/autograd/gated_linear_attention.h>
#include <retape/autograd/matmul.h>
#include <retape/autograd/rearrange.h>
#include <retape/autograd/rms_norm.h>
#include <retape/autograd/selective_scan.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/unary.h>
#include <retape/autograd/views.h>
#include <retape/nn/causal.h>
#include <retape/nn/init.h>

namespace retape::nn {
namespace {

static_assert(SequenceMixer<Mamba> && SequenceMixer<Mamba2>);

// What softplus makes the step sizes of.
void start_step_sizes(const char* layer, const Tensor& bias, double min, double max, double floor) {
  if (!(min > 0 && max >= min && floor >= 0))
    throw Error(
        fmt::format("{}: dt_min {}, dt_max {} and dt_init_floor {} do not fit; 0 < dt_min <= dt_max and 0 <= dt_init_floor would be right",
                    layer, min, max, floor));
  const NoGrad off;
  const Tensor draws = uniform(bias.shape(), std::log(min), std::log(max), {.dtype = DType::f64, .device = bias.device()});
  const Tensor dt = maximum(exp(draws), floor);
  copy_into(dt + log(-expm1(-dt)), bias);
}

Conv1d depthwise(int64_t channels, int64_t width, bool bias) {
  return {channels, channels, {.kernel_size = width, .padding = width - 1, .groups = channels, .bias = bias}};
}
int64_t positive(const char* layer, const char* what, int64_t number) {
  check_positive(layer, what, number);
  return number;
}

}  // namespace

Mamba::Mamba(int64_t dim, MambaOptions o)
    : d_model(positive("Mamba", "d_model", dim)),
      d_inner(positive("Mamba", "expand", o.expand) * dim),
      d_state(positive("Mamba", "d_state", o.d_state)),
      dt_rank(positive("Mamba", "dt_rank", o.dt_rank.value_or((dim + 15) / 16))),
      in_proj(dim, 2 * d_inner, {.bias = o.bias}),
      conv1d(depthwise(d_inner, positive("Mamba", "d_conv", o.d_conv), o.conv_bias)),
      x_proj(d_inner, dt_rank + 2 * d_state, {.bias = false}),
      dt_proj(dt_rank, d_inner),
      A_log(empty_parameter({d_inner, d_state})),
      D(empty_parameter({d_inner})),
      out_proj(d_inner, dim, {.bias = o.bias}) {
  const double bound = o.dt_scale / std::sqrt(double(dt_rank));
  if (o.dt_init == MambaDtInit::constant) init::constant(dt_proj.weight, bound);
  else init::uniform(dt_proj.weight, -bound, bound);
  start_step_sizes("Mamba", dt_proj.bias, o.dt_min, o.dt_max, o.dt_init_floor);
  const NoGrad off;
  const Tensor n = arange(d_state, {.dtype = DType::f64, .device = A_log->device()}) + 1.0;
  copy_into(log(n), A_log);
  init::ones(D);
}

Tensor Mamba::forward(const Tensor& x) const { return run(x, nullptr); }
Tensor Mamba::step(const Tensor& x, State& state) const {
  const ModuleScope scope(*this);
  return run(x, &state);
}

Tensor Mamba::run(const Tensor& x, State* state) const {
  check_sequence("Mamba", x, d_model, state != nullptr);
  State next = state ? *state : State{};
  if (state) {
    check_state("Mamba", "conv", next.conv, {x.size(0), conv1d.weight->shape()[2] - 1, d_inner});
    check_state("Mamba", "ssm", next.ssm, {x.size(0), d_inner, d_state});
  }
  const auto halves = chunk(in_proj(x), 2, -1);
  const Tensor u = silu(causal_conv1d(halves[0], conv1d.weight, conv1d.bias, state ? &next.conv : nullptr));
  const auto parts = split(x_proj(u), {dt_rank, d_state, d_state}, -1);
  const auto scan =
      selective_scan_with_state(u, linear(parts[0], dt_proj.weight), -exp(widened(A_log)), parts[1], parts[2],
                                {.D = D, .z = halves[1], .delta_bias = dt_proj.bias, .delta_softplus = true, .initial = next.ssm});
  const Tensor y = out_proj(scan.y);
  if (state) *state = {next.conv, scan.last_state};
  return y;
}

// ---- Mamba-2 ----------------------------------------------------------------------------------------------------------

Mamba2::Mamba2(int64_t dim, const Mamba2Options& o)
    : options(o),
      d_model(positive("Mamba2", "d_model", dim)),
      d_inner(positive("Mamba2", "expand", o.expand) * dim),
      d_ssm(positive("Mamba2", "d_ssm", o.d_ssm.value_or(d_inner))),
      nheads(d_ssm / positive("Mamba2", "headdim", o.headdim)),
      in_proj(dim, 2 * d_inner + 2 * positive("Mamba2", "ngroups", o.ngroups) * positive("Mamba2", "d_state", o.d_state) + nheads,
              {.bias = o.bias}),
      conv1d(depthwise(d_ssm + 2 * o.ngroups * o.d_state, positive("Mamba2", "d_conv", o.d_conv), o.conv_bias)),
      out_proj(d_inner, dim, {.bias = o.bias}) {
  if (d_ssm > d_inner || d_ssm % o.headdim || nheads % o.ngroups)
    throw Error(fmt::format(
        "Mamba2: d_ssm {} does not divide into heads of headdim {} in ngroups {}; it must be at most expand * d_model, {}, a multiple "
        "of headdim, and the heads a multiple of ngroups",
        d_ssm, o.headdim, o.ngroups, d_inner));
  const auto [low, high] = o.A_init_range;
  if (!(low > 0 && high >= low))
    throw Error(fmt::format("Mamba2: A_init_range ({}, {}) is not valid; 0 < low <= high would be right", low, high));
  if (o.conv_init) init::uniform(conv1d.weight, -*o.conv_init, *o.conv_init);
  dt_bias = empty_parameter({nheads}), A_log = empty_parameter({nheads});
  D = empty_parameter({o.D_has_hdim ? d_ssm : nheads});
  start_step_sizes("Mamba2", dt_bias, o.dt_min, o.dt_max, o.dt_init_floor);
  const NoGrad off;
  copy_into(log(uniform({nheads}, low, high, {.dtype = DType::f64, .device = A_log->device()})), A_log);
  init::ones(D);
  if (o.rmsnorm) norm.emplace(d_ssm, RMSNormOptions{.eps = 1e-5});
}

Tensor Mamba2::forward(const Tensor& x) const { return run(x, nullptr); }
Tensor Mamba2::step(const Tensor& x, State& state) const {
  const ModuleScope scope(*this);
  return run(x, &state);
}

Tensor Mamba2::run(const Tensor& x, State* state) const {
  check_sequence("Mamba2", x, d_model, state != nullptr);
  const int64_t batch = x.size(0), T = x.size(1), N = options.d_state, P = options.headdim, G = options.ngroups, mlp = d_inner - d_ssm;
  State next = state ? *state : State{};
  if (state) {
    check_state("Mamba2", "conv", next.conv, {batch, options.d_conv - 1, d_ssm + 2 * G * N});
    check_state("Mamba2", "ssm", next.ssm, {batch, nheads, N, P});
  }
  const auto parts = split(in_proj(x), {mlp, mlp, d_ssm, d_ssm + 2 * G * N, nheads}, -1);
  const Tensor z = parts[2], mixed = silu(causal_conv1d(parts[3], conv1d.weight, conv1d.bias, state ? &next.conv : nullptr));
  const auto ubc = split(mixed, {d_ssm, G * N, G * N}, -1);
  const Tensor u = reshape(ubc[0], {batch, T, nheads, P});
  const auto of_heads = [&](const Tensor& t) {  // (batch, T, G N) for each head, (batch, T, heads, N)
    return reshape(expand(reshape(t, {batch, T, G, 1, N}), {batch, T, G, nheads / G, N}), {batch, T, nheads, N});
  };
  Tensor dt = softplus(widened(parts[4]) + dt_bias);
  const auto [shortest, longest] = options.dt_limit;
  if (shortest > 0 || std::isfinite(longest)) dt = clamp(dt, shortest, longest);
  const auto scan = gated_linear_attention(of_heads(ubc[2]), of_heads(ubc[1]), cast(u * unsqueeze(dt, -1), u.dtype()),
                                           {.g = dt * -exp(widened(A_log)), .scale = 1, .initial = next.ssm});
  Tensor y = reshape(scan.y + u * (options.D_has_hdim ? reshape(D, {nheads, P}) : unsqueeze(D, 1)), {batch, T, d_ssm});
  const auto normalized = [&](const Tensor& t) {
    if (G == 1) return (*norm)(t);
    return reshape(rms_norm(reshape(t, {batch, T, G, d_ssm / G}), {d_ssm / G}, {}, norm->eps), {batch, T, d_ssm}) * norm->weight;
  };
  if (!norm) y = y * silu(z);
  else y = options.norm_before_gate ? normalized(y) * silu(z) : normalized(y * silu(z));
  if (mlp > 0) y = cat({silu(parts[0]) * parts[1], y}, -1);
  y = out_proj(y);
  if (state) *state = {next.conv, scan.last_state};
  return y;
}

}  // namespace retape::nn
