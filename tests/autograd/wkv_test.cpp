// What tests/op_cases.h cannot say of wkv: keys of any size, many chunks and channels, steps, half types, bad input.
#include <omp.h>

#include "../nn/golden.h"
#include "../op_cases.h"

using namespace retape;
using namespace retape::testing;

namespace {

struct Drawn {
  Tensor decay, first, k, v;
  std::vector<Tensor> all() const { return {decay, first, k, v}; }
  Tensor run() const { return with_sums(wkv(decay, first, k, v)); }
};
Drawn draw_keys(int64_t batch, int64_t T, int64_t C, DType dtype = DType::f64) {
  const auto leaf_of = [&](const Shape& s, double low, double high, uint64_t seed) {
    return Tensor(values(s, low, high, seed, dtype)).set_requires_grad();
  };
  return {leaf_of({C}, -2, -0.01, 1), leaf_of({C}, -1, 1, 2), leaf_of({batch, T, C}, -2, 2, 3), leaf_of({batch, T, C}, -1, 1, 4)};
}

}  // namespace

TEST_CASE("the average of many chunks and channels has the gradients of its steps", "[wkv]") {
  for (const auto& [T, C] : {std::pair<int64_t, int64_t>{64, 3}, {65, 70}, {200, 5}}) {
    INFO("T " << T << ", C " << C);
    const Drawn x = draw_keys(2, T, C), y = draw_keys(2, T, C);
    const Tensor a = x.run(), b = with_sums(averaged(y.decay, y.first, y.k, y.v));
    CHECK(relative_difference(a, b) < 1e-13);
    backward(sum(square(a))), backward(sum(square(b)));
    for (size_t i = 0; i < x.all().size(); ++i) {
      INFO("input " << i);
      CHECK(relative_difference(x.all()[i].grad(), y.all()[i].grad()) < 1e-12);
    }
  }
}

TEST_CASE("keys of any size make an average, and its gradients", "[wkv]") {
  // One key far above all others is the whole average from there on, until it has faded below the next.
  const Tensor k = tensor<float>({0, 300, 0, -2000, 1e30f, 0, 0, -1e30f}, {1, 8, 1}).set_requires_grad(),
               v = tensor<float>({1, 2, 3, 4, 5, 6, 7, 8}, {1, 8, 1}).set_requires_grad();
  const Tensor decay = full({1}, -0.5).set_requires_grad(), first = full({1}, 0.5).set_requires_grad();
  const auto r = wkv(decay, first, k, v);
  CHECK(r.y.to_vector<float>() == std::vector<float>{1, 2, 2, 2, 5, 5, 5, 5});
  CHECK(r.last_state.numerator.item() == 5);
  CHECK(r.last_state.denominator.item() == 1);
  backward(sum(r.y));
  CHECK(v.grad().to_vector<float>() == std::vector<float>{1, 3, 0, 0, 4, 0, 0, 0});
  for (const Tensor& t : {k, decay, first}) CHECK(amax(abs(t.grad())).item() == 0);
  // Moving all keys by the same number moves nothing.
  const Drawn x = draw_keys(2, 40, 3, DType::f32);
  CHECK(relative_difference(wkv(x.decay, x.first, x.k + 1000, x.v).y, wkv(x.decay, x.first, x.k, x.v).y) < 1e-3);
}

TEST_CASE("an average in f32 is near that in f64, also over long sequences", "[wkv]") {
  const Drawn x = draw_keys(2, 700, 20, DType::f32), y = draw_keys(2, 700, 20);
  const Tensor a = wkv(x.decay, x.first, x.k, x.v).y, b = wkv(y.decay, y.first, y.k, y.v).y;
  CHECK(relative_difference(a, b) < 2e-6);
  backward(sum(square(a))), backward(sum(square(b)));
  for (size_t i = 0; i < x.all().size(); ++i) CHECK(relative_difference(x.all()[i].grad(), y.all()[i].grad()) < 2e-5);
}

TEST_CASE("an average is the same bits for any number of threads", "[wkv]") {
  const auto run = [](int threads) {
    const int before = omp_get_max_threads();
    omp_set_num_threads(threads);
    const Drawn x = draw_keys(3, 150, 300, DType::f32);
    const Tensor y = x.run();
    backward(sum(square(y)));
    omp_set_num_threads(before);
    std::vector<Tensor> all = {y.detach()};
    for (auto& t : x.all()) all.push_back(t.grad());
    return all;
  };
  const auto one = run(1), five = run(5);
  for (size_t i = 0; i < one.size(); ++i) CHECK(same_bits(one[i], five[i]));
}

TEST_CASE("an average in steps from a state has the bits of the whole", "[wkv]") {
  const NoGrad off;
  const Drawn x = draw_keys(2, 70, 5, DType::f32);
  const auto whole = wkv(x.decay, x.first, x.k, x.v);
  WkvState state;
  std::vector<Tensor> ys;
  for (const int64_t size : {1, 2, 64, 3}) {
    const int64_t from = ys.empty() ? 0 : cat(ys, 1).size(1);
    const auto r = wkv(x.decay, x.first, narrow(x.k, 1, from, size), narrow(x.v, 1, from, size), state);
    ys.push_back(r.y), state = r.last_state;
  }
  CHECK(same_bits(cat(ys, 1), whole.y));
  CHECK(same_bits(state.numerator, whole.last_state.numerator));
  CHECK(same_bits(state.exponent, whole.last_state.exponent));
}

TEST_CASE("the state of an average of half types is f32", "[wkv]") {
  const Drawn x = draw_keys(2, 90, 4);
  for (const DType dtype : {DType::bf16, DType::f16}) {
    const auto low = [&](const Tensor& t) { return cast(t.detach(), dtype); };
    const auto r = wkv(x.decay, x.first, low(x.k), low(x.v));
    CHECK(r.y.dtype() == dtype);
    CHECK(r.last_state.numerator.dtype() == DType::f32);
    const auto f = wkv(x.decay, x.first, cast(low(x.k), DType::f32), cast(low(x.v), DType::f32));
    CHECK(same_bits(r.last_state.denominator, f.last_state.denominator));
    CHECK(same_bits(r.y, cast(f.y, dtype)));
  }
}

TEST_CASE("wkv says what does not fit", "[wkv]") {
  const Tensor c = zeros({3}), k = zeros({2, 4, 3}), row = zeros({2, 3});
  CHECK_THAT(error_of([&] { wkv(c, c, row, row); }), ContainsSubstring("wkv: k is [2, 3]; its shape must be (B, T, C)"));
  CHECK_THAT(error_of([&] { wkv(zeros({2}), c, k, k); }), ContainsSubstring("wkv: decay is [2], but k [2, 4, 3] asks for [3]"));
  CHECK_THAT(error_of([&] { wkv(c, k, k, k); }), ContainsSubstring("wkv: first is [2, 4, 3]"));
  CHECK_THAT(error_of([&] {
               wkv(c, c, k, zeros({2, 3, 3}));
             }),
             ContainsSubstring("wkv: v is [2, 3, 3], but k [2, 4, 3] asks for [2, 4, 3]"));
  CHECK_THAT(error_of([&] { wkv(c, c, k, k, {zeros({3, 3}), row, row}); }), ContainsSubstring("the initial numerator is [3, 3]"));
  CHECK_THAT(error_of([&] { wkv(c, c, k, k, {row, row, {}}); }), ContainsSubstring("give all three, or none"));
  CHECK_THAT(error_of([&] { wkv(c, c, cast(k, DType::i64), k); }), ContainsSubstring("k has dtype i64"));
  CHECK_THAT(error_of([&] { wkv(c, c, k, {}); }), ContainsSubstring("wkv: "));
  const auto empty_one = wkv(c, c, zeros({2, 0, 3}), zeros({2, 0, 3}), {row + 1, row + 2, row});
  CHECK(empty_one.y.shape() == Shape{2, 0, 3});
  CHECK(equal(empty_one.last_state.denominator, row + 2));
}
