// Position encodings, and attention that sees distances against its formulas.
#include <retape/retape.h>

#include "../catch.h"
#include "mixer_checks.h"

#include <cmath>

using namespace retape;
using namespace retape::testing;

namespace {

constexpr int64_t C = 8, H = 2, D = C / H;

// On meta there are no numbers.
template <class M> M with_numbers(M m) {
  if (!m.q_proj.weight->device().is_meta()) waved(m);
  return m;
}
nn::RelativeSelfAttention shaw(int64_t max_distance, bool values = true, bool causal = true) {
  return with_numbers(
      nn::RelativeSelfAttention(C, {.num_heads = H, .max_distance = max_distance, .relative_values = values, .causal = causal}));
}
nn::TransformerXLAttention xl(std::optional<int64_t> mem_len = {}, bool causal = true) {
  return with_numbers(nn::TransformerXLAttention(C, {.num_heads = H, .mem_len = mem_len, .causal = causal}));
}

// q, k or v of one head of one sequence: rows (T) of D numbers
std::vector<std::vector<double>> rows_of(const nn::Linear& proj, const Tensor& x, int64_t b, int64_t head) {
  const Tensor y = select(proj.forward(x), 0, b);
  std::vector<std::vector<double>> rows;
  for (int64_t t = 0; t < y.size(0); ++t) rows.push_back(narrow(select(y, 0, t), 0, head * D, D).to_vector<double>());
  return rows;
}
double dot(const std::vector<double>& a, const std::vector<double>& b) {
  double all = 0;
  for (size_t i = 0; i < a.size(); ++i) all += a[i] * b[i];
  return all;
}
std::vector<double> plus(std::vector<double> a, const std::vector<double>& b) {
  for (size_t i = 0; i < a.size(); ++i) a[i] += b[i];
  return a;
}
std::vector<double> row(const Tensor& x, int64_t i) { return select(x, 0, i).to_vector<double>(); }

// Softmax attention, pair by pair: score(q_i, i, k_j, j, head) and value(v_j, i, j) where sees(i, j).
template <class M, class Score, class Value, class Sees> void check_pairs(M m, Score&& score, Value&& value, Sees&& sees) {
  const NoGrad off;
  m.to(DType::f64);
  const Tensor x = wave({2, 9, C}, 0.3);
  std::vector<double> all(size_t(2 * 9 * C), 0);
  for (int64_t b = 0; b < 2; ++b)
    for (int64_t h = 0; h < H; ++h) {
      const auto q = rows_of(m.q_proj, x, b, h), k = rows_of(m.k_proj, x, b, h), v = rows_of(m.v_proj, x, b, h);
      for (int64_t i = 0; i < 9; ++i) {
        double total = 0;
        std::vector<double> y(D, 0);
        for (int64_t j = 0; j < 9; ++j) {
          if (!sees(i, j)) continue;
          const double weight = std::exp(score(m, q[size_t(i)], i, k[size_t(j)], j, h) / 2);
          const auto to = value(m, v[size_t(j)], i, j);
          for (size_t d = 0; d < D; ++d) y[d] += weight * to[d];
          total += weight;
        }
        for (int64_t d = 0; d < D; ++d) all[size_t((b * 9 + i) * C + h * D + d)] = y[size_t(d)] / total;
      }
    }
  CHECK(relative_difference(m(x), m.o_proj(tensor(all, {2, 9, C}))) <= 1e-11);
}
template <class M> void check_slope(M m) {
  m.to(DType::f64);
  const Tensor x = Tensor(wave({1, 4, C}, 0.4)).set_requires_grad();
  const auto r = gradcheck([&](const std::vector<Tensor>& in) { return m(in[0]); }, {x});
  INFO(r.report);
  CHECK(r.passed);
}

}  // namespace

TEST_CASE("sinusoidal encodings are added to a sequence and go on from a state", "[position]") {
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16}) {
    const nn::SinusoidalPositionalEncoding m(5, {.scale = 3});
    const Tensor x = cast(wave({2, 70, 5}), dtype), y = m(x);
    CHECK(y.dtype() == dtype);
    std::vector<double> expected;
    for (int64_t t = 0; t < 70; ++t)
      for (int64_t k = 0; k < 5; ++k) {
        const double angle = double(t) / std::pow(10000.0, double(k / 2 * 2) / 5);
        expected.push_back(k % 2 ? std::cos(angle) : std::sin(angle));
      }
    const double most = dtype == DType::f64 ? 1e-14 : dtype == DType::f32 ? 1e-6 : 0.01;
    CHECK(relative_difference(cast(y, DType::f64), 3 * cast(x, DType::f64) + tensor(expected, {70, 5})) <= most);
    CHECK(relative_difference(m(narrow(x, 1, 60, 10), 60), narrow(y, 1, 60, 10)) == 0);
    CHECK(relative_difference(in_pieces(m, x, {1, 64, 5}), y) == 0);
  }
  const nn::SinusoidalPositionalEncoding m(4);
  CHECK(m(to(zeros({1, 3, 4}), Device::meta())).shape() == Shape{1, 3, 4});
  CHECK(relative_difference(m(zeros({1, 3, 4})), unsqueeze(nn::sinusoidal_positions(3, 4), 0)) == 0);
  CHECK_THAT(error_of([] { nn::SinusoidalPositionalEncoding(0); }), ContainsSubstring("embed_dim is 0; it must be above 0"));
  CHECK_THAT(error_of([&] { m(zeros({1, 3, 5})); }), ContainsSubstring("[1, 3, 5]; its shape must be (B, T, 4)"));
  CHECK_THAT(error_of([&] { m(zeros({1, 3, 4}), -1); }), ContainsSubstring("start -1"));
  CHECK_THAT(error_of([&] { nn::sinusoidal_positions(3, 4, 0, {DType::i64}); }), ContainsSubstring("i64 cannot hold sines"));
}

TEST_CASE("learned positions are rows of a weight, of which there is an end", "[position]") {
  manual_seed(1);
  nn::LearnedPositionalEmbedding m(4, {.max_length = 12, .std = 0.5});
  CHECK(mean(square(m.weight)).item() == Approx(0.25).margin(0.1));
  const Tensor x = cast(wave({2, 12, 4}), DType::f32), y = m(x);
  CHECK(relative_difference(y, x + m.weight) == 0);
  CHECK(relative_difference(m(narrow(x, 1, 3, 5), 3), narrow(y, 1, 3, 5)) == 0);
  CHECK(relative_difference(in_pieces(m, x, {4, 1, 7}), y) == 0);
  backward(sum(m(narrow(x, 1, 0, 2), 3)));
  CHECK(matches(cast(sum(m.weight->grad(), {1}), DType::f64), {12}, {0, 0, 0, 8, 8, 0, 0, 0, 0, 0, 0, 0}));
  CHECK_THAT(error_of([&] { m(zeros({1, 2, 4}), 11); }), ContainsSubstring("positions 11 .. 12 are beyond max_length 12"));
  nn::LearnedPositionalEmbedding::State state;
  m.step(x, state);
  CHECK_THAT(error_of([&] { m.step(zeros({2, 1, 4}), state); }), ContainsSubstring("positions 12 .. 12 are beyond"));
  CHECK(state.position == 12);
  CHECK_THAT(error_of([] { nn::LearnedPositionalEmbedding(4, {.max_length = 0}); }),
             ContainsSubstring("max_length is 0; it must be above 0"));
}

TEST_CASE("positions of a grid have a row for a class token only where there is one", "[position]") {
  const Tensor with = sincos_positions(2, 3, 8), without = sincos_positions(2, 3, 8, false);
  CHECK(without.shape() == Shape{1, 6, 8});
  CHECK(relative_difference(narrow(with, 1, 1, 6), without) == 0);
  CHECK(sum(abs(narrow(with, 1, 0, 1))).item() == 0);
  // Row 1, column 2: the column's sines and cosines first.
  const double s = std::sin(0.02), c = std::cos(0.02);
  CHECK(relative_difference(
            select(without, 1, 5),
            tensor<double>({std::sin(2), s, std::cos(2), c, std::sin(1), std::sin(0.01), std::cos(1), std::cos(0.01)}, {1, 8})) <= 1e-6);
}

TEST_CASE("Shaw's attention adds vectors of clipped distances to keys and values", "[position]") {
  for (const bool causal : {true, false})
    for (const bool values : {true, false})
      for (const int64_t most : {1, 3, 20}) {
        INFO("causal " << causal << ", values " << values << ", up to " << most);
        const auto vector = [&](const Parameter& of, int64_t i, int64_t j) { return row(of, std::clamp(j - i, -most, most) + most); };
        check_pairs(
            shaw(most, values, causal),
            [&](auto& m, auto& q, int64_t i, auto& k, int64_t j, int64_t) { return dot(q, plus(k, vector(m.relative_keys, i, j))); },
            [&](auto& m, auto& v, int64_t i, int64_t j) { return values ? plus(v, vector(m.relative_values, i, j)) : v; },
            [&](int64_t i, int64_t j) { return !causal || j <= i; });
        check_slope(shaw(most, values, causal));
      }
  check_mixer([] { return shaw(3); }, C, "k_proj.bias");
  check_pieces(shaw(20, false), C);
  CHECK_THAT(error_of([] { nn::RelativeSelfAttention(C, {.num_heads = 3}); }),
             ContainsSubstring("RelativeSelfAttention: embed_dim 8 does not divide into 3"));
  CHECK_THAT(error_of([] { nn::RelativeSelfAttention(C, {.max_distance = 0}); }),
             ContainsSubstring("max_distance is 0; it must be above 0"));
  CHECK(shaw(3, false).state_dict().size() == 9);
}

TEST_CASE("Transformer-XL's scores have parts for content and for distance", "[position]") {
  for (const bool causal : {true, false})
    for (const std::optional<int64_t> mem_len : {std::optional<int64_t>{}, std::optional<int64_t>{0}, std::optional<int64_t>{3}}) {
      INFO("causal " << causal << ", memory of " << mem_len.value_or(-1));
      check_pairs(
          xl(mem_len, causal),
          [](auto& m, auto& q, int64_t i, auto& k, int64_t j, int64_t h) {
            std::vector<double> wave_of;
            for (int64_t n = 0; n < C; ++n) {
              const double angle = double(i - j) * std::pow(10000.0, -2.0 * double(n % (C / 2)) / C);
              wave_of.push_back(n < C / 2 ? std::sin(angle) : std::cos(angle));
            }
            const auto r = narrow(m.r_proj.forward(tensor(wave_of, {C})), 0, h * D, D).template to_vector<double>();
            return dot(plus(q, row(m.r_w_bias, h)), k) + dot(plus(q, row(m.r_r_bias, h)), r);
          },
          [](auto&, auto& v, int64_t, int64_t) { return v; },
          [&](int64_t i, int64_t j) { return (!causal || j <= i) && (!mem_len || i - j <= *mem_len); });
      check_slope(xl(mem_len, causal));
    }
  check_mixer([] { return xl(); }, C);
  for (const int64_t mem_len : {1, 4}) check_mixer([=] { return xl(mem_len); }, C);
  check_pieces(xl(0), C);
  CHECK_THAT(error_of([] { nn::TransformerXLAttention(9, {.num_heads = 3}); }),
             ContainsSubstring("embed_dim 9 is not valid; it must be even"));
  CHECK_THAT(error_of([] { nn::TransformerXLAttention(C, {.mem_len = -1}); }), ContainsSubstring("mem_len -1"));
}
TEST_CASE("a memory of Transformer-XL is bounded, gets no gradient, and follows the weights while they learn", "[position]") {
  nn::TransformerXLAttention m = xl(4);
  nn::TransformerXLAttention::State state;
  const Tensor x = Tensor(cast(wave({1, 12, C}), DType::f32)).set_requires_grad();
  m.step(narrow(x, 1, 0, 6), state);
  CHECK(state.memory.all().shape() == Shape{1, 4, C});
  CHECK_FALSE(state.memory.all().requires_grad());
  {
    const NoGrad off;
    copy_into(2 * m.k_proj.weight, m.k_proj.weight);
  }
  const Tensor y = m.step(narrow(x, 1, 6, 6), state);
  backward(sum(square(y)));
  CHECK(sum(abs(narrow(x.grad(), 1, 0, 6))).item() == 0);
  CHECK(relative_difference(y.detach(), narrow(m(x), 1, 6, 6).detach()) <= 1e-5);
  const NoGrad off;
  m.step(narrow(x, 1, 0, 6), state);
  CHECK(state.k.all().shape() == Shape{1, 4, H, D});
  nn::TransformerXLAttention::State of_buffer;
  const Tensor buffer = zeros({1, 4, C});
  m.step(buffer, of_buffer);
  copy_into(ones({1, 4, C}), buffer);
  CHECK(sum(of_buffer.memory.all()).item() == 0);
}
namespace {
// What dropout of the attention weights does to a layer made by make(p).
template <class Make> void check_dropout(Make&& make) {
  manual_seed(1);
  const Tensor x = cast(wave({1, 5, C}, 0.3), DType::f32);
  auto m = make(0.4), plain = make(0);
  INFO(m.type_name());
  const Tensor whole = plain(x);
  CHECK(same_bits(plain(x), whole));
  m.eval();
  CHECK(same_bits(m(x), whole));
  m.train();
  const Tensor many = m(expand(x, {4000, 5, C}));
  CHECK(relative_difference(narrow(many, 0, 0, 1), whole) > 0.05);
  CHECK(relative_difference(narrow(many, 0, 0, 1), narrow(many, 0, 1, 1)) > 0.05);
  CHECK(relative_difference(mean(many, {0}, true), whole) <= 0.02);
  auto all = make(1);
  const Tensor no_weights = all(x);  // values of which nothing is left
  CHECK(same_bits(no_weights, all.o_proj(zeros_like(x))));

  // Drawn again: by the same seed, and where a checkpoint runs the layer a second time.
  const auto gradients = [&](auto&& run) {
    manual_seed(7);
    m.zero_grad();
    const Tensor in = clone(x).set_requires_grad(), y = run(in);
    backward(sum(square(y)));
    return std::vector<Tensor>{y.detach(), in.grad(), m.v_proj.weight->grad(), m.q_proj.weight->grad()};
  };
  const auto first = gradients([&](const Tensor& in) { return m(in); });
  const auto again = gradients([&](const Tensor& in) { return checkpoint([&](const Tensor& t) { return m(t); }, in); });
  for (size_t i = 0; i < first.size(); ++i) CHECK(same_bits(first[i], again[i]));
  for (const double p : {-0.1, 1.1, std::nan("")})
    CHECK_THAT(error_of([&] { make(p); }), ContainsSubstring("is not valid; it must lie in [0, 1]"));
}
}  // namespace
TEST_CASE("attention by distance drops weights while training", "[position]") {
  check_dropout([](double p) { return with_numbers(nn::RelativeSelfAttention(C, {.num_heads = H, .max_distance = 3, .dropout = p})); });
  check_dropout([](double p) { return with_numbers(nn::TransformerXLAttention(C, {.num_heads = H, .dropout = p})); });
}
TEST_CASE("steps of Transformer-XL drop weights while training, those of Shaw's attention do not", "[position]") {
  manual_seed(1);
  const Tensor x = cast(wave({2, 9, C}, 0.3), DType::f32);
  auto shaws = with_numbers(nn::RelativeSelfAttention(C, {.num_heads = H, .dropout = 0.5}));
  auto segments = with_numbers(nn::TransformerXLAttention(C, {.num_heads = H, .dropout = 0.5}));
  const auto in_steps = [&](auto& m, bool training) {
    m.train(training);
    return in_pieces(m, x, {4, 5});
  };
  CHECK(same_bits(in_steps(shaws, true), in_steps(shaws, false)));
  CHECK(relative_difference(in_steps(segments, true), in_steps(segments, false)) > 0.05);
  const Tensor steps = in_steps(segments, false);
  CHECK(relative_difference(steps, segments(x)) <= 1e-5);
}
TEST_CASE("scores by distance take no memory of the size of pairs times features", "[position]") {
  const nn::DefaultOptions on_meta({.device = Device::meta()});
  const int64_t length = 256, pairs = length * length * int64_t(sizeof(float));
  const auto peak = [&](auto&& m) {
    const Tensor x = empty({1, length, 64}, {.device = Device::meta()});
    reset_peak_memory(Device::meta());
    const int64_t before = memory_stats(Device::meta()).peak;
    const Tensor y = m(x);
    return memory_stats(Device::meta()).peak - before;
  };
  CHECK(peak(nn::TransformerXLAttention(64, {.num_heads = 1})) < 16 * pairs);
  CHECK(peak(nn::RelativeSelfAttention(64, {.num_heads = 1})) < 16 * pairs);
}
