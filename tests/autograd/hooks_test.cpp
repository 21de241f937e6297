// Hooks of tensors and saved values, and the explanation of missing gradients.
#include "../catch.h"

using namespace retape;
using namespace retape::testing;
using Values = std::vector<double>;

TEST_CASE("a tensor hook sees the whole gradient once and may replace it", "[hooks]") {
  Tensor x = tensor<double>({1, 2}).set_requires_grad();
  const Tensor h = x * 3;
  std::vector<Values> seen;
  register_hook(h, [&](const Tensor& dy) { seen.push_back(dy.to_vector<double>()); });
  register_hook(h, [](const Tensor& dy) { return dy * 10; });
  auto handle = register_hook(h, [&](const Tensor& dy) { seen.push_back(dy.to_vector<double>()); });
  backward(sum(h * 2 + h), {.retain_graph = true});
  CHECK(seen == std::vector<Values>{{3, 3}, {30, 30}});
  CHECK(x.grad().to_vector<double>() == Values{90, 90});
  handle.remove();
  seen.clear();
  backward(sum(h));
  CHECK(seen == std::vector<Values>{{1, 1}});
}

TEST_CASE("a leaf's hook runs once a backward, before the gradient is added", "[hooks]") {
  Tensor x = tensor<double>({1, 2}).set_requires_grad();
  int calls = 0;
  register_hook(x, [&](const Tensor& dy) {
    ++calls;
    return dy * -1;
  });
  backward(sum(x * 2 + x * x));
  CHECK(calls == 1);
  CHECK(x.grad().to_vector<double>() == Values{-4, -6});
  backward(sum(x));
  CHECK(x.grad().to_vector<double>() == Values{-5, -7});
  CHECK(grad({sum(x * 5)}, {x})[0].to_vector<double>() == Values{-5, -5});
  CHECK(calls == 3);
}

TEST_CASE("a hook's work can be differentiated", "[hooks]") {
  Tensor x = tensor<double>({2}).set_requires_grad();
  const Tensor h = x * x;
  register_hook(h, [&](const Tensor& dy) { return dy * x; });
  const Tensor g = grad({sum(h)}, {x}, {.create_graph = true})[0];  // x * 2x
  CHECK(g.item() == 8);
  CHECK(grad({g}, {x})[0].item() == 8);  // 4x: the hook on h acts on the second derivative's way, too
}

TEST_CASE("hooks that change shape or dtype, and hooks on constants, are errors", "[hooks]") {
  Tensor x = tensor<double>({1, 2}).set_requires_grad();
  register_hook(x, [](const Tensor& dy) { return sum(dy); });
  CHECK_THAT(error_of([&] { backward(sum(x)); }), ContainsSubstring("a hook turned a gradient of f64 [2] into one of f64 []"));
  CHECK_FALSE(x.grad());
  CHECK_THAT(error_of([] { register_hook(zeros({1}), GradientHook{}); }), ContainsSubstring("wants no gradient"));
}

TEST_CASE("saved values go through pack and unpack, the innermost pair's", "[hooks]") {
  Tensor x = tensor<double>({1, 2}).set_requires_grad();
  std::vector<Values> packed;
  int unpacked = 0;
  Tensor y;
  {
    const SavedTensorHooks outer([](const Tensor&) -> std::any { throw Error("the outer pair"); },
                                 [](const std::any&) { return Tensor{}; });
    const SavedTensorHooks inner(
        [&](const Tensor& t) -> std::any {
          packed.push_back(t.to_vector<double>());
          return t.to_vector<double>();
        },
        [&](const std::any& v) {
          ++unpacked;
          return tensor(std::any_cast<Values>(v));
        });
    y = exp(x * x);  // mul saves both inputs, exp its output
  }
  CHECK(packed.size() == 3);
  CHECK(packed[0] == Values{1, 2});
  CHECK(packed[2] == y.to_vector<double>());
  CHECK(unpacked == 0);
  backward(sum(y), {.retain_graph = true});
  CHECK(unpacked == 3);
  const Values expected{2 * std::exp(1.0), 4 * std::exp(4.0)};
  CHECK(difference(x.grad(), tensor(expected), DType::f64) <= 1);
  // Second derivatives go through unpacked values, too: (2 + 4x^2) e^(x^2).
  const Tensor g = grad({sum(y)}, {x}, {.create_graph = true})[0];
  CHECK(difference(grad({sum(g)}, {x})[0], tensor<double>({6 * std::exp(1.0), 18 * std::exp(4.0)}), DType::f64) <= 1);
}

TEST_CASE("packing lets go of the value, and a wrong unpack is an error", "[hooks]") {
  Tensor x = tensor<double>({1, 2}).set_requires_grad();
  Tensor y, h = x + 1;
  {
    const SavedTensorHooks hooks([](const Tensor& t) -> std::any { return t.shape(); },
                                 [](const std::any&) { return zeros({3}, {DType::f64}); });
    y = square(h);
  }
  const Ref<Storage>& storage = h->storage;
  CHECK(storage->owners() == 1);
  CHECK_THAT(error_of([&] { backward(sum(y)); }), ContainsSubstring("square: an unpack hook gave f64 [3] for a saved value of f64 [2]"));
}

TEST_CASE("a missing gradient is explained", "[hooks]") {
  Tensor x = tensor<double>({1, 2}).set_requires_grad();
  CHECK_THAT(explain_grad(tensor<double>({1})), ContainsSubstring("frozen"));
  CHECK_THAT(explain_grad(arange(3)), ContainsSubstring("tensor of i64"));
  CHECK_THAT(explain_grad(x), ContainsSubstring("no recorded op has read it"));
  {
    const NoGrad off;
    x * 2;
  }
  CHECK_THAT(explain_grad(x), ContainsSubstring("no recorded op has read it"));
  const Tensor y = exp(x);
  CHECK_THAT(explain_grad(x), ContainsSubstring("exp was the last op to read it, but no backward has come there"));
  CHECK_THAT(explain_grad(y), ContainsSubstring("not a leaf: exp has made it"));
  backward(sum(div(tensor<double>({5, 5}).set_requires_grad(), x, Rounding::floor)));
  CHECK_THAT(explain_grad(x), ContainsSubstring("backward came as far as div, which passes no gradient on to it"));
  backward(sum(y));
  CHECK(explain_grad(x) == "it has a gradient of shape [2]");
}
