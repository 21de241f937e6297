#include <retape/nn/mamba.h>

#include <fmt/format.h>

#include <cmath>

#include <retape/autograd/matmul.h>
#include <retape/autograd/rearrange.h>
#include <retape/autograd/selective_scan.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/unary.h>
#include <retape/autograd/views.h>
#include <retape/nn/causal.h>
#include <retape/nn/init.h>

namespace retape::nn {
namespace {

static_assert(SequenceMixer<Mamba>);

// What softplus makes the step sizes of.
void start_step_sizes(const char* layer, const Tensor& bias, double min, double max, double floor) {
  if (!(min > 0 && max >= min && floor >= 0))
    throw Error(fmt::format("{}: dt_min {}, dt_max {} and dt_init_floor {} do not fit; 0 < dt_min <= dt_max and 0 <= dt_init_floor would be right",
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
  const auto parts = split(x_proj(u), std::vector<int64_t>{dt_rank, d_state, d_state}, -1);
  const auto scan = selective_scan_with_state(
      u, linear(parts[0], dt_proj.weight), -exp(widened(A_log)), parts[1], parts[2],
      {.D = D, .z = halves[1], .delta_bias = dt_proj.bias, .delta_softplus = true, .initial = next.ssm});
  const Tensor y = out_proj(scan.y);
  if (state) *state = {next.conv, scan.last_state};
  return y;
}

}  // namespace retape::nn
