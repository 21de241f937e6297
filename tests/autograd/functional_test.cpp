// Products with Jacobians and Hessians, the matrices themselves, and two trainings that need second derivatives.
#include "../catch.h"

using namespace retape;
using namespace retape::testing;

namespace {
Tensor f(const std::vector<Tensor>& x) { return tanh(matmul(x[0], square(x[1]))); }
Tensor g(const std::vector<Tensor>& x) { return sum(x[0] * x[0] * x[1]); }
}  // namespace

TEST_CASE("jacobian, vjp and jvp agree with each other", "[functional]") {
  const Tensor a = values({2, 3}), b = values({3}, 0.5, 1, 2), v = values({2}, -1, 1, 3), da = values({2, 3}, -1, 1, 4),
               db = values({3}, -1, 1, 5);
  const auto j = jacobian(f, {a, b});
  REQUIRE(j[0].shape() == Shape{2, 2, 3});
  REQUIRE(j[1].shape() == Shape{2, 3});
  const auto left = vjp(f, {a, b}, v);
  CHECK(difference(left.products[0], sum(reshape(v, {2, 1, 1}) * j[0], {0}), DType::f64) <= 1);
  CHECK(difference(left.products[1], matmul(v, j[1]), DType::f64) <= 1);
  CHECK(difference(left.output, f({a, b}), DType::f64) <= 1);
  const auto right = jvp(f, {a, b}, {da, db});
  CHECK(difference(right.products[0], sum(j[0] * da, {1, 2}) + matmul(j[1], db), DType::f64) <= 1);
  // Against a difference.
  const Tensor step = (f({a + da * 1e-6, b + db * 1e-6}) - f({a - da * 1e-6, b - db * 1e-6})) * 0.5e6;
  CHECK(allclose(right.products[0], step, 1e-6, 1e-8));
  CHECK(jacobian([](const Tensor& x) { return sum(x * x); }, a).shape() == a.shape());
}

TEST_CASE("hessian and hvp agree with the formula", "[functional]") {
  const Tensor a = values({3}), b = values({3}, 0.5, 1, 2), u = values({3}, -1, 1, 3), w = values({3}, -1, 1, 4);
  const auto h = hessian(g, {a, b});  // of a^2 b: diagonals 2 b, 2 a, 0
  CHECK(difference(h[0][0], eye(3, {DType::f64}) * (2 * b), DType::f64) <= 1);
  CHECK(difference(h[0][1], eye(3, {DType::f64}) * (2 * a), DType::f64) <= 1);
  CHECK(difference(h[1][1], zeros({3, 3}), DType::f64) <= 1);
  const auto product = hvp(g, {a, b}, {u, w});
  CHECK(difference(product.products[0], 2 * b * u + 2 * a * w, DType::f64) <= 1);
  CHECK(difference(product.products[1], 2 * a * u, DType::f64) <= 1);
  CHECK(difference(hessian([](const Tensor& x) { return sum(x * x * x); }, a), eye(3, {DType::f64}) * (6 * a), DType::f64) <= 1);
  CHECK(hvp([](auto& x) { return sum(x[0]); }, {a}, {u}).products[0].to_vector<double>() == std::vector<double>(3, 0));
}

TEST_CASE("a result with a graph can be differentiated further, and inputs keep their leaves", "[functional]") {
  Tensor x = tensor<double>({2}).set_requires_grad();
  const Tensor j = jacobian([](const Tensor& t) { return t * t * t; }, x, {.create_graph = true});
  backward(sum(j));
  CHECK(x.grad().item() == 12);
  const Tensor p = jvp([](auto& t) { return t[0] * t[0] * t[0]; }, {x}, {tensor<double>({1})}, {.create_graph = true}).products[0];
  CHECK(grad({sum(p)}, {x})[0].item() == 12);
}

TEST_CASE("derivatives of functions refuse what does not fit", "[functional]") {
  const Tensor a = values({3});
  CHECK_THAT(error_of([&] { vjp([](auto& x) { return sum(x[0]); }, {a}, a); }),
             ContainsSubstring("vjp: v has shape [3] where [] is needed"));
  CHECK_THAT(error_of([&] { jvp(g, {a, a}, {a}); }), ContainsSubstring("jvp: v has 1 tensors for 2 inputs"));
  CHECK_THAT(error_of([&] { hessian([](const Tensor& x) { return x * x; }, a); }), ContainsSubstring("must give one number"));
  CHECK_THAT(error_of([&] { jacobian([](const Tensor& x) { return x; }, arange(3)); }), ContainsSubstring("must be a floating tensor"));
}

namespace {
struct Net : nn::Module {
  nn::Linear in, out;
  Net(int64_t inputs, int64_t outputs) : in(inputs, 32), out(32, outputs) {}
  Tensor forward(const Tensor& x) { return out(tanh(in(x))); }
  RETAPE_FIELDS(in, out)
};
}  // namespace

TEST_CASE("a gradient penalty holds the slope of a critic near 1", "[functional]") {
  manual_seed(1);
  Net critic(2, 1);
  AdamW optimizer(critic.parameters(), {.lr = 1e-2, .weight_decay = 0});
  double first = 0, last = 0;
  for (int step = 0; step < 150; ++step) {
    Tensor x = randn({64, 2});
    x.set_requires_grad();
    const Tensor slope = grad({sum(critic(x))}, {x}, {.create_graph = true})[0];
    const Tensor penalty = mean(square(norm(slope, 2, {1}) - 1));
    optimizer.zero_grad();
    backward(penalty);
    optimizer.step();
    (step ? last : first) = penalty.item();
  }
  CHECK(first > 0.2);
  CHECK(last < 0.02);
}

TEST_CASE("sliced score matching finds the score of a normal distribution", "[functional]") {
  manual_seed(2);
  Net score(2, 2);  // learns -(x - mean) / variance from samples alone (Song et al. 2019)
  AdamW optimizer(score.parameters(), {.lr = 1e-2, .weight_decay = 0});
  const Tensor center = tensor<float>({0.5, -1});
  for (int step = 0; step < 300; ++step) {
    Tensor x = randn({128, 2}) * 0.7 + center;
    x.set_requires_grad();
    const Tensor v = randn({128, 2}), s = score(x), along = sum(s * v, {1});
    const Tensor curvature = sum(grad({sum(along)}, {x}, {.create_graph = true})[0] * v, {1});
    optimizer.zero_grad();
    backward(mean(curvature + 0.5 * square(along)));
    optimizer.step();
  }
  const Tensor x = randn({256, 2}) * 0.7 + center, wanted = (center - x) / 0.49;
  CHECK(mean(square(score(x) - wanted)).item() < 0.3);
  CHECK(mean(square(wanted)).item() > 1.5);
}
