// Recurrent layers against the numbers of PyTorch that tests/golden/make_layers_recurrent.py writes, and what they do with bad input.
#include <omp.h>

#include "golden.h"

using namespace retape;
using namespace retape::testing;

namespace {

Tensor golden(const std::string& name) {
  static const Golden file(RETAPE_GOLDEN "/layers_recurrent.safetensors");
  return file(name);
}

/// Compares results, and the gradients of x, states and parameters, in a dtype.
template <class M, class F> void compare(const std::string& name, M& module, DType dtype, const F& run) {
  INFO(name << " in " << name_of(dtype));
  const double most = dtype == DType::f64 ? 1e-12 : 1e-5;
  module.to(dtype);
  NamedTensors parameters;
  for (auto& [key, value] : module.state_dict()) {
    REQUIRE(golden(name + ".p." + key));
    parameters.emplace_back(key, golden(name + ".p." + key));
  }
  module.load_state_dict(parameters, {.convert_dtype = true});
  const auto input = [&](const char* what) {
    const Tensor t = golden(name + "." + what);
    return t ? Tensor(cast(t.detach(), dtype).detach()).set_requires_grad() : t;
  };
  const Tensor x = input("x"), h = input("h_0"), c = input("c_0");
  const NamedTensors results = run(module, x, h, c, golden(name + ".lengths"));
  Tensor loss;
  double k = 0;
  for (auto& [what, y] : results) {
    INFO(what);
    CHECK(y.dtype() == dtype);
    CHECK(relative_difference(y, golden(name + "." + what)) <= most);
    const Tensor part = sum(y * cast(wave(y.shape(), k += 1), dtype));
    loss = loss ? loss + part : part;
  }
  backward(loss);
  for (auto& [what, t] : NamedTensors{{"x", x}, {"h_0", h}, {"c_0", c}}) {
    INFO("gradient of " << what);
    if (t) CHECK(relative_difference(t.grad(), golden(name + ".d." + what)) <= most);
  }
  for (auto& [what, p] : module.named_parameters()) {
    INFO("gradient of " << what);
    CHECK(relative_difference(p.grad(), golden(name + ".d.p." + what)) <= most);
  }
}
template <class M, class O> void compare_layer(const std::string& name, const O& options) {
  for (const DType dtype : {DType::f64, DType::f32}) {
    M module(3, 4, options);
    compare(name, module, dtype, [](M& m, const Tensor& x, const Tensor& h, const Tensor& c, const Tensor& lengths) {
      if constexpr (std::is_same_v<M, nn::LSTM>) {
        const auto [y, state] = m(x, {h, c}, lengths);
        return NamedTensors{{"output", y}, {"h_n", state.first}, {"c_n", state.second}};
      } else {
        const auto [y, h_n] = m(x, h, lengths);
        return NamedTensors{{"output", y}, {"h_n", h_n}};
      }
    });
  }
}
template <class M, class O> void compare_cell(const std::string& name, const O& options) {
  for (const DType dtype : {DType::f64, DType::f32}) {
    M module(3, 4, options);
    compare(name, module, dtype, [](M& m, const Tensor& x, const Tensor& h, const Tensor& c, const Tensor&) {
      if constexpr (std::is_same_v<M, nn::LSTMCell>) {
        const auto [h_n, c_n] = m(x, {h, c});
        return NamedTensors{{"h_n", h_n}, {"c_n", c_n}};
      } else {
        return NamedTensors{{"h_n", m(x, h)}};
      }
    });
  }
}

}  // namespace

TEST_CASE("recurrent layers and their gradients are PyTorch's", "[nn][rnn][golden]") {
  constexpr auto relu = nn::RNNNonlinearity::relu;
  compare_layer<nn::RNN>("rnn_tanh", nn::RNNOptions{.num_layers = 2, .batch_first = true, .bidirectional = true});
  compare_layer<nn::RNN>("rnn_relu", nn::RNNOptions{.nonlinearity = relu, .bias = false});
  compare_layer<nn::RNN>("rnn_lengths", nn::RNNOptions{.num_layers = 2, .nonlinearity = relu, .bidirectional = true});
  compare_layer<nn::LSTM>("lstm", nn::LSTMOptions{.num_layers = 2, .bidirectional = true});
  compare_layer<nn::LSTM>("lstm_lengths", nn::LSTMOptions{.num_layers = 2, .batch_first = true, .bidirectional = true});
  compare_layer<nn::LSTM>("lstm_unbatched", nn::LSTMOptions{.bias = false});
  compare_layer<nn::LSTM>("lstm_proj", nn::LSTMOptions{.num_layers = 2, .bidirectional = true, .proj_size = 2});
  compare_layer<nn::LSTM>("lstm_proj_lengths", nn::LSTMOptions{.num_layers = 2, .bidirectional = true, .proj_size = 3});
  compare_layer<nn::GRU>("gru", nn::GRUOptions{.num_layers = 2, .batch_first = true, .bidirectional = true});
  compare_layer<nn::GRU>("gru_lengths", nn::GRUOptions{.num_layers = 2, .bidirectional = true});
  compare_layer<nn::GRU>("gru_unbatched", nn::GRUOptions{.bias = false});
}

TEST_CASE("cells and their gradients are PyTorch's", "[nn][rnn][golden]") {
  compare_cell<nn::RNNCell>("rnn_cell", nn::RNNCellOptions{});
  compare_cell<nn::RNNCell>("rnn_cell_relu", nn::RNNCellOptions{.bias = false, .nonlinearity = nn::RNNNonlinearity::relu});
  compare_cell<nn::LSTMCell>("lstm_cell", nn::CellOptions{});
  compare_cell<nn::LSTMCell>("lstm_cell_start", nn::CellOptions{});
  compare_cell<nn::GRUCell>("gru_cell", nn::CellOptions{});
}

// Tiles of registers, blocks of units and parts of rows all have ends here.
TEST_CASE("large recurrent layers agree with steps of their cells", "[nn][rnn]") {
  for (const auto& [batch, units] : std::vector<std::pair<int64_t, int64_t>>{{1, 37}, {51, 70}, {13, 129}}) {
    manual_seed(1);
    nn::LSTM lstm(20, units);
    nn::GRU gru(20, units);
    nn::RNN rnn(20, units, {.bias = false});
    nn::LSTMCell lstm_cell(20, units);
    nn::GRUCell gru_cell(20, units);
    nn::RNNCell rnn_cell(20, units, {.bias = false});
    const auto tie = [](auto& cell, auto& layer) {
      auto& w = layer.weights[0];
      w.weight_ih = cell.weight_ih, w.weight_hh = cell.weight_hh, w.bias_ih = cell.bias_ih, w.bias_hh = cell.bias_hh;
    };
    tie(lstm_cell, lstm), tie(gru_cell, gru), tie(rnn_cell, rnn);
    const Tensor x = values({3, batch, 20}, -1, 1, 2, DType::f32), dy = values({3, batch, units}, -1, 1, 3, DType::f32);
    const auto gradients = [&](auto& module, const std::vector<Tensor>& y) {
      module.zero_grad();
      backward(sum(stack(y) * dy));
      std::vector<Tensor> all = y;
      for (const Tensor& p : module.parameters()) all.push_back(clone(p.grad()));
      return all;
    };
    const auto check = [&](auto& layer, auto& cell, auto&& next) {
      std::vector<Tensor> y;
      for (int64_t t = 0; t < 3; ++t) y.push_back(next(cell, select(x, 0, t)));
      const auto expected = gradients(cell, y), found = gradients(layer, unbind(layer(x).first));
      for (size_t i = 0; i < expected.size(); ++i) CHECK(relative_difference(found[i], expected[i]) <= 1e-5);
    };
    {
      nn::LSTMState state;
      check(lstm, lstm_cell, [&](auto& cell, const Tensor& in) { return (state = cell(in, state)).first; });
    }
    Tensor h, g;
    check(gru, gru_cell, [&](auto& cell, const Tensor& in) { return h = cell(in, h); });
    check(rnn, rnn_cell, [&](auto& cell, const Tensor& in) { return g = cell(in, g); });
  }
}

TEST_CASE("recurrent layers do not depend on the number of threads", "[nn][rnn]") {
  const int before = omp_get_max_threads();
  manual_seed(1);
  nn::LSTM lstm(40, 70, {.proj_size = 60});
  nn::GRU gru(40, 70);
  const Tensor x = values({3, 30, 40}, -1, 1, 2, DType::f32);
  std::vector<std::vector<Tensor>> found;
  for (const int threads : {1, 3}) {
    omp_set_num_threads(threads);
    lstm.zero_grad(), gru.zero_grad();
    const Tensor y = lstm(x).first, z = gru(x).first;
    backward(sum(square(y)) + sum(square(z)));
    found.push_back({y, z});
    for (const auto& p : {lstm.parameters(), gru.parameters()})
      for (const Tensor& t : p) found.back().push_back(clone(t.grad()));
  }
  omp_set_num_threads(before);
  for (size_t i = 0; i < found[0].size(); ++i) CHECK(same_bits(found[0][i], found[1][i]));
}

TEST_CASE("a length is as if the sequence ended there", "[nn][rnn]") {
  manual_seed(1);
  nn::LSTM lstm(3, 5, {.bidirectional = true});
  const Tensor x = values({6, 2, 3}, -1, 1, 1, DType::f32), lengths = tensor<int64_t>({4, 6});
  const auto [y, state] = lstm(x, {}, lengths);
  const auto [alone, alone_state] = lstm(narrow(narrow(x, 0, 0, 4), 1, 0, 1));
  CHECK(same_bits(narrow(narrow(y, 0, 0, 4), 1, 0, 1), alone));
  CHECK(same_bits(narrow(state.first, 1, 0, 1), alone_state.first));
  CHECK(same_bits(narrow(state.second, 1, 0, 1), alone_state.second));
  CHECK(sum(abs(narrow(narrow(y, 0, 4, 2), 1, 0, 1))).item() == 0);
}

TEST_CASE("dropout between recurrent layers is for training", "[nn][rnn]") {
  manual_seed(1);
  nn::GRU gru(3, 5, {.num_layers = 2, .dropout = 1}), one(3, 5, {.dropout = 1});
  const Tensor x = values({4, 2, 3}, -1, 1, 1, DType::f32);
  const Tensor first = gru(x).first;
  gru.eval();
  const Tensor second = gru(x).first;
  CHECK(!same_bits(first, second));
  CHECK(sum(abs(one(x).first)).item() > 0);  // not behind the last layer
}

TEST_CASE("recurrent parameters start within 1 / sqrt(hidden_size), under PyTorch's names", "[nn][rnn]") {
  manual_seed(1);
  nn::LSTM lstm(3, 16, {.num_layers = 2, .bidirectional = true, .proj_size = 4});
  std::vector<std::string> names;
  for (auto& [name, p] : lstm.named_parameters()) {
    names.push_back(name);
    CHECK(amax(abs(p)).item() <= 0.25);
    CHECK(amax(abs(p)).item() > 0.15);
  }
  CHECK(names.size() == 20);
  CHECK(names[4] == "weight_hr_l0");
  CHECK(names[5] == "weight_ih_l0_reverse");
  CHECK(names[18] == "bias_hh_l1_reverse");
  CHECK(lstm.state_dict()[10].second.shape() == Shape{64, 8});
  const auto copy = lstm.clone();
  CHECK(copy.parameters().size() == 20);
}

TEST_CASE("recurrent layers name what does not fit", "[nn][rnn]") {
  const nn::LSTM lstm(3, 4, {.batch_first = true});
  const nn::GRU gru(3, 4, {.num_layers = 2});
  const Tensor x = zeros({2, 5, 3});
  CHECK_THAT(error_of([&] {
               lstm(zeros({2, 5, 7}));
             }),
             ContainsSubstring("LSTM: the input is [2, 5, 7]; it must have 2 dims, (T, 3), or 3, (B, T, 3)"));
  CHECK_THAT(error_of([&] {
               lstm(x, {zeros({1, 3, 4}), zeros({1, 2, 4})});
             }),
             ContainsSubstring("h_0 is [1, 3, 4], but its shape must be [1, 2, 4]"));
  CHECK_THAT(error_of([&] { lstm(x, {zeros({1, 2, 4}), {}}); }), ContainsSubstring("one of h_0 and c_0 is undefined"));
  CHECK_THAT(error_of([&] {
               gru(zeros({2, 5, 3}), zeros({1, 5, 4}));
             }),
             ContainsSubstring("h_0 is [1, 5, 4], but its shape must be [2, 5, 4]"));
  CHECK_THAT(error_of([&] {
               lstm(x, {}, tensor<int64_t>({5, 0}));
             }),
             ContainsSubstring("sequence 1 has length 0; lengths must lie in [1, 5]"));
  CHECK_THAT(error_of([&] { lstm(x, {}, tensor<int64_t>({6, 1})); }), ContainsSubstring("sequence 0 has length 6"));
  CHECK_THAT(error_of([&] { lstm(x, {}, tensor<int64_t>({6})); }), ContainsSubstring("lengths is [1], but its shape must be [2]"));
  CHECK_THAT(error_of([&] { lstm(x, {}, ones({2})); }), ContainsSubstring("lengths are f32; they must be i64"));
  CHECK_THAT(error_of([&] { gru(zeros({0, 2, 3})); }), ContainsSubstring("no steps"));
  CHECK_THAT(error_of([&] { nn::LSTM(3, 4, {.proj_size = 4}); }), ContainsSubstring("proj_size 4 is not valid"));
  CHECK_THAT(error_of([&] {
               nn::LSTMCell(3, 4)(zeros({2, 5}));
             }),
             ContainsSubstring("LSTMCell: the input is [2, 5]; it must be (B, 3) or (3)"));
  CHECK_THAT(error_of([&] {
               recurrent_layer(RecurrentKind::gru, x, {zeros({13, 3}), zeros({13, 4}), {}, {}, {}});
             }),
             ContainsSubstring("gru: weight_hh is [13, 4]"));
  CHECK(gru(zeros({2, 0, 3})).first.shape() == Shape{2, 0, 4});
}
