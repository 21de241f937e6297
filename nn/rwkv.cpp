#include <retape/nn/rwkv.h>

#include <fmt/format.h>

#include <cmath>

#include <retape/autograd/tape.h>
#include <retape/autograd/unary.h>
#include <retape/autograd/views.h>
#include <retape/nn/causal.h>

namespace retape::nn {
namespace {

static_assert(SequenceMixer<RWKV> && SequenceMixer<RWKVFeedForward>);

struct Depth {
  double of_last;      // 0 at the first layer, 1 at the last
  double still_above;  // 1 at the first layer, nearly 0 at the last
};
Depth depth(const char* layer, int64_t id, int64_t layers) {
  if (id < 0 || id >= layers)
    throw Error(fmt::format("{}: layer_id is {}; with num_layers {} it must lie in [0, {}]", layer, id, layers, layers - 1));
  return {layers > 1 ? double(id) / double(layers - 1) : 0, 1 - double(id) / double(layers)};
}
// How much of a channel is of the present: (i / channels)^power + more.
Parameter mix(int64_t channels, double power, double more = 0) {
  std::vector<double> v(static_cast<size_t>(channels));
  for (size_t i = 0; i < v.size(); ++i) v[i] = std::pow(double(i) / double(channels), power) + more;
  Parameter p = empty_parameter({1, 1, channels});
  const NoGrad off;
  copy_into(tensor(v, {1, 1, channels}), p);
  return p;
}
int64_t positive(const char* layer, const char* what, int64_t number) {
  check_positive(layer, what, number);
  return number;
}

}  // namespace

RWKV::RWKV(int64_t hidden, RWKVOptions o)
    : hidden_size(positive("RWKV", "hidden_size", hidden)),
      attention_hidden_size(positive("RWKV", "attention_hidden_size", o.attention_hidden_size.value_or(hidden))),
      time_decay(empty_parameter({attention_hidden_size})),
      time_first(empty_parameter({attention_hidden_size})),
      key(hidden, attention_hidden_size, {.bias = false}),
      value(hidden, attention_hidden_size, {.bias = false}),
      receptance(hidden, attention_hidden_size, {.bias = false}),
      output(attention_hidden_size, hidden, {.bias = false}) {
  const Depth at = depth("RWKV", o.layer_id, o.num_layers);
  time_mix_key = mix(hidden, at.still_above);
  time_mix_value = mix(hidden, at.still_above, 0.3 * at.of_last);
  time_mix_receptance = mix(hidden, 0.5 * at.still_above);
  std::vector<double> speed, bonus;
  for (int64_t i = 0; i < attention_hidden_size; ++i) {
    speed.push_back(-5 + 8 * std::pow(double(i) / std::max(1., double(attention_hidden_size - 1)), 0.7 + 1.3 * at.of_last));
    bonus.push_back(std::log(0.3) + 0.5 * double((i + 1) % 3 - 1));
  }
  const NoGrad off;
  copy_into(tensor(speed, {attention_hidden_size}), time_decay);
  copy_into(tensor(bonus, {attention_hidden_size}), time_first);
}

Tensor RWKV::forward(const Tensor& x) const { return run(x, nullptr); }
Tensor RWKV::step(const Tensor& x, State& state) const {
  const ModuleScope scope(*this);
  return run(x, &state);
}

Tensor RWKV::run(const Tensor& x, State* state) const {
  check_sequence("RWKV", x, hidden_size, state != nullptr);
  State next = state ? *state : State{};
  const Shape row{x.size(0), attention_hidden_size};
  check_state("RWKV", "last", next.last, {x.size(0), hidden_size});
  for (const Tensor* t : {&next.average.numerator, &next.average.denominator, &next.average.exponent})
    check_state("RWKV", "average", *t, row);
  const Tensor before = shifted(x, state ? &next.last : nullptr);
  const Tensor k = key(lerp(before, x, time_mix_key)), v = value(lerp(before, x, time_mix_value)),
               r = sigmoid(receptance(lerp(before, x, time_mix_receptance)));
  const WkvResult a = wkv(-exp(widened(time_decay)), time_first, k, v, next.average);
  const Tensor y = output(r * a.y);
  if (state) *state = {next.last, a.last_state};
  return y;
}

RWKVFeedForward::RWKVFeedForward(int64_t hidden, RWKVFeedForwardOptions o)
    : hidden_size(positive("RWKVFeedForward", "hidden_size", hidden)),
      key(hidden, positive("RWKVFeedForward", "intermediate_size", o.intermediate_size.value_or(4 * hidden)), {.bias = false}),
      receptance(hidden, hidden, {.bias = false}),
      value(o.intermediate_size.value_or(4 * hidden), hidden, {.bias = false}) {
  const Depth at = depth("RWKVFeedForward", o.layer_id, o.num_layers);
  time_mix_key = mix(hidden, at.still_above), time_mix_receptance = mix(hidden, at.still_above);
}

Tensor RWKVFeedForward::forward(const Tensor& x) const { return run(x, nullptr); }
Tensor RWKVFeedForward::step(const Tensor& x, State& state) const {
  const ModuleScope scope(*this);
  return run(x, &state);
}

Tensor RWKVFeedForward::run(const Tensor& x, State* state) const {
  check_sequence("RWKVFeedForward", x, hidden_size, state != nullptr);
  Tensor last = state ? state->last : Tensor{};
  check_state("RWKVFeedForward", "last", last, {x.size(0), hidden_size});
  const Tensor before = shifted(x, state ? &last : nullptr);
  const Tensor y = sigmoid(receptance(lerp(before, x, time_mix_receptance))) * value(square(relu(key(lerp(before, x, time_mix_key)))));
  if (state) state->last = last;
  return y;
}

}  // namespace retape::nn
