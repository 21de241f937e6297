// What the tape promises: what is kept, what is an error.
#include <thread>

#include "../counted.h"

using namespace retape;
using namespace retape::testing;

TEST_CASE("values on the tape are freed with the graph", "[tape]") {
  const Tensor w = leaf({width});
  const int64_t before = live(), unit = one_value();
  {
    Tensor h = w;
    for (int i = 0; i < 10; ++i) h = tanh(h);
    CHECK(live() - before == 10 * unit);
  }
  CHECK(live() == before);
}

TEST_CASE("a chain of a million ops builds, runs backward and frees", "[tape]") {
  const Tensor w = leaf({4});
  Tensor h = w;
  for (int i = 0; i < 1'000'000; ++i) h = tanh(h);
  h = w;
  for (int i = 0; i < 1'000'000; ++i) h = h + w;
  backward(sum(h));
  CHECK(w.grad().to_vector<double>() == std::vector<double>(4, 1'000'001));
}

TEST_CASE("backward adds to gradients, and two leaves never share one", "[tape]") {
  const Tensor a = leaf({3}), b = leaf({3});
  backward(sum(a + b));
  CHECK_FALSE(a.grad().shares_storage(b.grad()));
  CHECK(a.grad().is_contiguous());
  backward(sum(a + b));
  CHECK(a.grad().to_vector<double>() == std::vector<double>(3, 2));
}

TEST_CASE("backward twice needs retain_graph and then doubles, also through a checkpoint", "[tape]") {
  for (bool replay : {false, true}) {
    const Tensor w = leaf({width});
    auto f = [&] { return sum(tanh(w * w)); };
    const Tensor y = replay ? checkpoint(f) : f();
    backward(y, {.retain_graph = true});
    const Tensor once = clone(w.grad());
    backward(y, {.retain_graph = true});
    CHECK(same_bits(w.grad(), once + once));
    backward(y);
    CHECK_THROWS_WITH(backward(y), ContainsSubstring("backward has passed here and freed it; keep it with retain_graph"));
  }
}

TEST_CASE("backward of a value without history is an error", "[tape]") {
  CHECK_THROWS_WITH(backward(ones({2})), ContainsSubstring("has no history"));
  const Tensor w = leaf({2});
  const NoGrad off;
  CHECK_THROWS_WITH(backward(w * 2), ContainsSubstring("has no history"));
}

TEST_CASE("dy of another shape is an error", "[tape]") {
  CHECK_THROWS_WITH(backward(leaf({2, 3}) * 2, {}, ones({3})), ContainsSubstring("dy has shape [3], but y has shape [2, 3]"));
}

TEST_CASE("a saved value that is edited in place is an error, also when only a replay reads it", "[tape]") {
  for (bool replay : {false, true}) {
    const Tensor w = leaf({width}), x = leaf({width}, -1, 1, 2);
    auto f = [&] { return tanh(sin(x) * w); };
    const Tensor y = replay ? checkpoint(f) : f();
    w.detach().mutable_data<double>()[0] = 5;  // through a detached view: the counter is in the storage
    CHECK_THROWS_WITH(backward(sum(y)), ContainsSubstring("mul: a value that it saved for backward was changed in place"));
  }
}

TEST_CASE("editing a value that nothing saved is fine", "[tape]") {
  const Tensor w = leaf({4});
  const Tensor y = sum(w + w);
  w.detach().mutable_data<double>()[0] = 5;
  backward(y);
  CHECK(w.grad().to_vector<double>() == std::vector<double>(4, 2));
}

TEST_CASE("a frozen weight keeps no activation alive", "[tape]") {
  const Tensor frozen = values({30, 30}), x = leaf({30, 30});
  Tensor h = tanh(x);
  const int64_t before = live();
  Tensor y = matmul(h, frozen);
  const int64_t unit = live() - before;
  h = {};
  y = y + y;
  CHECK(live() - before == unit);  // tanh keeps its output for itself; matmul added nothing but its result
}

TEST_CASE("+= rebinds the handle and leaves the old value to others", "[tape]") {
  Tensor x = ones({2});
  const Tensor old = x;
  x += 1;
  CHECK(old.to_vector<float>() == std::vector<float>{1, 1});
  CHECK(x.to_vector<float>() == std::vector<float>{2, 2});
}

TEST_CASE("grad gives undefined for an input that does not matter", "[tape]") {
  const Tensor a = leaf({2}), b = leaf({2});
  const auto g = grad({sum(a * a)}, {a, b});
  CHECK(g[0]);
  CHECK_FALSE(g[1]);
  CHECK_FALSE(a.grad());
}

TEST_CASE("grad with respect to a value inside the graph", "[tape]") {
  const Tensor a = leaf({2});
  const Tensor h = a * a, y = sum(h * h);
  CHECK(difference(grad({y}, {h})[0], h * 2, DType::f64) <= 1);
}

// ---- ops ------------------------------------------------------------------------------------------------------------

namespace {
struct Halves {  // two outputs, one optional input, a list
  static constexpr auto name = "halves";
  std::vector<Tensor> forward(const std::vector<Tensor>& xs, const Tensor& extra) {
    Tensor total = xs[0];
    for (size_t i = 1; i < xs.size(); ++i) total = total + xs[i];
    if (extra) total = total + extra;
    return split(clone(total), total.size(0) / 2);
  }
  std::vector<Tensor> composite(const std::vector<Tensor>& xs, const Tensor& extra) {
    Tensor total = xs[0];
    for (size_t i = 1; i < xs.size(); ++i) total = total + xs[i];
    if (extra) total = total + extra;
    return split(total, total.size(0) / 2);
  }
};
struct MeanAndSquare {  // the second output has no gradient
  static constexpr auto name = "mean_and_square";
  static constexpr int differentiable = 1;
  Shape shape = {};
  std::array<Tensor, 2> forward(const Tensor& x) {
    shape = x.shape();
    return {mean(x), square(x)};
  }
  void backward(const std::vector<Tensor>& dy, Grads& dx) { dx.set(0, expand(dy[0] / double(shape.numel()), shape)); }
};
struct Naked {  // its backward calls a kernel directly
  static constexpr auto name = "naked";
  Saved x = {};
  Tensor forward(const Tensor& in) {
    x = save(in);
    return exp(in);
  }
  void backward(const Tensor& dy, Grads& dx) {
    Tensor d = empty_like(dy);
    RETAPE_DISPATCH(dy.device(), unary_backward(UnaryKind::sin, dy, *x, d));
    dx.set(0, d);
  }
};
struct Private {  // its backward hands a private value to another op
  static constexpr auto name = "private";
  Saved e = {};
  Tensor forward(const Tensor& x) {
    e = save(exp(x));
    return clone(x);
  }
  void backward(const Tensor& dy, Grads& dx) { dx.set(0, dy * *e); }
};
struct Forgetful {
  static constexpr auto name = "forgetful";
  Tensor forward(const Tensor& x) { return clone(x); }
  void backward(const Tensor&, Grads&) {}
};
struct WrongShape {
  static constexpr auto name = "wrong_shape";
  Tensor forward(const Tensor& x) { return clone(x); }
  void backward(const Tensor&, Grads& dx) { dx.set(0, ones({7})); }
};
struct Drawing {
  static constexpr auto name = "drawing";
  Tensor forward(const Tensor& x) { return x * rand(x.shape()); }
  void backward(const Tensor& dy, Grads& dx) { dx.set(0, dy); }
};
}  // namespace

TEST_CASE("an op may take a list and an optional input and give several outputs", "[tape]") {
  const std::vector<Tensor> x{leaf({4}), leaf({4}, -1, 1, 2), leaf({4}, -1, 1, 3)};
  auto f = [](const std::vector<Tensor>& v) {
    auto with = record(Halves{}, std::vector<Tensor>{v[0], v[1], v[0]}, v[2]),
         without = record(Halves{}, std::vector<Tensor>{v[1]}, Tensor{});
    return tanh(with[0]) * with[1] + without[1];  // without[0] is not used
  };
  CHECK(gradcheck(f, x));
  CHECK(gradgradcheck(f, x));
}

TEST_CASE("an output without gradient wants none", "[tape]") {
  const Tensor x = leaf({4});
  const auto [m, s] = record(MeanAndSquare{}, x);
  CHECK(m.requires_grad());
  CHECK_FALSE(s.requires_grad());
  backward(m);
  CHECK(x.grad().to_vector<double>() == std::vector<double>(4, 0.25));
}

TEST_CASE("integer inputs never want a gradient", "[tape]") {
  CHECK_THROWS_WITH(arange(3).set_requires_grad(), ContainsSubstring("only floating tensors"));
  const Tensor w = leaf({3});
  CHECK_FALSE(cast(w, DType::i64).requires_grad());
}

TEST_CASE("a second derivative is never cut silently", "[tape]") {
  const Tensor x = leaf({1, 3});
  CHECK_THROWS_WITH(grad({sum(record(Naked{}, x))}, {x}, {.create_graph = true}),
                    ContainsSubstring("unary_backward: a backward calls this kernel directly"));
  CHECK_NOTHROW(grad({sum(record(Naked{}, x))}, {x}));
  CHECK_THROWS_WITH(grad({sum(record(Private{}, x))}, {x}, {.create_graph = true}),
                    ContainsSubstring("private: its backward gives a private saved value to mul"));
}

TEST_CASE("mistakes of an op's author are named", "[tape]") {
  const Tensor x = leaf({2});
  CHECK_THROWS_WITH(backward(sum(record(Forgetful{}, x))), ContainsSubstring("forgetful: backward set no gradient for input 0"));
  CHECK_THROWS_WITH(backward(sum(record(WrongShape{}, x))),
                    ContainsSubstring("wrong_shape: backward gave a gradient of shape [7] for input 0 of shape [2]"));
  CHECK_THROWS_WITH(record(Drawing{}, x), ContainsSubstring("drawn inside an op's forward"));
  CHECK_THROWS_WITH(*Saved{}, ContainsSubstring("can be read in backward only"));
}

TEST_CASE("a third derivative goes through composites or is an error", "[tape]") {
  const Tensor x = leaf({3});
  auto third = [&](auto f) {
    Tensor y = sum(f(x));
    for (int i = 0; i < 3; ++i) y = sum(grad({y}, {x}, {.create_graph = i < 2})[0]);
    return y;
  };
  CHECK(difference(third([](const Tensor& t) { return t * t * t; }), full({}, 18, {DType::f64}), DType::f64) <= 1);
  CHECK_THROWS_WITH(third([](const Tensor& t) { return gelu(t); }), ContainsSubstring("gelu: third derivatives are not provided"));
}

TEST_CASE("threads that share weights build and differentiate their own graphs", "[tape]") {
  const Tensor w = leaf({width});
  auto work = [&](bool replay) {
    for (int i = 0; i < 20; ++i) {
      auto f = [&] {
        Tensor h = tanh(w * w);
        for (int k = 0; k < 10; ++k) h = sin(h * w);
        return sum(h);
      };
      backward(replay ? checkpoint(f) : f());
    }
  };
  std::thread a(work, false), b(work, true);
  a.join(), b.join();
  const Tensor both = clone(w.grad());
  w.set_grad({});
  work(false), work(false);
  CHECK(difference(both, w.grad(), DType::f64) <= 1);
}

TEST_CASE("threads draw from one generator, hook their own graphs and free each other's tensors", "[tape]") {
  Generator generator(1);
  Tensor shared = values({64}, -1, 1, 1, DType::f32);
  shared.set_requires_grad();
  std::vector<Tensor> made(4);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < made.size(); ++i)
    threads.emplace_back([&, i] {
      for (int k = 0; k < 20; ++k) {
        const Tensor x = uniform({64}, -1, 1, {}, generator), y = tanh(x * shared);
        double seen = 0;
        register_hook(y, [&](const Tensor& dy) { seen = sum(dy).item(); });
        backward(sum(y));
        if (seen != 64) return;
        made[i] = y.detach();
      }
    });
  for (auto& t : threads) t.join();
  for (auto& t : made) {
    CHECK(bool(t));
    t = {};
  }
  CHECK(generator.state().offset == 4 * 20 * 16);
}

namespace {
struct SquareOfTanh {  // forward calls ops that save; the derivative is the composite's
  static constexpr auto name = "square_of_tanh";
  Tensor forward(const Tensor& x) { return square(tanh(x)); }
  Tensor composite(const Tensor& x) { return square(tanh(x)); }
};
}  // namespace

TEST_CASE("what ops inside a forward save belongs to nobody", "[tape]") {
  const auto f = [](const std::vector<Tensor>& x) { return record(SquareOfTanh{}, x[0]); };
  const Tensor x = leaf({3});
  CHECK(gradcheck(f, {x}).passed);
  CHECK(gradgradcheck(f, {x}).passed);
  const Tensor y = f({x});
  CHECK(node_of(y->producer)->saved.size() == 1);
}
