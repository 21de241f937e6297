// What tests/op_cases.h cannot say of gated_linear_attention: many chunks and features, strong decay, steps, bad input.
#include <omp.h>

#include "../nn/golden.h"
#include "../op_cases.h"

using namespace retape;
using namespace retape::testing;

namespace {

struct Drawn {
  Tensor q, k, v, g, initial;
  std::vector<Tensor> all() const { return {q, k, v, g, initial}; }
  GatedLinearAttentionOptions options() const { return {.g = g, .initial = initial}; }
};
// gate: 0 none, 1 of heads, 2 of features
Drawn draw_attention(int gate, int64_t T, int64_t H, int64_t K, int64_t V, double strongest, DType dtype = DType::f64) {
  const auto leaf_of = [&](const Shape& s, double low, double high, uint64_t seed) {
    return Tensor(values(s, low, high, seed, dtype)).set_requires_grad();
  };
  return {leaf_of({2, T, H, K}, -1, 1, 1), leaf_of({2, T, H, K}, -1, 1, 2), leaf_of({2, T, H, V}, -1, 1, 3),
          gate == 0   ? Tensor{}
          : gate == 1 ? leaf_of({2, T, H}, -strongest, 0, 4)
                      : leaf_of({2, T, H, K}, -strongest, 0, 4),
          leaf_of({2, H, K, V}, -1, 1, 5)};
}

}  // namespace

TEST_CASE("linear attention of many chunks has the gradients of its steps", "[gated_linear_attention]") {
  struct Size {
    int64_t T, H, K, V;
  };
  for (const int gate : {0, 1, 2})
    for (const double strongest : {0.1, 3.0, 200.0})
      for (const auto& [T, H, K, V] : {Size{64, 1, 4, 8}, Size{129, 2, 3, 5}, Size{40, 1, 70, 67}}) {
        if (gate == 0 && strongest > 1) continue;
        INFO("gate " << gate << " to " << -strongest << ", T " << T << ", K " << K << ", V " << V);
        const Drawn x = draw_attention(gate, T, H, K, V, strongest), y = draw_attention(gate, T, H, K, V, strongest);
        const Tensor a = with_state(gated_linear_attention(x.q, x.k, x.v, x.options()));
        const Tensor b = with_state(attended(y.q, y.k, y.v, y.options()));
        CHECK(relative_difference(a, b) < 1e-12);
        backward(sum(square(a))), backward(sum(square(b)));
        for (size_t i = 0; i < x.all().size(); ++i) {
          if (!x.all()[i]) continue;
          INFO("input " << i);
          // Nearly nothing is left of the gradient of a strong decay, which is a difference of larger numbers.
          CHECK(relative_difference(x.all()[i].grad(), y.all()[i].grad()) < (i == 3 && strongest > 100 ? 1e-9 : 1e-12));
        }
      }
}

TEST_CASE("linear attention is masked attention without softmax", "[gated_linear_attention]") {
  // The quadratic form: weights e^(G_t - G_s) q_t k_s for s <= t, with G the running sum of g.
  const Drawn x = draw_attention(1, 100, 2, 6, 4, 0.5);
  const auto heads_first = [](const Tensor& t) { return transpose(t, 1, 2); };
  const Tensor G = transpose(cumsum(x.g, 1), 1, 2), positions = arange(100);
  const Tensor decay = where(ge(unsqueeze(positions, 1), positions), exp(unsqueeze(G, 3) - unsqueeze(G, 2)), 0.);
  const Tensor weights = matmul(heads_first(x.q), transpose(heads_first(x.k))) * decay * 0.3;
  const Tensor y = gated_linear_attention(x.q, x.k, x.v, {.g = x.g, .scale = 0.3}).y;
  CHECK(relative_difference(y, heads_first(matmul(weights, heads_first(x.v)))) < 1e-12);
}

TEST_CASE("normalised linear attention of many chunks is that with a column of ones, divided by what it gives",
          "[gated_linear_attention]") {
  struct Size {
    int64_t T, H, K, V;
  };
  for (const int gate : {0, 1, 2})
    for (const auto& [T, H, K, V] : {Size{64, 1, 4, 8}, Size{129, 2, 3, 5}, Size{40, 1, 70, 67}}) {
      INFO("gate " << gate << ", T " << T << ", K " << K << ", V " << V);
      std::vector<Tensor> in[2];
      Tensor all[2];
      for (int i = 0; i < 2; ++i) {
        in[i] = {Tensor(values({2, T, H, K}, 0.1, 1, 1)).set_requires_grad(), Tensor(values({2, T, H, K}, 0.1, 1, 2)).set_requires_grad(),
                 Tensor(values({2, T, H, V}, -1, 1, 3)).set_requires_grad(),
                 Tensor(values({2, H, K, V + 1}, 0.1, 1, 4)).set_requires_grad()};
        if (gate) in[i].push_back(Tensor(values(gate == 1 ? Shape{2, T, H} : Shape{2, T, H, K}, -0.5, 0, 5)).set_requires_grad());
        GatedLinearAttentionOptions o{.g = gate ? in[i][4] : Tensor{}, .scale = 0.7, .initial = in[i][3], .normalize = i == 0, .eps = 0.1};
        if (i == 0) {
          all[i] = with_state(gated_linear_attention(in[i][0], in[i][1], in[i][2], o));
        } else {
          const auto r = gated_linear_attention(in[i][0], in[i][1], cat({in[i][2], ones({2, T, H, 1}, in[i][2].options())}, 3), o);
          all[i] = with_state(GatedLinearAttentionResult{narrow(r.y, 3, 0, V) / (narrow(r.y, 3, V, 1) + 0.1), r.last_state});
        }
        backward(sum(square(all[i])));
      }
      CHECK(relative_difference(all[0], all[1]) < 1e-13);
      for (size_t i = 0; i < in[0].size(); ++i) {
        INFO("input " << i);
        CHECK(relative_difference(in[0][i].grad(), in[1][i].grad()) < 1e-12);
      }
    }
}

TEST_CASE("normalised linear attention without values still sums keys", "[gated_linear_attention]") {
  const Tensor k = values({1, 70, 2, 3}, 0.1, 1, 1);
  const auto r = gated_linear_attention(k, k, zeros({1, 70, 2, 0}, k.options()), {.normalize = true});
  CHECK(r.y.shape() == Shape{1, 70, 2, 0});
  CHECK(relative_difference(r.last_state, unsqueeze(sum(k, {1}), 3)) < 1e-14);
}

TEST_CASE("a decay of -infinity forgets exactly", "[gated_linear_attention]") {
  for (const int gate : {1, 2}) {
    const Drawn x = draw_attention(gate, 100, 1, 4, 3, 0.2, DType::f32);
    const Tensor g = x.g.detach();
    copy_into(full({}, -INFINITY), select(g, 1, 70));
    const auto from = [](const Tensor& t) { return narrow(t.detach(), 1, 70, 30); };
    const Tensor whole = gated_linear_attention(x.q, x.k, x.v, {.g = Tensor(g).set_requires_grad(), .initial = x.initial}).y;
    const Tensor rest = gated_linear_attention(from(x.q), from(x.k), from(x.v), {.g = from(g)}).y;
    CHECK(relative_difference(from(whole), rest) < 1e-6);
    backward(sum(from(x.q)) * 0 + sum(narrow(whole, 1, 70, 30)));
    CHECK(sum(abs(narrow(x.k.grad(), 1, 0, 70))).item() == 0);
    CHECK(sum(abs(x.initial.grad())).item() == 0);
    CHECK(all(isfinite(g.grad())).item<bool>());
  }
}

TEST_CASE("linear attention in f32 is near that in f64", "[gated_linear_attention]") {
  for (const int gate : {0, 1, 2}) {
    const Drawn x = draw_attention(gate, 500, 2, 32, 48, 0.3, DType::f32), y = draw_attention(gate, 500, 2, 32, 48, 0.3);
    const auto a = gated_linear_attention(x.q, x.k, x.v, x.options()), b = gated_linear_attention(y.q, y.k, y.v, y.options());
    CHECK(relative_difference(a.y, b.y) < 3e-6);
    CHECK(relative_difference(a.last_state, b.last_state) < 3e-6);
    backward(sum(square(a.y))), backward(sum(square(b.y)));
    for (size_t i = 0; i < x.all().size(); ++i)
      if (x.all()[i]) CHECK(relative_difference(x.all()[i].grad(), y.all()[i].grad()) < 1e-5);
  }
}

TEST_CASE("linear attention is the same bits for any number of threads", "[gated_linear_attention]") {
  const auto run = [](int threads) {
    const int before = omp_get_max_threads();
    omp_set_num_threads(threads);
    const Drawn x = draw_attention(2, 200, 2, 16, 16, 1, DType::f32);
    const auto r = gated_linear_attention(x.q, x.k, x.v, x.options());
    backward(sum(square(r.y)) + sum(r.last_state));
    omp_set_num_threads(before);
    std::vector<Tensor> all = {r.y.detach(), r.last_state.detach()};
    for (auto& t : x.all()) all.push_back(t.grad());
    return all;
  };
  const auto one = run(1), five = run(5);
  for (size_t i = 0; i < one.size(); ++i) CHECK(same_bits(one[i], five[i]));
}

TEST_CASE("steps from a state agree with linear attention over all of them", "[gated_linear_attention]") {
  const NoGrad off;
  for (const int gate : {0, 1, 2}) {
    const Drawn x = draw_attention(gate, 70, 2, 5, 3, 0.5);
    const Tensor start = values({2, 2, 5, 4}, 0.1, 1, 6), q = abs(x.q), k = abs(x.k);
    const auto mean = gated_linear_attention(q, k, x.v, {.g = x.g, .initial = start, .normalize = true, .eps = 0.1});
    const auto whole = gated_linear_attention(x.q, x.k, x.v, x.options());
    Tensor state = x.initial, sums = start;
    for (int64_t t = 0; t < 70; ++t) {
      const auto at = [&](const Tensor& s) { return s ? select(s, 1, t) : s; };
      const auto r = gated_linear_attention_step(state, at(x.q), at(x.k), at(x.v), {.g = at(x.g)});
      CHECK(difference(r.y, at(whole.y), DType::f64) <= 1);
      const auto m = gated_linear_attention_step(sums, at(q), at(k), at(x.v), {.g = at(x.g), .normalize = true, .eps = 0.1});
      CHECK(difference(m.y, at(mean.y), DType::f64) <= 1);
      state = r.last_state, sums = m.last_state;
    }
    CHECK(difference(sums, mean.last_state, DType::f64) <= 1);
    CHECK(difference(state, whole.last_state, DType::f64) <= 1);
  }
}

TEST_CASE("under autocast linear attention takes q, k and v in the low dtype and keeps its state in f32", "[gated_linear_attention]") {
  const Drawn x = draw_attention(1, 5, 1, 4, 4, 0.001, DType::f32);
  const Autocast amp(DType::bf16);
  const auto r = gated_linear_attention(x.q, x.k, x.v, {.g = x.g, .initial = x.initial});
  CHECK(r.y.dtype() == DType::bf16);
  CHECK(r.last_state.dtype() == DType::f32);
  backward(sum(r.y));
  CHECK(x.g.grad().dtype() == DType::f32);
  CHECK(x.q.grad().dtype() == DType::f32);
}

TEST_CASE("gated_linear_attention says what does not fit", "[gated_linear_attention]") {
  const Tensor q = zeros({2, 3, 4, 5}), v = zeros({2, 3, 4, 6});
  const auto error = [&](const GatedLinearAttentionOptions& o) { return error_of([&] { gated_linear_attention(q, q, v, o); }); };
  CHECK_THAT(error_of([&] { gated_linear_attention(q, v, v); }),
             ContainsSubstring("gated_linear_attention: q [2, 3, 4, 5], k [2, 3, 4, 6] and v"));
  CHECK_THAT(error_of([&] { gated_linear_attention(q, q, zeros({2, 3, 5, 6})); }), ContainsSubstring("v must be (2, 3, 4, V)"));
  CHECK_THAT(error({.g = zeros({2, 3})}), ContainsSubstring("g is [2, 3], but q [2, 3, 4, 5] asks for [2, 3, 4], or [2, 3, 4, 5]"));
  CHECK_THAT(error({.initial = q}), ContainsSubstring("ask for [2, 4, 5, 6]"));
  CHECK_THAT(error({.g = zeros({2, 3, 4}, {DType::i64})}), ContainsSubstring("g has dtype i64"));
  CHECK_THAT(error({.initial = zeros({2, 4, 5, 6}), .normalize = true}), ContainsSubstring("ask for [2, 4, 5, 7]"));
  CHECK_THAT(error({.normalize = true, .eps = -1}), ContainsSubstring("eps -1 is not valid; it must be 0 or more"));
  CHECK_THAT(error_of([&] {
               gated_linear_attention_step(zeros({2, 4, 5, 6}), q, q, v);
             }),
             ContainsSubstring("gated_linear_attention_step: q is [2, 3, 4, 5]; a step has no dim of time"));
}
