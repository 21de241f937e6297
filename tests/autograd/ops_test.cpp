// Every op of the table, checked in every way that a row allows.
#include <cctype>
#include <map>
#include <set>

#include "../op_cases.h"
#include "../policies.h"

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
    if (!c.second) continue;
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

TEST_CASE("gradients are the same bits under every policy that saves memory", "[ops][replay]") {
  for (auto& c : op_cases()) {
    const auto gradients = [&](const Policy& policy) {
      manual_seed(3);
      const auto x = draw(c, DType::f32);
      policy.differentiate([&] { return sum(tanh(c.f(x))); });
      std::vector<Tensor> grads;
      for (auto& t : x) grads.push_back(t.grad());
      return grads;
    };
    const auto plain = gradients(keep_everything);
    for (auto& policy : lossless_policies()) {
      INFO(c.name << ", " << policy.name);
      const auto grads = gradients(policy);
      for (size_t i = 0; i < grads.size(); ++i) {
        REQUIRE(bool(grads[i]) == bool(plain[i]));
        if (grads[i]) CHECK(same_bits(grads[i], plain[i]));
      }
    }
  }
}

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

namespace {

// The row's inputs with every dim of size `from` changed to `to`: equal sizes stay equal, so that operands still fit.
OpCase resized(OpCase c, int64_t from, int64_t to) {
  for (auto& input : c.inputs)
    for (int d = 0; d < input.shape.rank(); ++d)
      if (input.shape[d] == from) input.shape[d] = to;
  return c;
}
std::set<int64_t> sizes_of(const OpCase& c) {
  std::set<int64_t> sizes;
  for (auto& input : c.inputs)
    for (int64_t n : input.shape) sizes.insert(n);
  return sizes;
}
// An error starts with the name of what threw it.
bool names_an_op(const std::string& message) {
  const size_t end = message.find(": ");
  return end != std::string::npos && end > 0 &&
         std::all_of(message.begin(), message.begin() + long(end), [](char c) { return std::islower(c) || std::isdigit(c) || c == '_'; });
}
std::vector<Tensor> draw_integers(const OpCase& c, DType dtype) {
  std::vector<Tensor> x;
  for (size_t i = 0; i < c.inputs.size(); ++i)
    x.push_back(cast(floor(values(c.inputs[i].shape, dtype == DType::boolean ? 0 : 1, dtype == DType::boolean ? 2 : 4, i + 1)), dtype));
  return x;
}
// What `exact` is when stored as dtype: sums of u8 wrap around, as do differences; of bools, anything but 0 is true.
double stored_as(DType dtype, double exact) {
  if (dtype == DType::boolean) return exact != 0;
  return dtype == DType::u8 ? exact - 256 * std::floor(exact / 256) : exact;
}

}  // namespace

TEST_CASE("dims without elements and of one element give what differences and composites say, or an error", "[ops]") {
  std::map<int64_t, int> computed;
  for (auto& row : op_cases())
    for (int64_t from : sizes_of(row))
      for (int64_t to : {0, 1}) {
        const OpCase c = resized(row, from, to);
        INFO(c.name << ", dims of size " << from << " changed to " << to);
        Tensor y;
        try {
          y = c.f(draw(c));
        } catch (const Error& e) {
          INFO(e.what());
          CHECK(names_an_op(e.what()));
          continue;
        }
        ++computed[to];
        if (all(isfinite(y)).item<bool>()) {
          const auto result = gradcheck(c.f, draw(c));
          INFO(result.report);
          CHECK(result.passed);
        }
        std::vector<Tensor> meta;
        for (auto& t : draw(c)) meta.push_back(empty(t.shape(), {t.dtype(), Device::meta()}));
        CHECK(c.f(meta).shape() == y.shape());
        Tensor expected;
        try {
          if (c.composite) expected = c.composite(draw(c));
        } catch (const Error&) {  // written for the row's own sizes
        }
        if (expected && expected.shape() == y.shape()) CHECK(difference(y, expected, DType::f64) <= 1);
      }
  for (int64_t to : {0, 1}) CHECK(computed[to] > 100);
}

TEST_CASE("integers and bools give what f64 gives, or an error that names the dtype", "[ops]") {
  int computed = 0;
  for (auto& c : op_cases())
    for (DType dtype : {DType::i64, DType::i32, DType::u8, DType::boolean}) {
      INFO(c.name << " " << name_of(dtype));
      const auto x = draw_integers(c, dtype);
      std::vector<Tensor> high;
      for (auto& t : x) high.push_back(cast(t, DType::f64));
      Tensor y;
      try {
        manual_seed(3);
        y = c.f(x);
      } catch (const Error& e) {
        INFO(e.what());
        CHECK(names_an_op(e.what()));
        // The row may have calculated with bools, which makes them i64.
        CHECK_THAT(e.what(), ContainsSubstring(name_of(dtype)) || ContainsSubstring(dtype == DType::boolean ? "i64" : name_of(dtype)));
        continue;
      }
      ++computed;
      manual_seed(3);
      const Tensor exact = c.f(high);
      REQUIRE(y.shape() == exact.shape());
      if (!c.exact_integers) continue;
      if (is_floating(y.dtype())) {
        CHECK(difference(y, exact, y.dtype()) <= 1);
        continue;
      }
      std::vector<double> wanted = exact.to_vector<double>();
      for (double& v : wanted) v = stored_as(y.dtype(), v);
      CHECK(y.to_vector<double>() == wanted);
    }
  CHECK(computed > 500);
}
