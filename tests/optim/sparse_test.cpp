// Gradients of some rows: what embedding(..., sparse) leaves, and the optimizers that take it.
#include <retape/retape.h>

#include <tests/catch.h>

using namespace retape;
using namespace retape::testing;

namespace {

bool has(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

Tensor leaf(int64_t rows = 6, DType dtype = DType::f64) {
  Generator generator(3);
  Tensor w = randn({rows, 3}, {dtype}, generator);
  return w.set_requires_grad();
}
const Tensor ids = tensor(std::vector<int64_t>{4, 1, 4, 0, 1, 1}, {2, 3});

Tensor loss_of(const Tensor& w, bool sparse, int64_t padding_idx = -1) {
  const Tensor x = embedding(w, ids, padding_idx, sparse);
  return sum(x * x * tensor(std::vector<double>{1, 2, 3, 4, 5, 6}, {2, 3, 1}));
}

}  // namespace

TEST_CASE("a sparse gradient has the rows that were read, once each", "[autograd]") {
  const Tensor w = leaf(), dense = leaf();
  const int64_t padding_idx = GENERATE(-1, 4);
  backward(loss_of(w, true, padding_idx));
  backward(loss_of(dense, false, padding_idx));
  CHECK_FALSE(w.grad());
  const auto rows = sparse_grad(w);
  REQUIRE(rows);
  CHECK(rows->ids.to_vector<int64_t>() == (padding_idx < 0 ? std::vector<int64_t>{0, 1, 4} : std::vector<int64_t>{0, 1}));
  CHECK(rows->shape == w.shape());
  CHECK(difference(to_dense(*rows), dense.grad(), DType::f64) <= 1);
  backward(loss_of(w, true, padding_idx));  // adds up
  CHECK(difference(to_dense(*sparse_grad(w)), dense.grad() * 2, DType::f64) <= 1);
  w.set_grad({});
  CHECK_FALSE(sparse_grad(w));
}

TEST_CASE("where a leaf has both, or somebody looks, the gradient is dense", "[autograd]") {
  const Tensor dense = leaf();
  backward(loss_of(dense, false) + sum(dense));
  SECTION("sparse first") {
    const Tensor w = leaf();
    backward(loss_of(w, true));
    backward(sum(w));
    CHECK_FALSE(sparse_grad(w));
    CHECK(difference(w.grad(), dense.grad(), DType::f64) <= 1);
  }
  SECTION("dense first") {
    const Tensor w = leaf();
    backward(sum(w));
    backward(loss_of(w, true));
    CHECK_FALSE(sparse_grad(w));
    CHECK(difference(w.grad(), dense.grad(), DType::f64) <= 1);
  }
  SECTION("in one pass") {
    const Tensor w = leaf();
    backward(loss_of(w, true) + sum(w));
    CHECK(difference(w.grad(), dense.grad(), DType::f64) <= 1);
  }
  SECTION("grad(), hooks, and a weight that an op has made") {
    const Tensor w = leaf(), only = leaf();
    backward(loss_of(only, false));
    CHECK(difference(grad({loss_of(w, true)}, {w})[0], only.grad(), DType::f64) <= 1);
    int calls = 0;
    register_hook(w, [&](const Tensor& g) {
      ++calls;
      CHECK(g.shape() == w.shape());
      return g;
    });
    backward(loss_of(w, true));
    CHECK(calls == 1);
    CHECK(difference(w.grad(), only.grad(), DType::f64) <= 1);
    const Tensor base = leaf();
    backward(loss_of(base * 1, true));
    CHECK(difference(base.grad(), only.grad(), DType::f64) <= 1);
  }
}

TEST_CASE("second derivatives go through a sparse embedding", "[autograd]") {
  const auto result = gradgradcheck([](const std::vector<Tensor>& x) { return loss_of(x[0], true); }, {leaf()});
  INFO(result.report);
  CHECK(result.passed);
}

TEST_CASE("coalesce adds what a row has several times", "[autograd]") {
  const SparseRows rows{tensor(std::vector<int64_t>{2, 0, 2}), tensor(std::vector<double>{1, 2, 10, 20, 100, 200}, {3, 2}), Shape{4, 2}};
  const SparseRows once = coalesce(rows);
  CHECK(once.ids.to_vector<int64_t>() == std::vector<int64_t>{0, 2});
  CHECK(once.values.to_vector<double>() == std::vector<double>{10, 20, 101, 202});
  CHECK(to_dense(rows).to_vector<double>() == std::vector<double>{10, 20, 0, 0, 101, 202, 0, 0});
  const Tensor w = zeros({4, 2}, {DType::f64});
  set_sparse_grad(w, rows);
  CHECK(sparse_grad(w)->ids.numel() == 2);
  CHECK(has(error_of([&] { set_sparse_grad(zeros({4, 3}, {DType::f64}), rows); }), "do not fit a tensor of shape"));
  CHECK(has(error_of([&] { set_sparse_grad(zeros({4, 2}), rows); }), "do not fit"));
}

TEMPLATE_TEST_CASE("an optimizer steps on rows as on the dense gradient, where rows without one stay", "[optim]", SGD, Adagrad) {
  // Without momentum and decay a zero gradient changes nothing, so that both are equal.
  const Tensor w = leaf(), dense = leaf();
  TestType sparse_optimizer({w}, {.lr = 0.1}), dense_optimizer({dense}, {.lr = 0.1});
  for (int step = 0; step < 3; ++step) {
    sparse_optimizer.zero_grad(), dense_optimizer.zero_grad();
    backward(loss_of(w, true));
    backward(loss_of(dense, false));
    REQUIRE(sparse_grad(w));
    sparse_optimizer.step(), dense_optimizer.step();
    CHECK(difference(w.detach(), dense.detach(), DType::f64) <= 1);
  }
  const auto a = sparse_optimizer.state_dict(), b = dense_optimizer.state_dict();
  REQUIRE(a.size() == b.size());
  for (size_t i = 0; i < a.size(); ++i) CHECK(difference(a[i].second, b[i].second, DType::f64) <= 1);
}

TEST_CASE("SparseAdam changes moments of the rows that have a gradient only", "[optim]") {
  // torch.optim.SparseAdam(lr=0.1), w = 1 to 6 in 3 rows of 2, three steps with rows (0, 2), (2), (0) of gradients 0.5, -1, 2.
  Tensor w = tensor(std::vector<double>{1, 2, 3, 4, 5, 6}, {3, 2}).set_requires_grad();
  SparseAdam optimizer({w}, {.lr = 0.1});
  const auto step = [&](std::vector<int64_t> rows, double g) {
    const int64_t n = int64_t(rows.size());
    set_sparse_grad(w, SparseRows{tensor(rows), full({n, 2}, g, {DType::f64}), w.shape()});
    optimizer.step();
  };
  step({0, 2}, 0.5), step({2}, -1), step({0}, 2);
  const auto got = w.to_vector<double>();
  // The same by hand, from the formulas.
  const auto by_hand = [](double x, const std::vector<std::pair<int, double>>& steps) {
    double m = 0, v = 0;
    for (auto& [t, g] : steps) {
      m = 0.9 * m + 0.1 * g, v = 0.999 * v + 0.001 * g * g;
      x -= 0.1 * std::sqrt(1 - std::pow(0.999, t)) / (1 - std::pow(0.9, t)) * m / (std::sqrt(v) + 1e-8);
    }
    return x;
  };
  CHECK(std::abs(got[0] - by_hand(1, {{1, 0.5}, {3, 2}})) < 1e-12);
  CHECK(got[2] == 3);
  CHECK(std::abs(got[5] - by_hand(6, {{1, 0.5}, {2, -1}})) < 1e-12);
}

TEST_CASE("Adagrad is PyTorch's", "[optim]") {
  // torch.optim.Adagrad(lr=0.5, lr_decay=0.1, weight_decay=0.01, initial_accumulator_value=0.2), gradient 3 * w, by hand:
  Tensor w = tensor(std::vector<double>{1, -2}).set_requires_grad();
  Adagrad optimizer({w}, {.lr = 0.5, .lr_decay = 0.1, .weight_decay = 0.01, .initial_accumulator_value = 0.2});
  std::vector<double> x{1, -2}, total{0.2, 0.2};
  for (int t = 0; t < 4; ++t) {
    optimizer.zero_grad();
    backward(sum(w * w) * 1.5);
    optimizer.step();
    for (size_t i = 0; i < 2; ++i) {
      const double g = 3 * x[i] + 0.01 * x[i];
      total[i] += g * g;
      x[i] -= 0.5 / (1 + 0.1 * t) * g / (std::sqrt(total[i]) + 1e-10);
    }
  }
  CHECK(difference(w.detach(), tensor(x), DType::f64) <= 1);
  CHECK(has(error_of([&] { Adagrad({w}, {.lr_decay = -1}); }), "lr_decay -1"));
}

TEST_CASE("an optimizer that cannot step on rows says so, and which can", "[optim]") {
  const Tensor w = leaf();
  backward(loss_of(w, true));
  const auto refused = [&](Optimizer&& optimizer) { return error_of([&] { optimizer.step(); }); };
  CHECK(has(refused(AdamW({w})), "3 of its rows, which adamw in any form cannot take; use SGD without momentum"));
  CHECK(has(refused(SGD({w}, {.momentum = 0.9})), "with momentum"));
  CHECK(has(refused(SGD({w}, {.weight_decay = 0.1})), "with weight_decay"));
  CHECK(has(refused(Adagrad({w}, {.weight_decay = 0.1})), "with weight_decay"));
  const Tensor dense = leaf();
  backward(sum(dense));
  CHECK(has(refused(SparseAdam({dense})), "is dense; use Adam"));
}

TEST_CASE("clipping and loss scaling see sparse gradients", "[optim]") {
  const Tensor w = leaf(6, DType::f32), dense = leaf(6, DType::f32);
  const auto loss = [](const Tensor& x, bool sparse) { return sum(embedding(x, ids, -1, sparse)) * 3; };
  backward(loss(w, true));
  backward(loss(dense, false));
  CHECK(std::abs(clip_grad_norm({w}, 1).item() - clip_grad_norm({dense}, 1).item()) < 1e-5);
  CHECK(difference(to_dense(*sparse_grad(w)), dense.grad(), DType::f32) <= 1);

  SGD optimizer({w}, {.lr = 0.1}), reference({dense}, {.lr = 0.1});
  GradScaler scaler({.init_scale = 1024});
  optimizer.zero_grad(), reference.zero_grad();
  backward(scaler.scale(loss(w, true)));
  scaler.step(optimizer);
  scaler.update();
  backward(loss(dense, false));
  reference.step();
  CHECK(difference(w.detach(), dense.detach(), DType::f32) <= 1);
}
