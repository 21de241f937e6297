#include <retape/nn/rnn.h>

#include <fmt/format.h>

#include <cmath>

#include <retape/autograd/dropout.h>
#include <retape/autograd/rearrange.h>
#include <retape/autograd/views.h>
#include <retape/nn/causal.h>
#include <retape/nn/init.h>

namespace retape::nn {
namespace {

int64_t gates_of(RecurrentKind kind) { return kind == RecurrentKind::lstm ? 4 : kind == RecurrentKind::gru ? 3 : 1; }
RecurrentKind kind_of(RNNNonlinearity nonlinearity) {
  return nonlinearity == RNNNonlinearity::relu ? RecurrentKind::relu : RecurrentKind::tanh;
}
Parameter uniform_parameter(const Shape& shape, int64_t hidden_size) {
  Parameter p = empty_parameter(shape);
  const double bound = 1 / std::sqrt(double(hidden_size));
  init::uniform(p, -bound, bound);
  return p;
}
void check_sizes(const char* name, int64_t input_size, int64_t hidden_size) {
  if (input_size < 0 || hidden_size <= 0)
    throw Error(fmt::format("{}: sizes {} and {} are not valid; input_size must not be negative and hidden_size must be above 0", name,
                            input_size, hidden_size));
}
void check_shape(const char* name, const char* what, const Tensor& t, const Shape& wanted) {
  if (t && !(t.shape() == wanted))
    throw Error(fmt::format("{}: {} is {}, but its shape must be {}", name, what, t.shape().str(), wanted.str()));
}
LSTMOptions options_of(const RNNOptions& o) {
  return {.num_layers = o.num_layers, .bias = o.bias, .batch_first = o.batch_first, .dropout = o.dropout, .bidirectional = o.bidirectional};
}
LSTMOptions options_of(const GRUOptions& o) {
  return {.num_layers = o.num_layers, .bias = o.bias, .batch_first = o.batch_first, .dropout = o.dropout, .bidirectional = o.bidirectional};
}

}  // namespace

RNNBase::RNNBase(const char* name, RecurrentKind kind, int64_t inputs, int64_t hidden, const LSTMOptions& o)
    : input_size(inputs),
      hidden_size(hidden),
      num_layers(o.num_layers),
      proj_size(o.proj_size),
      bias(o.bias),
      batch_first(o.batch_first),
      bidirectional(o.bidirectional),
      dropout(o.dropout),
      name_(name),
      kind_(kind) {
  check_sizes(name, inputs, hidden);
  if (num_layers <= 0) throw Error(fmt::format("{}: num_layers is {}; it must be above 0", name, num_layers));
  detail::check_dropout(name, dropout);
  if (proj_size < 0 || proj_size >= hidden)
    throw Error(fmt::format("{}: proj_size {} is not valid; it must be 0 or positive, and below hidden_size, {}", name, proj_size, hidden));
  const int64_t outputs = proj_size ? proj_size : hidden, gates = gates_of(kind) * hidden;
  for (int64_t layer = 0; layer < num_layers; ++layer)
    for (int direction = 0; direction <= int(bidirectional); ++direction) {
      Direction d;
      d.weight_ih = uniform_parameter({gates, layer ? outputs * (1 + bidirectional) : inputs}, hidden);
      d.weight_hh = uniform_parameter({gates, outputs}, hidden);
      if (bias) d.bias_ih = uniform_parameter({gates}, hidden), d.bias_hh = uniform_parameter({gates}, hidden);
      if (proj_size) d.weight_hr = uniform_parameter({proj_size, hidden}, hidden);
      weights.push_back(std::move(d));
    }
}

void RNNBase::fields(Visitor& visitor) {
  const size_t directions = 1 + bidirectional;
  for (size_t i = 0; i < weights.size(); ++i) {
    const std::string end = fmt::format("_l{}{}", i / directions, i % directions ? "_reverse" : "");
    Direction& d = weights[i];
    visitor.parameter("weight_ih" + end, d.weight_ih);
    visitor.parameter("weight_hh" + end, d.weight_hh);
    visitor.parameter("bias_ih" + end, d.bias_ih);
    visitor.parameter("bias_hh" + end, d.bias_hh);
    visitor.parameter("weight_hr" + end, d.weight_hr);
  }
}

std::pair<Tensor, LSTMState> RNNBase::run(const Tensor& x, const LSTMState& start, const Tensor& lengths) const {
  if (!x) throw Error(fmt::format("{}: the input is an undefined tensor", name_));
  if ((x.dim() != 2 && x.dim() != 3) || x.shape()[-1] != input_size)
    throw Error(fmt::format("{}: the input is {}; it must have 2 dims, (T, {}), or 3, ({}, {})", name_, x.shape().str(), input_size,
                            batch_first ? "B, T" : "T, B", input_size));
  const bool batched = x.dim() == 3;
  const int64_t directions = 1 + bidirectional, outputs = proj_size ? proj_size : hidden_size, layers = num_layers * directions;
  const Tensor in = !batched ? unsqueeze(x, 1) : batch_first ? transpose(x, 0, 1) : x;
  const int64_t batch = in.shape()[1];
  const auto state_shape = [&](int64_t size) { return batched ? Shape{layers, batch, size} : Shape{layers, size}; };
  check_shape(name_, "h_0", start.first, state_shape(outputs));
  check_shape(name_, "c_0", start.second, state_shape(hidden_size));
  if (bool(start.first) != bool(start.second) && kind_ == RecurrentKind::lstm)
    throw Error(fmt::format("{}: one of h_0 and c_0 is undefined; give both or neither", name_));
  check_shape(name_, "lengths", lengths, {batch});
  if (lengths && lengths.device().is_cpu() && lengths.dtype() == DType::i64) {  // where the values can be seen
    const auto values = lengths.to_vector<int64_t>();
    for (size_t b = 0; b < values.size(); ++b)
      if (values[b] < 1 || values[b] > in.shape()[0])
        throw Error(fmt::format("{}: sequence {} has length {}; lengths must lie in [1, {}], the number of steps", name_, b, values[b],
                                in.shape()[0]));
  }
  const Tensor steps = lengths ? retape::to(lengths, x.device()) : lengths;
  const auto state_of = [&](const Tensor& all, int64_t i) {
    if (!all) return all;
    const Tensor one = select(all, 0, i);
    return batched ? one : unsqueeze(one, 0);
  };

  Tensor y = in;
  std::vector<Tensor> h, c;
  for (int64_t layer = 0; layer < num_layers; ++layer) {
    if (layer) y = retape::dropout(y, dropout, is_training() && dropout > 0);
    std::vector<Tensor> of_direction;
    for (int64_t i = layer * directions; i < (layer + 1) * directions; ++i) {
      const Direction& d = weights[size_t(i)];
      const RecurrentResult r = recurrent_layer(kind_, y, {d.weight_ih, d.weight_hh, d.bias_ih, d.bias_hh, d.weight_hr},
                                                state_of(start.first, i), state_of(start.second, i), steps, i % directions != 0);
      of_direction.push_back(r.y), h.push_back(r.h_n), c.push_back(r.c_n);
    }
    y = bidirectional ? cat(of_direction, 2) : of_direction[0];
  }
  const auto joined = [&](const std::vector<Tensor>& states) {
    const Tensor all = stack(states);
    return batched ? all : squeeze(all, 1);
  };
  y = !batched ? squeeze(y, 1) : batch_first ? transpose(y, 0, 1) : y;
  return {y, {joined(h), kind_ == RecurrentKind::lstm ? joined(c) : Tensor{}}};
}

RNN::RNN(int64_t input_size, int64_t hidden_size, const RNNOptions& o)
    : RNNBase("RNN", kind_of(o.nonlinearity), input_size, hidden_size, options_of(o)) {}
std::pair<Tensor, Tensor> RNN::forward(const Tensor& x, const Tensor& h_0, const Tensor& lengths) const {
  auto [y, state] = run(x, {h_0, {}}, lengths);
  return {y, state.first};
}

LSTM::LSTM(int64_t input_size, int64_t hidden_size, const LSTMOptions& o)
    : RNNBase("LSTM", RecurrentKind::lstm, input_size, hidden_size, o) {}
std::pair<Tensor, LSTMState> LSTM::forward(const Tensor& x, const LSTMState& hx, const Tensor& lengths) const {
  return run(x, hx, lengths);
}

GRU::GRU(int64_t input_size, int64_t hidden_size, const GRUOptions& o)
    : RNNBase("GRU", RecurrentKind::gru, input_size, hidden_size, options_of(o)) {}
std::pair<Tensor, Tensor> GRU::forward(const Tensor& x, const Tensor& h_0, const Tensor& lengths) const {
  auto [y, state] = run(x, {h_0, {}}, lengths);
  return {y, state.first};
}

// ---- single steps -----------------------------------------------------------------------------------------------------

RNNCellBase::RNNCellBase(const char* name, RecurrentKind kind, int64_t inputs, int64_t hidden, bool bias)
    : input_size(inputs), hidden_size(hidden), name_(name), kind_(kind) {
  check_sizes(name, inputs, hidden);
  const int64_t gates = gates_of(kind) * hidden;
  weight_ih = uniform_parameter({gates, inputs}, hidden);
  weight_hh = uniform_parameter({gates, hidden}, hidden);
  if (bias) bias_ih = uniform_parameter({gates}, hidden), bias_hh = uniform_parameter({gates}, hidden);
}
LSTMState RNNCellBase::run(const Tensor& x, const LSTMState& state) const {
  if (!x) throw Error(fmt::format("{}: the input is an undefined tensor", name_));
  if ((x.dim() != 1 && x.dim() != 2) || x.shape()[-1] != input_size)
    throw Error(fmt::format("{}: the input is {}; it must be (B, {}) or ({})", name_, x.shape().str(), input_size, input_size));
  const bool batched = x.dim() == 2;
  const Shape wanted = batched ? Shape{x.shape()[0], hidden_size} : Shape{hidden_size};
  check_shape(name_, "h", state.first, wanted);
  check_shape(name_, "c", state.second, wanted);
  if (bool(state.first) != bool(state.second) && kind_ == RecurrentKind::lstm)
    throw Error(fmt::format("{}: one of h and c is undefined; give both or neither", name_));
  const auto row = [&](const Tensor& t) { return !t || batched ? t : unsqueeze(t, 0); };
  const RecurrentResult r =
      recurrent_layer(kind_, unsqueeze(row(x), 0), {weight_ih, weight_hh, bias_ih, bias_hh, {}}, row(state.first), row(state.second));
  const auto back = [&](const Tensor& t) { return !t || batched ? t : squeeze(t, 0); };
  return {back(r.h_n), back(r.c_n)};
}

RNNCell::RNNCell(int64_t input_size, int64_t hidden_size, const RNNCellOptions& o)
    : RNNCellBase("RNNCell", kind_of(o.nonlinearity), input_size, hidden_size, o.bias) {}
Tensor RNNCell::forward(const Tensor& x, const Tensor& h) const { return run(x, {h, {}}).first; }
LSTMCell::LSTMCell(int64_t input_size, int64_t hidden_size, const CellOptions& o)
    : RNNCellBase("LSTMCell", RecurrentKind::lstm, input_size, hidden_size, o.bias) {}
LSTMState LSTMCell::forward(const Tensor& x, const LSTMState& hx) const { return run(x, hx); }
GRUCell::GRUCell(int64_t input_size, int64_t hidden_size, const CellOptions& o)
    : RNNCellBase("GRUCell", RecurrentKind::gru, input_size, hidden_size, o.bias) {}
Tensor GRUCell::forward(const Tensor& x, const Tensor& h) const { return run(x, {h, {}}).first; }

}  // namespace retape::nn
