// Initialisers: bounds and moments by PyTorch's formulas.
#include "../catch.h"

#include <algorithm>
#include <cmath>

using namespace retape;
using namespace retape::testing;
namespace init = retape::nn::init;

namespace {
struct Moments {
  double mean = 0, std = 0, low = 0, high = 0;
};
Moments moments(const Tensor& x) {
  const auto v = x.to_vector<double>();
  Moments m;
  for (double u : v) m.mean += u / double(v.size());
  for (double u : v) m.std += (u - m.mean) * (u - m.mean) / double(v.size());
  m.std = std::sqrt(m.std);
  m.low = *std::min_element(v.begin(), v.end());
  m.high = *std::max_element(v.begin(), v.end());
  return m;
}
// 40,000 numbers: fan_in is 50 * 4, fan_out 200 * 4.
Tensor conv_weight() { return empty({200, 50, 2, 2}); }
void check_uniform(const Tensor& x, double bound) {
  const Moments m = moments(x);
  CHECK(std::abs(m.mean) < 0.02 * bound);
  CHECK(m.std == Approx(bound / std::sqrt(3.0)).epsilon(0.02));
  CHECK((m.low >= -bound && m.low < -0.99 * bound && m.high <= bound && m.high > 0.99 * bound));
}
void check_normal(const Tensor& x, double std) {
  const Moments m = moments(x);
  CHECK(std::abs(m.mean) < 0.02 * std);
  CHECK(m.std == Approx(std).epsilon(0.02));
  CHECK((m.low < -3 * std && m.high > 3 * std));  // not a uniform distribution of the same width
}
}  // namespace

TEST_CASE("gains are PyTorch's") {  // torch.nn.init.calculate_gain
  CHECK(init::calculate_gain(init::Nonlinearity::linear) == 1);
  CHECK(init::calculate_gain(init::Nonlinearity::sigmoid) == 1);
  CHECK(init::calculate_gain(init::Nonlinearity::tanh) == Approx(1.6666666666666667));
  CHECK(init::calculate_gain(init::Nonlinearity::relu) == Approx(1.4142135623730951));
  CHECK(init::calculate_gain(init::Nonlinearity::leaky_relu, 0.2) == Approx(1.3867504905630728));
  CHECK(init::calculate_gain(init::Nonlinearity::selu) == 0.75);
}

TEST_CASE("Kaiming's and Xavier's widths follow fan-in and fan-out") {
  const Tensor x = conv_weight();
  init::kaiming_uniform(x, {.negative_slope = std::sqrt(5.0)});
  check_uniform(x, 1 / std::sqrt(200.0));
  init::kaiming_uniform(x, {.fan = init::Fan::out, .nonlinearity = init::Nonlinearity::relu});
  check_uniform(x, std::sqrt(6.0 / 800));
  init::kaiming_normal(x, {.nonlinearity = init::Nonlinearity::relu});
  check_normal(x, std::sqrt(2.0 / 200));
  init::xavier_uniform(x);
  check_uniform(x, std::sqrt(6.0 / 1000));
  init::xavier_normal(x, 2);
  check_normal(x, 2 * std::sqrt(2.0 / 1000));
  CHECK(init::fan_in(x) == 200);
  CHECK_THROWS_AS(init::kaiming_uniform(empty({3})), Error);
  CHECK_THROWS_AS(init::xavier_normal(empty({3})), Error);
}

TEST_CASE("plain fills") {
  const Tensor x = empty({3, 2});
  init::constant(x, 2.5);
  CHECK(x.to_vector<double>() == std::vector<double>(6, 2.5));
  init::ones(x);
  CHECK(x.to_vector<double>() == std::vector<double>(6, 1));
  init::zeros(x);
  CHECK(x.to_vector<double>() == std::vector<double>(6, 0));
  const Tensor y = empty({20000});
  init::normal(y, 1, 2);
  CHECK(moments(y).mean == Approx(1).epsilon(0.05));
  init::uniform(y, 2, 4);
  CHECK(moments(y).mean == Approx(3).epsilon(0.01));
  CHECK_THROWS_AS(init::uniform(y, 1, 0), Error);
  CHECK_THROWS_AS(init::normal(y, 0, -1), Error);
}

TEST_CASE("a truncated normal distribution keeps its bounds and its shape") {
  const Tensor x = empty({50000}, {DType::f64});
  init::trunc_normal(x, 0, 1, -2, 2);
  Moments m = moments(x);
  CHECK((m.low >= -2 && m.low < -1.99 && m.high <= 2 && m.high > 1.99));
  CHECK(std::abs(m.mean) < 0.02);
  CHECK(m.std == Approx(0.8796256610342398).epsilon(0.02));  // scipy.stats.truncnorm(-2, 2).std()
  init::trunc_normal(x, 1, 0.5, 1, 9);                       // the upper half alone
  m = moments(x);
  CHECK(m.low >= 1);
  CHECK(m.mean == Approx(1 + 0.5 * 0.7978845608).epsilon(0.01));  // 1 + std * sqrt(2 / pi)
  init::trunc_normal(x, 0, 0.02);                                 // bounds a hundred deviations away
  CHECK(moments(x).std == Approx(0.02).epsilon(0.02));
  CHECK_THROWS_AS(init::trunc_normal(x, 0, 1, 2, -2), Error);
}

TEST_CASE("an orthogonal matrix times its transpose is gain^2 on the diagonal") {
  for (const Shape& shape : {Shape{6, 6}, Shape{4, 9}, Shape{9, 2, 2}}) {
    const Tensor x = empty(shape, {DType::f64});
    init::orthogonal(x, 3);
    const Tensor w = reshape(x, {shape[0], -1}), product = w.size(0) <= w.size(1) ? matmul(w, transpose(w)) : matmul(transpose(w), w);
    const int64_t n = product.size(0);
    std::vector<double> expected(size_t(n * n), 0);
    for (int64_t i = 0; i < n; ++i) expected[size_t(i * n + i)] = 9;
    CHECK(difference(product, tensor(expected, {n, n}), DType::f64) <= 1);
  }
  CHECK_THROWS_AS(init::orthogonal(empty({4})), Error);
}

TEST_CASE("an initialiser draws from the generator that it is given") {
  Generator a(3), b(3);
  const Tensor x = empty({10}), y = empty({10});
  init::normal(x, 0, 1, a);
  init::normal(y, 0, 1, b);
  CHECK(same_bits(x, y));
  init::normal(y, 0, 1, b);
  CHECK(!same_bits(x, y));
}

TEST_CASE("initialisers fill half types and parameters, and leave meta tensors alone") {
  const Parameter p(empty({200, 50}, {DType::bf16}));
  init::xavier_uniform(p);
  check_uniform(p, std::sqrt(6.0 / 250) * 1.004);
  CHECK(!p->grad());
  const Tensor m = empty({3, 3}, {.device = Device::meta()});
  CHECK_NOTHROW(init::orthogonal(m));
  CHECK_NOTHROW(init::trunc_normal(m));
}

TEST_CASE("gains by name know PyTorch's names, and no others") {
  for (const char* name : {"linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "sigmoid"})
    CHECK(init::calculate_gain(name) == 1);
  CHECK(init::calculate_gain("leaky_relu", 0.2) == Approx(1.3867504905630728));
  CHECK(init::calculate_gain("leaky_relu") == Approx(std::sqrt(2 / 1.0001)));
  CHECK(init::calculate_gain("selu") == 0.75);
  CHECK_THROWS_AS(init::calculate_gain("swish"), Error);
}

TEST_CASE("fans multiply a kernel's sizes, of any rank") {
  CHECK((init::fan_in(empty({7, 5})) == 5 && init::fan_out(empty({7, 5})) == 7));
  CHECK((init::fan_in(empty({7, 5, 3})) == 15 && init::fan_out(empty({7, 5, 3})) == 21));
  CHECK((init::fan_in(empty({7, 5, 3, 2, 4})) == 120 && init::fan_out(empty({7, 5, 3, 2, 4})) == 168));
}

TEST_CASE("eye and dirac pass their input on") {
  const Tensor x = empty({2, 3});
  init::eye(x);
  CHECK(x.to_vector<double>() == std::vector<double>{1, 0, 0, 0, 1, 0});
  CHECK_THROWS_AS(init::eye(empty({2, 2, 2})), Error);
  const Tensor w = empty({4, 2, 3});  // torch.nn.init.dirac_(w, 2)
  init::dirac(w, 2);
  std::vector<double> expected(24, 0);
  for (const size_t at : {1, 10, 13, 22}) expected[at] = 1;
  CHECK(w.to_vector<double>() == expected);
  const Tensor square = empty({3, 2, 3, 2});
  init::dirac(square);
  expected.assign(36, 0);
  for (const size_t at : {3, 21}) expected[at] = 1;
  CHECK(square.to_vector<double>() == expected);
  CHECK_THROWS_AS(init::dirac(empty({3, 2})), Error);
  CHECK_THROWS_AS(init::dirac(empty({3, 2, 1}), 2), Error);
}

TEST_CASE("sparse leaves equally many zeros in each column") {
  const Tensor x = empty({50, 40});
  init::sparse(x, 0.33, 0.1);
  for (const int64_t none : count_nonzero(eq(x, 0), {0}).to_vector<int64_t>()) CHECK(none == 17);
  CHECK(moments(x).std == Approx(0.1 * std::sqrt(0.66)).epsilon(0.1));
  CHECK_THROWS_AS(init::sparse(empty({3}), 0.5), Error);
}
