// The gated attention unit and FLASH against sums over pairs written out.
#include <retape/retape.h>

#include "../catch.h"
#include "mixer_checks.h"

#include <cmath>

using namespace retape;
using namespace retape::testing;
using nn::RelativeBias;

namespace {

constexpr int64_t C = 6, S = 4;
constexpr auto biases = {RelativeBias::none, RelativeBias::toeplitz, RelativeBias::rope};

// Numbers at which every part counts, and of which scores are not below 0 everywhere. On meta there are none.
template <class M> M with_numbers(M m) {
  if (m.in_proj.weight->device().is_meta()) return m;
  waved(m);
  const NoGrad off;
  copy_into(1 + 0.3 * m.gamma, m.gamma);
  return m;
}
nn::GatedAttentionUnit unit(RelativeBias bias, bool causal = true) {
  return with_numbers(
      nn::GatedAttentionUnit(C, {.expansion_factor = 1.5, .query_key_dim = S, .relative_bias = bias, .max_length = 20, .causal = causal}));
}
nn::FLASH flash(int64_t chunk, RelativeBias bias = RelativeBias::rope, bool causal = true) {
  return with_numbers(
      nn::FLASH(C, {.chunk_size = chunk, .expansion_factor = 1.5, .query_key_dim = S, .relative_bias = bias, .causal = causal}));
}

using Matrix = std::vector<std::vector<double>>;
Matrix rows(const Tensor& x) {
  Matrix m(size_t(x.size(0)));
  for (int64_t i = 0; i < x.size(0); ++i) m[size_t(i)] = select(x, 0, i).to_vector<double>();
  return m;
}
// What a query at position p adds to the score of a key at position j.
template <class M> double bias_of(const M& m, int64_t p, int64_t j) {
  const nn::DistanceBias& d = m.relative_bias;
  if (d.kind == RelativeBias::none) return 0;
  if (d.kind == RelativeBias::toeplitz) return d.weight->template to_vector<double>()[size_t(j - p + d.max_length - 1)];
  const auto a = d.a->template to_vector<double>(), b = d.b->template to_vector<double>();
  double all = 0;  // features i and i + S / 2 turn together
  for (size_t i = 0; i < S / 2; ++i) {
    const double angle = double(p - j) * std::pow(10000.0, -2.0 * double(i) / S);
    const double x = a[i] * std::cos(angle) - a[i + S / 2] * std::sin(angle), y = a[i] * std::sin(angle) + a[i + S / 2] * std::cos(angle);
    all += x * b[i] + y * b[i + S / 2];
  }
  return all;
}
double dot(const std::vector<double>& z, const Matrix& gamma, const Matrix& beta, size_t i, const std::vector<double>& w, size_t k) {
  double all = 0;
  for (size_t s = 0; s < z.size(); ++s) all += (z[s] * gamma[i][s] + beta[i][s]) * (w[s] * gamma[k][s] + beta[k][s]);
  return all;
}
// y (T, e) before the gate, for one sequence of v (T, e) and z (T, s)
template <class M> Tensor pairs(const M& m, const Matrix& v, const Matrix& z) {
  constexpr bool chunked = std::is_same_v<M, nn::FLASH>;
  const Matrix gamma = rows(m.gamma), beta = rows(m.beta);
  const auto length = int64_t(z.size());
  std::vector<double> out;
  for (int64_t p = 0; p < length; ++p) {
    std::vector<double> y(v[0].size(), 0);
    for (int64_t j = 0; j < length; ++j) {
      double weight = 0;
      if constexpr (chunked) {
        const int64_t c = m.chunk_size;
        if (p / c == j / c && (!m.causal || j <= p)) {
          const double score = dot(z[size_t(p)], gamma, beta, 0, z[size_t(j)], 2) / double(c) + bias_of(m, p % c, j % c);
          weight += score > 0 ? score * score : 0;
        }
        if (!m.causal) weight += dot(z[size_t(p)], gamma, beta, 1, z[size_t(j)], 3) / double(length);
        else if (j / c < p / c) weight += dot(z[size_t(p)], gamma, beta, 1, z[size_t(j)], 3) / double(c);
      } else if (!m.causal || j <= p) {
        const double score = dot(z[size_t(p)], gamma, beta, 0, z[size_t(j)], 1) / double(m.causal ? p + 1 : length) + bias_of(m, p, j);
        weight = score > 0 ? score * score : 0;
      }
      for (size_t e = 0; e < y.size(); ++e) y[e] += weight * v[size_t(j)][e];
    }
    out.insert(out.end(), y.begin(), y.end());
  }
  return tensor(out, {length, int64_t(v[0].size())});
}
template <class M> void check_formula(M m, int64_t length) {
  const NoGrad off;
  m.to(DType::f64);
  const Tensor x = wave({2, length, C}, 0.3), all = silu(m.in_proj(x));
  std::vector<Tensor> ys;
  const int64_t e = m.hidden_dim;
  for (int64_t b = 0; b < 2; ++b) {
    const Tensor one = select(all, 0, b);
    const Tensor y = pairs(m, rows(narrow(one, 1, e, e)), rows(narrow(one, 1, 2 * e, S)));
    ys.push_back(m.o_proj(narrow(one, 1, 0, e) * y));
  }
  CHECK(relative_difference(m(x), stack(ys)) <= 1e-12);
}
template <class M> void check_slope(M m) {
  m.to(DType::f64);
  const Tensor x = Tensor(wave({1, 5, C}, 0.4)).set_requires_grad();
  const auto r = gradcheck([&](const std::vector<Tensor>& in) { return m(in[0]); }, {x});
  INFO(r.report);
  CHECK(r.passed);
}

}  // namespace

TEST_CASE("a gated attention unit weighs values by the square of relu", "[gated_attention_unit]") {
  for (const RelativeBias bias : biases)
    for (const bool causal : {true, false}) {
      INFO("bias " << int(bias) << ", causal " << causal);
      check_formula(unit(bias, causal), 9);
      check_slope(unit(bias, causal));
    }
  for (const RelativeBias bias : biases) check_mixer([&] { return unit(bias); }, C);
}
TEST_CASE("FLASH is quadratic inside chunks and linear across", "[gated_attention_unit]") {
  for (const RelativeBias bias : biases)
    for (const bool causal : {true, false})
      for (const int64_t chunk : {1, 3, 4, 20}) {
        INFO("bias " << int(bias) << ", causal " << causal << ", chunks of " << chunk);
        check_formula(flash(chunk, bias, causal), 9);
      }
  check_slope(flash(2)), check_slope(flash(3, RelativeBias::toeplitz, false));
  for (const int64_t chunk : {1, 4, 20}) check_pieces(flash(chunk), C);
  for (const RelativeBias bias : biases) check_mixer([&] { return flash(5, bias); }, C);
}
TEST_CASE("memory of FLASH is linear in the length", "[gated_attention_unit]") {
  const nn::DefaultOptions on_meta({.device = Device::meta()});
  nn::FLASH m(64, {.chunk_size = 32, .query_key_dim = 32});
  const auto peak = [&](int64_t length) {
    const Tensor x = empty({1, length, 64}, {.device = Device::meta()});
    reset_peak_memory(Device::meta());
    const int64_t before = memory_stats(Device::meta()).peak;
    const Tensor y = m(x);
    return double(memory_stats(Device::meta()).peak - before);
  };
  CHECK(peak(32768) < 4.2 * peak(8192));
}
TEST_CASE("a state of FLASH holds one chunk and a sum", "[gated_attention_unit]") {
  const NoGrad off;
  nn::FLASH m = flash(4);
  nn::FLASH::State state;
  for (const int64_t n : {3, 10, 1, 6}) {
    m.step(zeros({1, n, C}), state);
    CHECK(state.v.length() <= 4);
  }
  CHECK(state.sums.shape() == Shape{1, S, 9});
}

TEST_CASE("gated attention units refuse options that make no sense", "[gated_attention_unit]") {
  using nn::FLASH, nn::GatedAttentionUnit;
  CHECK_THAT(error_of([] { FLASH(C, {.chunk_size = 0}); }), ContainsSubstring("FLASH: chunk_size is 0; it must be above 0"));
  CHECK_THAT(error_of([] { FLASH(C, {.chunk_size = -3, .relative_bias = RelativeBias::none}); }),
             ContainsSubstring("FLASH: chunk_size is -3; it must be above 0"));
  CHECK_THAT(error_of([] { FLASH(C, {.query_key_dim = 0}); }), ContainsSubstring("query_key_dim is 0; it must be above 0"));
  CHECK_THAT(error_of([] { GatedAttentionUnit(C, {.expansion_factor = 0.1}); }),
             ContainsSubstring("expansion_factor 0.1 of embed_dim 6 is not valid; it must give 1 or more features"));
  CHECK_THAT(error_of([] { GatedAttentionUnit(C, {.query_key_dim = 3}); }), ContainsSubstring("head_dim 3 is not valid; it must be even"));
  CHECK_THAT(error_of([] { GatedAttentionUnit(C, {.relative_bias = RelativeBias::toeplitz, .max_length = 0}); }),
             ContainsSubstring("max_length is 0; it must be above 0"));
  GatedAttentionUnit m = unit(RelativeBias::toeplitz);
  CHECK_THAT(error_of([&] { m(zeros({1, 21, C})); }), ContainsSubstring("21 positions are beyond max_length 20"));
  GatedAttentionUnit::State state;
  m.step(zeros({1, 20, C}), state);
  CHECK_THAT(error_of([&] { m.step(zeros({1, 1, C}), state); }), ContainsSubstring("21 positions are beyond max_length 20"));
  FLASH both = flash(3, RelativeBias::none, false);
  FLASH::State start;
  CHECK_THAT(error_of([&] { both.step(zeros({1, 1, C}), start); }), ContainsSubstring("step() with causal = false"));
}
