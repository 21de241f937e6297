// Every op of the table, checked in every way that a row allows.
#include "../op_cases.h"

using namespace retape;
using namespace retape::testing;

TEST_CASE("first derivatives agree with differences", "[ops]") {
  for (auto& c : op_cases()) {
    INFO(c.name);
    const auto result = gradcheck(c.f, draw(c));
    INFO(result.report);
    CHECK(result.passed);
  }
}

TEST_CASE("second derivatives agree with differences", "[ops]") {
  for (auto& c : op_cases()) {
    INFO(c.name);
    const auto result = gradgradcheck(c.f, draw(c));
    INFO(result.report);
    CHECK(result.passed);
  }
}

TEST_CASE("an op equals its composite", "[ops]") {
  int composites = 0;
  for (auto& c : op_cases()) {
    if (!c.composite) continue;
    INFO(c.name);
    const auto x = draw(c);
    CHECK(difference(c.f(x), c.composite(x), DType::f64) <= 1);
    ++composites;
  }
  CHECK(composites > 2);
}

TEST_CASE("replay gives the same bits as keeping everything", "[ops]") {
  for (auto& c : op_cases()) {
    INFO(c.name);
    std::vector<Tensor> grads[2];
    for (bool replay : {false, true}) {
      manual_seed(3);
      const auto x = draw(c, DType::f32);
      auto f = [&] { return sum(tanh(c.f(x))); };
      backward(replay ? checkpoint(f) : f());
      for (auto& t : x) grads[replay].push_back(t.grad());
    }
    for (size_t i = 0; i < grads[0].size(); ++i) {
      REQUIRE(bool(grads[0][i]) == bool(grads[1][i]));
      if (grads[0][i]) CHECK(same_bits(grads[0][i], grads[1][i]));
    }
  }
}

namespace {
// The same values in another memory layout.
Tensor stored_transposed(const Tensor& x) { return x.dim() < 2 ? x : transpose(clone(transpose(x, 0, -1)), 0, -1); }
Tensor sliced_out(const Tensor& x) {
  if (x.dim() == 0) return x;
  Shape shape = x.shape();
  for (int d = 0; d < x.dim(); ++d) shape[d] = shape[d] * 2 + 1;
  Tensor view = full(shape, 77, x.options());
  for (int d = 0; d < x.dim(); ++d) view = slice(view, d, 1, shape[d], 2);
  copy_into(x, view);
  return view;
}
}  // namespace

TEST_CASE("results do not depend on strides", "[ops]") {
  for (auto& c : op_cases()) {
    INFO(c.name);
    for (auto layout : {stored_transposed, sliced_out}) {
      std::vector<Tensor> plain, other;
      for (auto& t : draw(c)) {
        plain.push_back(Tensor(t.detach()).set_requires_grad());
        other.push_back(Tensor(layout(t.detach())).set_requires_grad());
      }
      manual_seed(3);
      const Tensor a = c.f(plain);
      manual_seed(3);
      const Tensor b = c.f(other);
      CHECK(difference(b, a, DType::f64) <= 1);
      backward(sum(a)), backward(sum(b));
      for (size_t i = 0; i < plain.size(); ++i)
        if (plain[i].grad()) CHECK(difference(other[i].grad(), plain[i].grad(), DType::f64) <= 1);
    }
  }
}

TEST_CASE("smaller floating types agree with f64", "[ops]") {
  for (auto& c : op_cases())
    for (DType dtype : {DType::f32, DType::f16, DType::bf16}) {
      if (dtype != DType::f32 && !c.half) continue;
      INFO(c.name << " " << name_of(dtype));
      std::vector<Tensor> low, high;
      for (auto& t : draw(c, dtype)) {
        low.push_back(t);
        high.push_back(cast(t.detach(), DType::f64).set_requires_grad());
      }
      manual_seed(3);
      const Tensor a = c.f(low);
      manual_seed(3);
      const Tensor b = c.f(high);
      CHECK(a.dtype() == dtype);
      CHECK(difference(a, b, dtype) <= 1);
      backward(sum(a)), backward(sum(b));
      for (size_t i = 0; i < low.size(); ++i)
        if (low[i].grad()) {
          CHECK(low[i].grad().dtype() == dtype);
          CHECK(difference(low[i].grad(), high[i].grad(), dtype) <= 4);  // a gradient rounds at several places
        }
    }
}

TEST_CASE("ops on meta tensors give shapes and dtypes only", "[ops]") {
  for (auto& c : op_cases()) {
    INFO(c.name);
    std::vector<Tensor> real = draw(c), meta;
    for (auto& t : real) meta.push_back(empty(t.shape(), {t.dtype(), Device::meta()}).set_requires_grad());
    const Tensor a = c.f(real), b = c.f(meta);
    CHECK(b.device().is_meta());
    CHECK((a.shape() == b.shape() && a.dtype() == b.dtype()));
    backward(sum(b));
    for (auto& t : meta)
      if (t.grad()) CHECK(t.grad().shape() == t.shape());
  }
}

TEST_CASE("elementwise ops and sums take empty tensors", "[ops]") {
  Tensor x = zeros({0, 3}).set_requires_grad();
  backward(sum(gelu(x * 2 + x)));
  CHECK(x.grad().shape() == Shape{0, 3});
  CHECK(sum(x).item() == 0);
  CHECK(matmul(zeros({2, 0}), zeros({0, 3})).to_vector<float>() == std::vector<float>(6, 0));
}

// A product with one row or column goes through kernels of its own, by how the matrix lies in memory.
TEST_CASE("matrices times vectors agree with products in f64", "[matmul]") {
  for (const DType dtype : {DType::f64, DType::f32, DType::f16, DType::bf16})
    for (const int64_t n : {5, 67, 1030})
      for (const bool transposed : {false, true}) {
        INFO(name_of(dtype) << ", " << n << (transposed ? ", transposed" : ""));
        const int64_t k = 259;
        const Tensor a = values({n, k}, -1, 1, 1, dtype), x = values({k}, -1, 1, 2, dtype), bias = values({n}, -1, 1, 3, dtype);
        const Tensor matrix = transposed ? transpose(contiguous(transpose(a))) : a;  // the same values, by columns
        const Tensor exact = sum(cast(a, DType::f64) * cast(x, DType::f64), {1});
        const double size = dtype == DType::f32 ? 2 : 1;  // sums of 259 products, compared relative to 1 + their value
        CHECK(difference(matmul(matrix, x), exact, dtype) <= size);
        CHECK(difference(matmul(x, transpose(matrix)), exact, dtype) <= size);
        CHECK(difference(linear(unsqueeze(x, 0), matrix, bias), unsqueeze(exact + cast(bias, DType::f64), 0), dtype) <= size);
        const Tensor many = values({2, n, k}, -1, 1, 4, dtype), vectors = values({2, k, 1}, -1, 1, 5, dtype);
        const Tensor products = sum(cast(many, DType::f64) * transpose(cast(vectors, DType::f64)), {2}, true);
        CHECK(difference(matmul(many, vectors), products, dtype) <= size);
        CHECK(difference(matmul(transpose(vectors), transpose(many)), transpose(products), dtype) <= size);
        CHECK(difference(matmul(slice(matrix, 1, 0, k, 2), slice(x, 0, 0, k, 2)),
                         sum(slice(cast(a, DType::f64), 1, 0, k, 2) * slice(cast(x, DType::f64), 0, 0, k, 2), {1}), dtype) <= size);
      }
}
