// Sorting, counting and drawing: numbers and edges.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "../catch.h"

using namespace retape;
using namespace retape::testing;
using Values = std::vector<double>;
using Ints = std::vector<int64_t>;

namespace {
constexpr double NaN = NAN;
}

TEST_CASE("sorting is stable and puts nan above all numbers", "[sort]") {
  const Tensor x = tensor<float>({3, NAN, 1, 3, 2, 2, 0, -1}, {2, 4});
  const auto up = sort(x), down = sort(x, 1, true);
  CHECK(up.indices.to_vector<int64_t>() == Ints{2, 0, 3, 1, 3, 2, 0, 1});
  CHECK(down.indices.to_vector<int64_t>() == Ints{1, 0, 3, 2, 0, 1, 2, 3});
  CHECK(slice(up.values, 0, 1, 2).to_vector<double>() == Values{-1, 0, 2, 2});
  CHECK(std::isnan(up.values.to_vector<double>()[3]));
  CHECK(argsort(tensor<double>({0.0, -0.0, 0.0})).to_vector<int64_t>() == Ints{0, 1, 2});
  CHECK(argsort(tensor<double>({-INFINITY, INFINITY, -1, 1}), 0, true).to_vector<int64_t>() == Ints{1, 3, 2, 0});
}

TEST_CASE("every dtype sorts, short lines and long ones alike", "[sort]") {
  for (const DType dtype : {DType::f64, DType::f32, DType::f16, DType::bf16, DType::i64, DType::i32, DType::u8, DType::boolean})
    for (const int64_t n : {1, 7, 47, 48, 1000}) {
      INFO(name_of(dtype) << " " << n);
      Generator g(uint64_t(n) + 1);
      const Tensor x = cast(dtype == DType::u8 || dtype == DType::boolean ? uniform({n, 2}, 0, 200, {DType::f64}, g)
                                                                          : uniform({n, 2}, -2e4, 2e4, {DType::f64}, g),
                            dtype);
      for (const bool descending : {false, true}) {
        const auto s = sort(x, 0, descending);
        for (int c = 0; c < 2; ++c) {
          auto column = select(x, 1, c).to_vector<double>();
          Ints order(column.size());
          std::iota(order.begin(), order.end(), 0);
          std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
            return descending ? column[size_t(a)] > column[size_t(b)] : column[size_t(a)] < column[size_t(b)];
          });
          CHECK(select(s.indices, 1, c).to_vector<int64_t>() == order);
          CHECK(equal(index_select(select(x, 1, c), 0, tensor(order)), select(s.values, 1, c)));
        }
      }
    }
}

TEST_CASE("the largest few, and the k-th", "[sort]") {
  const Tensor x = tensor<double>({4, 1, 3, 2, 0, 10, 5, 7}, {2, 4});
  CHECK(topk(x, 2).values.to_vector<double>() == Values{4, 3, 10, 7});
  CHECK(topk(x, 2, 1, false).indices.to_vector<int64_t>() == Ints{1, 3, 0, 2});
  CHECK(topk(x, 0).values.shape() == Shape{2, 0});
  CHECK(kthvalue(x, 3).values.to_vector<double>() == Values{3, 7});
  CHECK(kthvalue(x, 1, 0, true).values.shape() == Shape{1, 4});
  CHECK_THAT(error_of([&] { topk(x, 5); }), ContainsSubstring("k = 5 is out of range for dim 1 of shape [2, 4]; expected 0 <= k <= 4"));
  CHECK_THAT(error_of([&] { kthvalue(x, 0); }), ContainsSubstring("expected 1 <= k <= 4"));
}

TEST_CASE("medians and quantiles", "[sort]") {
  const auto m = median(tensor<float>({3, NAN, 1, 3, 2, 2, 0, -1}, {2, 4}), 1);
  CHECK(std::isnan(m.values.to_vector<double>()[0]));
  CHECK(m.values.to_vector<double>()[1] == 0);
  CHECK(m.indices.to_vector<int64_t>() == Ints{1, 2});
  CHECK(median(tensor<int64_t>({5, 1, 4, 2})).item<int64_t>() == 2);
  const Tensor y = tensor<double>({4, 1, 3, 2, 0, 10, 5, 7}, {2, 4}), q = tensor<double>({0.2, 0.5, 1});
  const auto with = [&](Interpolation i) { return quantile(y, q, 1, false, i); };
  CHECK(difference(with(Interpolation::linear), tensor<double>({1.6, 3, 2.5, 6, 4, 10}, {3, 2}), DType::f64) <= 1);
  CHECK(with(Interpolation::lower).to_vector<double>() == Values{1, 0, 2, 5, 4, 10});
  CHECK(with(Interpolation::higher).to_vector<double>() == Values{2, 5, 3, 7, 4, 10});
  CHECK(with(Interpolation::midpoint).to_vector<double>() == Values{1.5, 2.5, 2.5, 6, 4, 10});
  CHECK(with(Interpolation::nearest).to_vector<double>() == Values{2, 5, 3, 7, 4, 10});
  CHECK(quantile(y, 0.5).item() == 3.5);
  CHECK(quantile(y, 0.5, {}, true).shape() == Shape{1, 1});
  CHECK(std::isnan(quantile(tensor<double>({1, NAN}), 0.0).item()));
  CHECK_THAT(error_of([&] { quantile(y, 1.5); }), ContainsSubstring("q = 1.5 is out of range"));
  CHECK_THAT(error_of([&] { median(zeros({0})); }), ContainsSubstring("has no elements"));
}

TEST_CASE("unique values, where they were and how often", "[sort]") {
  const Tensor x = tensor<int64_t>({2, 1, 0, 5, 2, 1, 0, 4}, {4, 2});
  const Unique u = unique(x);
  CHECK(u.values.to_vector<int64_t>() == Ints{0, 1, 2, 4, 5});
  CHECK(u.inverse.to_vector<int64_t>() == Ints{2, 1, 0, 4, 2, 1, 0, 3});
  CHECK(u.inverse.shape() == x.shape());
  CHECK(u.counts.to_vector<int64_t>() == Ints{2, 2, 2, 1, 1});
  const Unique rows = unique(x, 0);
  CHECK(rows.values.to_vector<int64_t>() == Ints{0, 4, 0, 5, 2, 1});
  CHECK(rows.inverse.to_vector<int64_t>() == Ints{2, 1, 2, 0});
  CHECK(rows.counts.to_vector<int64_t>() == Ints{1, 1, 2});
  CHECK(unique(transpose(x), 1).values.shape() == Shape{2, 3});
  const Unique runs = unique_consecutive(tensor<int64_t>({1, 1, 2, 2, 2, 1}));
  CHECK(runs.values.to_vector<int64_t>() == Ints{1, 2, 1});
  CHECK(runs.inverse.to_vector<int64_t>() == Ints{0, 0, 1, 1, 1, 2});
  CHECK(runs.counts.to_vector<int64_t>() == Ints{2, 3, 1});
  CHECK(unique(tensor<double>({NaN, 1, NaN})).values.numel() == 3);
  CHECK(unique(zeros({0})).values.numel() == 0);
  CHECK(unique(zeros({0, 3}), 0).counts.numel() == 0);
}

TEST_CASE("places in a sorted list", "[sort]") {
  const Tensor sorted = tensor<int64_t>({1, 3, 3, 5}), v = tensor<int64_t>({0, 3, 4, 9});
  CHECK(searchsorted(sorted, v).to_vector<int64_t>() == Ints{0, 1, 3, 4});
  CHECK(searchsorted(sorted, v, true).to_vector<int64_t>() == Ints{0, 3, 3, 4});
  CHECK(searchsorted(tensor<double>({1, 2, 5, 6}, {2, 2}), tensor<double>({1.5, 5.5}, {2, 1})).to_vector<int64_t>() == Ints{1, 1});
  CHECK(bucketize(tensor<float>({0.5, 1, 7}), tensor<double>({1, 2})).to_vector<int64_t>() == Ints{0, 0, 2});
  CHECK(searchsorted(zeros({0}), zeros({2})).to_vector<int64_t>() == Ints{0, 0});
  CHECK_THAT(error_of([] { searchsorted(zeros({2, 3}), zeros({3, 3})); }), ContainsSubstring("sorted [2, 3] does not fit values [3, 3]"));
}

TEST_CASE("counting", "[sort]") {
  CHECK(bincount(tensor<int64_t>({1, 3, 1})).to_vector<int64_t>() == Ints{0, 2, 0, 1});
  CHECK(bincount(tensor<int32_t>({1, 3, 1}), tensor<double>({0.5, 1, 2}), 6).to_vector<double>() == Values{0, 2.5, 0, 1, 0, 0});
  CHECK(bincount(tensor<int64_t>(std::vector<int64_t>{})).numel() == 0);
  CHECK_THAT(error_of([] { bincount(tensor<int64_t>({1, -3})); }), ContainsSubstring("has the element -3"));
  CHECK(histc(tensor<double>({1, 2, 1, 0.5, 4}), 4, 0, 4).to_vector<double>() == Values{1, 2, 1, 1});
  CHECK(histc(tensor<double>({1, 2, 3}), 2).to_vector<double>() == Values{1, 2});
}

TEST_CASE("numbers evenly spaced, and the identity matrix", "[creation]") {
  CHECK(linspace(0, 1, 4, {DType::f64}).to_vector<double>() == Values{0, 1 / 3.0, 1 - 1 / 3.0, 1});
  CHECK(linspace(5, 9, 1).to_vector<double>() == Values{5});
  CHECK(linspace(0, 10, 3, {DType::i64}).to_vector<int64_t>() == Ints{0, 5, 10});
  CHECK(logspace(0, 2, 3).to_vector<double>() == Values{1, 10, 100});
  CHECK(logspace(0, 3, 4, 2).to_vector<double>() == Values{1, 2, 4, 8});
  CHECK(eye(2, 3).to_vector<double>() == Values{1, 0, 0, 0, 1, 0});
  CHECK(eye(2, {DType::i64}).to_vector<int64_t>() == Ints{1, 0, 0, 1});
  CHECK(eye(0).numel() == 0);
  CHECK_THAT(error_of([] { linspace(0, 1, -1); }), ContainsSubstring("-1 steps"));
  const std::array<int32_t, 3> numbers{1, 2, 3};
  CHECK(tensor(std::span(numbers)).to_vector<int64_t>() == Ints{1, 2, 3});
}

TEST_CASE("coins and draws follow their probabilities", "[random]") {
  Generator g(4);
  const Tensor coins = bernoulli(full({20000}, 0.3), g);
  CHECK(std::abs(mean(coins).item() - 0.3) < 5 * std::sqrt(0.21 / 20000));
  CHECK(unique(coins).values.to_vector<double>() == Values{0, 1});
  CHECK(sum(bernoulli(tensor<double>({0, 1, 0, 1}), g)).item() == 2);
  const Tensor weights = tensor<double>({1, 0, 3, 4});
  const auto counts = bincount(multinomial(weights, 16000, true, g), {}, 4).to_vector<double>();
  for (int i = 0; i < 4; ++i) {
    const double p = weights.to_vector<double>()[size_t(i)] / 8;
    CHECK(std::abs(counts[size_t(i)] - 16000 * p) <= 5 * std::sqrt(16000 * p * (1 - p)));
  }
  int first[4] = {};
  const auto draws = multinomial(expand(weights, {4000, 4}), 2, false, g);
  CHECK(draws.shape() == Shape{4000, 2});
  CHECK_FALSE(any(eq(select(draws, 1, 0), select(draws, 1, 1))).item<bool>());
  for (int64_t i : select(draws, 1, 0).to_vector<int64_t>()) ++first[i];
  CHECK((first[1] == 0 && std::abs(first[3] - 2000) < 5 * std::sqrt(1000.0)));
  CHECK(std::abs(mean(normal(full({20000}, 2), full({20000}, 0.5), g)).item() - 2) < 5 * 0.5 / std::sqrt(20000.0));
  CHECK(rand_like(weights, g).dtype() == DType::f64);
  CHECK_THAT(error_of([] { bernoulli(full({1}, 1.5)); }), ContainsSubstring("outside of [0, 1]"));
  CHECK_THAT(error_of([&] { multinomial(weights, 4); }), ContainsSubstring("need 4 weights above 0 in each row; one has 3"));
  CHECK_THAT(error_of([] { multinomial(tensor<float>({1, -1}), 1, true); }), ContainsSubstring("not negative"));
}

TEST_CASE("rows are visited one after the other", "[views]") {
  Values sums;
  for (const Tensor& row : tensor<double>({1, 2, 3, 4, 5, 6}, {3, 2})) sums.push_back(sum(row).item());
  CHECK(sums == Values{3, 7, 11});
  CHECK_THAT(error_of([] {
               for (const Tensor& x : full({}, 1)) (void)x;
             }),
             ContainsSubstring("dim"));
}
