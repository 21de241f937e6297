// What tests/op_cases.h cannot say of selective_scan: many chunks and channels, what is kept, steps, bad input.
#include <omp.h>

#include <cfloat>

#include "../nn/golden.h"
#include "../op_cases.h"

using namespace retape;
using namespace retape::testing;

namespace {

struct Drawn {
  Tensor u, delta, A, B, C, D, z, bias, initial;
  SelectiveScanOptions options() const { return {.D = D, .z = z, .delta_bias = bias, .delta_softplus = true, .initial = initial}; }
  std::vector<Tensor> all() const { return {u, delta, A, B, C, D, z, bias, initial}; }
};
Drawn draw_scan(int64_t batch, int64_t T, int64_t D, int64_t G, int64_t N, DType dtype = DType::f64) {
  const auto leaf_of = [&](const Shape& s, double low, double high, uint64_t seed) {
    return Tensor(values(s, low, high, seed, dtype)).set_requires_grad();
  };
  return {leaf_of({batch, T, D}, -1, 1, 1),    leaf_of({batch, T, D}, -2, 1, 2),
          leaf_of({D, N}, -2, -0.01, 3),       leaf_of({batch, T, G, N}, -1, 1, 4),
          leaf_of({batch, T, G, N}, -1, 1, 5), leaf_of({D}, -1, 1, 6),
          leaf_of({batch, T, D}, -2, 2, 7),    leaf_of({D}, -1, 1, 8),
          leaf_of({batch, D, N}, -1, 1, 9)};
}

}  // namespace

TEST_CASE("a selective scan of many chunks and channels has the gradients of its steps", "[selective_scan]") {
  struct Size {
    int64_t T, D, G, N;
  };
  for (const auto& [T, D, G, N] : {Size{64, 3, 1, 4}, Size{65, 140, 1, 3}, Size{131, 34, 2, 5}, Size{200, 8, 4, 17}}) {
    INFO("T " << T << ", D " << D << ", groups " << G << ", N " << N);
    const Drawn x = draw_scan(2, T, D, G, N), y = draw_scan(2, T, D, G, N);
    const Tensor a = with_state(selective_scan_with_state(x.u, x.delta, x.A, x.B, x.C, x.options()));
    const Tensor b = with_state(scanned(y.u, y.delta, y.A, y.B, y.C, y.options()));
    CHECK(difference(a, b, DType::f64) <= 1);
    backward(sum(square(a))), backward(sum(square(b)));
    for (size_t i = 0; i < x.all().size(); ++i) {
      INFO("input " << i);
      CHECK(relative_difference(x.all()[i].grad(), y.all()[i].grad()) < 1e-12);
    }
  }
}

TEST_CASE("a selective scan in f32 is near that in f64", "[selective_scan]") {
  const Drawn x = draw_scan(2, 300, 40, 2, 16, DType::f32), y = draw_scan(2, 300, 40, 2, 16);
  const auto a = selective_scan_with_state(x.u, x.delta, x.A, x.B, x.C, x.options());
  const auto b = selective_scan_with_state(y.u, y.delta, y.A, y.B, y.C, y.options());
  CHECK(relative_difference(a.y, b.y) < 2e-6);
  CHECK(relative_difference(a.last_state, b.last_state) < 2e-6);
  backward(sum(square(a.y))), backward(sum(square(b.y)));
  for (size_t i = 0; i < x.all().size(); ++i) CHECK(relative_difference(x.all()[i].grad(), y.all()[i].grad()) < 1e-5);
}

TEST_CASE("a selective scan is the same bits for any number of threads", "[selective_scan]") {
  const auto run = [](int threads) {
    const int before = omp_get_max_threads();
    omp_set_num_threads(threads);
    const Drawn x = draw_scan(2, 150, 300, 1, 8, DType::f32);
    const auto r = selective_scan_with_state(x.u, x.delta, x.A, x.B, x.C, x.options());
    backward(sum(square(r.y)) + sum(r.last_state));
    omp_set_num_threads(before);
    std::vector<Tensor> all = {r.y.detach(), r.last_state.detach()};
    for (auto& t : x.all()) all.push_back(t.grad());
    return all;
  };
  const auto one = run(1), five = run(5);
  for (size_t i = 0; i < one.size(); ++i) CHECK(same_bits(one[i], five[i]));
}

TEST_CASE("steps from a state give the bits of the whole scan", "[selective_scan]") {
  const NoGrad off;
  const Drawn x = draw_scan(2, 70, 5, 1, 3, DType::f32);
  const auto whole = selective_scan_with_state(x.u, x.delta, x.A, x.B, x.C, x.options());
  Tensor state = x.initial;
  SelectiveScanOptions o = x.options();
  o.initial = {};
  for (int64_t t = 0; t < 70; ++t) {
    const auto at = [&](const Tensor& s) { return select(s, 1, t); };
    o.z = at(x.z);
    const auto r = selective_scan_step(state, at(x.u), at(x.delta), x.A, at(x.B), at(x.C), o);
    CHECK(same_bits(r.y, contiguous(at(whole.y))));
    state = r.last_state;
  }
  CHECK(same_bits(state, whole.last_state));
}

TEST_CASE("a selective scan keeps a state in 64 steps for backward", "[selective_scan]") {
  const Drawn x = draw_scan(1, 640, 32, 1, 16, DType::f32);
  const int64_t before = memory_stats().live;
  const Tensor y = selective_scan(x.u, x.delta, x.A, x.B, x.C);
  const int64_t state = 32 * 16 * 4, kept = memory_stats().live - before - y.numel() * 4;
  CHECK(kept >= 9 * state);
  CHECK(kept <= 11 * state + 4096);  // with the last state, which a caller may want
}

TEST_CASE("the state of a selective scan of half types is f32", "[selective_scan]") {
  for (const DType dtype : {DType::f16, DType::bf16}) {
    const Tensor u = cast(cat({ones({1, 1, 1}), full({1, 511, 1}, 0x1p-12)}, 1), dtype), one = ones({1, 512, 1}, {dtype});
    const auto r = selective_scan_with_state(u, one, zeros({1, 1}), one, one);
    CHECK(r.y.dtype() == dtype);
    CHECK(r.last_state.dtype() == DType::f32);
    CHECK(r.last_state.item() == 1 + 511 * 0x1p-12);
  }
}

TEST_CASE("autocast leaves the inputs of a selective scan as they are", "[selective_scan]") {
  const Drawn x = draw_scan(1, 3, 2, 1, 2, DType::f32);
  const Autocast amp(DType::bf16);
  CHECK(selective_scan(x.u, x.delta, x.A, x.B, x.C).dtype() == DType::f32);
  CHECK(selective_scan(cast(x.u, DType::bf16), cast(x.delta, DType::bf16), x.A, cast(x.B, DType::bf16), cast(x.C, DType::bf16)).dtype() ==
        DType::bf16);
}

TEST_CASE("powers in a selective scan are exact at 0 and right at their ends", "[selective_scan]") {
  // One channel a case: h_1 = e^(delta A) * 1, from the state 1 and no input.
  const std::vector<float> exponents = {0, -0x1p-30f, -1e-3f, -1, -20, -87, -90, -1000, -INFINITY, 1, 80, 88.7f, 200, INFINITY, NAN, -0.5f};
  const int64_t n = int64_t(exponents.size());
  const Tensor none = zeros({1, 1, n}), one = ones({1, 1, 1});
  const auto h =
      selective_scan_with_state(none, ones({1, 1, n}), reshape(tensor(exponents), {n, 1}), one, one, {.initial = ones({1, n, 1})})
          .last_state.to_vector<float>();
  for (size_t i = 0; i < exponents.size(); ++i) {
    INFO(exponents[i]);
    const double exact = std::exp(double(exponents[i]));
    if (std::isnan(exact)) CHECK(std::isnan(h[i]));
    else if (exact < 0x1p-126) CHECK(h[i] == 0);
    else if (exact > FLT_MAX) CHECK(h[i] == INFINITY);
    else CHECK(std::abs(h[i] - exact) <= 1e-7 * exact * (2 + std::abs(exponents[i])));
  }
  CHECK(h[0] == 1);
}

TEST_CASE("selective_scan says what does not fit", "[selective_scan]") {
  const Tensor u = zeros({2, 3, 4}), A = zeros({4, 5}), B = zeros({2, 3, 5});
  const auto error = [&](const SelectiveScanOptions& o) { return error_of([&] { selective_scan(u, u, A, B, B, o); }); };
  CHECK_THAT(error_of([&] {
               selective_scan(zeros({3, 4}), u, A, B, B);
             }),
             ContainsSubstring("selective_scan: u is [3, 4]; its shape must be (B, T, D)"));
  CHECK_THAT(error_of([&] { selective_scan(u, B, A, B, B); }),
             ContainsSubstring("delta is [2, 3, 5], but its shape must be [2, 3, 4], as u's"));
  CHECK_THAT(error_of([&] { selective_scan(u, u, B, B, B); }), ContainsSubstring("A is [2, 3, 5], but u [2, 3, 4] has 4 channels"));
  CHECK_THAT(error_of([&] { selective_scan(u, u, A, u, B); }), ContainsSubstring("B is [2, 3, 4], but its shape must be [2, 3, 5]"));
  CHECK_THAT(error_of([&] { selective_scan(u, u, A, B, zeros({2, 3, 1, 5})); }), ContainsSubstring("C is [2, 3, 1, 5]"));
  CHECK_THAT(error_of([&] {
               selective_scan(u, u, A, zeros({2, 3, 3, 5}), zeros({2, 3, 3, 5}));
             }),
             ContainsSubstring("has 3 groups, which do not divide the 4 channels"));
  CHECK_THAT(error({.D = zeros({5})}), ContainsSubstring("D is [5], but its shape must be [4]"));
  CHECK_THAT(error({.z = B}), ContainsSubstring("z is [2, 3, 5]"));
  CHECK_THAT(error({.delta_bias = zeros({})}), ContainsSubstring("delta_bias is []"));
  CHECK_THAT(error({.initial = zeros({2, 5, 4})}), ContainsSubstring("initial is [2, 5, 4], but its shape must be [2, 4, 5]"));
  CHECK_THAT(error({.z = cast(u, DType::i32)}), ContainsSubstring("z has dtype i32"));
  const Tensor step = zeros({2, 4}), state = zeros({2, 4, 5}), row = zeros({2, 5});
  CHECK_THAT(error_of([&] { selective_scan_step(state, u, step, A, row, row); }),
             ContainsSubstring("selective_scan_step: u is [2, 3, 4]; a step has no dim of time"));
  CHECK_THAT(error_of([&] { selective_scan_step(state, step, step, A, row, row, {.initial = state}); }),
             ContainsSubstring("give the state alone"));
}
