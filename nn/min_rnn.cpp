#include <retape/nn/min_rnn.h>

#include <fmt/format.h>

#include <retape/autograd/linear_recurrence.h>
#include <retape/autograd/unary.h>
#include <retape/autograd/views.h>
#include <retape/nn/causal.h>

namespace retape::nn {
namespace {

static_assert(SequenceMixer<MinGRU> && SequenceMixer<MinLSTM>);

int64_t inner(const char* layer, int64_t dim, const MinRNNOptions& o) {
  check_positive(layer, "dim", dim);
  const int64_t size = int64_t(double(dim) * o.expansion_factor);
  if (size < 1)
    throw Error(
        fmt::format("{}: dim {} times expansion_factor {} is no number of channels; it must be 1 or more", layer, dim, o.expansion_factor));
  if (size != dim && o.proj_out == false)
    throw Error(
        fmt::format("{}: {} channels of state need proj_out to be {} again; leave it absent, or use expansion_factor 1", layer, size, dim));
  return size;
}
std::optional<Linear> projection(int64_t inner, int64_t dim, const MinRNNOptions& o) {
  if (!o.proj_out.value_or(o.expansion_factor != 1)) return {};
  return Linear(inner, dim, {.bias = false});
}
// States (B, T, inner) from the logits of what is kept and, with the opposite sign, of what enters.
Tensor run_states(const char* layer, const Tensor& hidden, const Tensor& kept, MinGRU::State* state) {
  const Tensor x = widened(hidden), enters = where(ge(x, 0), x + 0.5, sigmoid(x));
  if (state) check_state(layer, "h", state->h, {x.size(0), x.size(2)});
  return linear_recurrence(sigmoid(kept), sigmoid(-kept) * enters, {.initial = state ? state->h : Tensor{}});
}
Tensor finish(const Tensor& h, DType dtype, const std::optional<Linear>& to_out, MinGRU::State* state) {
  const Tensor low = cast(h, dtype), y = to_out ? (*to_out)(low) : low;
  if (state) state->h = clone(select(h, 1, h.size(1) - 1));
  return y;
}

}  // namespace

MinGRU::MinGRU(int64_t d, MinRNNOptions o)
    : dim(d),
      dim_inner(inner("MinGRU", d, o)),
      to_hidden_and_gate(d, 2 * dim_inner, {.bias = false}),
      to_out(projection(dim_inner, d, o)) {}
Tensor MinGRU::forward(const Tensor& x) const { return run(x, nullptr); }
Tensor MinGRU::step(const Tensor& x, State& state) const {
  const ModuleScope scope(*this);
  return run(x, &state);
}
Tensor MinGRU::run(const Tensor& x, State* state) const {
  check_sequence("MinGRU", x, dim, state != nullptr);
  const auto parts = chunk(to_hidden_and_gate(x), 2, -1);
  const Tensor h = run_states("MinGRU", parts[0], -widened(parts[1]), state);
  return finish(h, parts[0].dtype(), to_out, state);
}

MinLSTM::MinLSTM(int64_t d, MinRNNOptions o)
    : dim(d),
      dim_inner(inner("MinLSTM", d, o)),
      to_hidden_and_f_i_gate(d, 3 * dim_inner, {.bias = false}),
      to_out(projection(dim_inner, d, o)) {}
Tensor MinLSTM::forward(const Tensor& x) const { return run(x, nullptr); }
Tensor MinLSTM::step(const Tensor& x, State& state) const {
  const ModuleScope scope(*this);
  return run(x, &state);
}
Tensor MinLSTM::run(const Tensor& x, State* state) const {
  check_sequence("MinLSTM", x, dim, state != nullptr);
  const auto parts = chunk(to_hidden_and_f_i_gate(x), 3, -1);
  // f / (f + i) is the sigmoid of log f - log i, also where both are as good as 0.
  const Tensor h = run_states("MinLSTM", parts[0], logsigmoid(widened(parts[1])) - logsigmoid(widened(parts[2])), state);
  return finish(h, parts[0].dtype(), to_out, state);
}

}  // namespace retape::nn
