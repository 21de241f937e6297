// Kernels that go through memory in an order of their own: whatever the layout, the values are those of a contiguous tensor.
#include <cmath>
#include <limits>

#include "../catch.h"

using namespace retape;
using namespace retape::testing;

namespace {

Tensor numbers(const Shape& shape, DType dtype) { return cast(randint(0, dtype == DType::boolean ? 2 : 100, shape), dtype); }
// The same values, laid in memory so that dims[i] of x is the i-th from outside.
Tensor laid(const Tensor& x, const Shape& dims) {
  Shape back = dims;
  for (int d = 0; d < dims.rank(); ++d) back[int(dims[d])] = d;
  return permute(clone(permute(x, dims)), back);
}
void check_equal(const Tensor& a, const Tensor& b) {
  REQUIRE(a.shape() == b.shape());
  REQUIRE(a.dtype() == b.dtype());
  CHECK(a.to_vector<double>() == b.to_vector<double>());
}
constexpr DType dtypes[] = {DType::f64, DType::f32, DType::f16, DType::bf16, DType::i64, DType::i32, DType::u8, DType::boolean};

}  // namespace

TEST_CASE("elementwise kernels take operands of any layout", "[layout]") {
  struct Case {
    Shape shape, dims;
  };
  for (const auto& [shape, dims] : {Case{{70, 300}, {1, 0}}, Case{{515, 33}, {1, 0}}, Case{{8, 600}, {1, 0}}, Case{{600, 9}, {1, 0}},
                                    Case{{20, 17, 41}, {2, 0, 1}}, Case{{20, 17, 41}, {1, 2, 0}}, Case{{5, 40, 6, 30}, {3, 1, 0, 2}}}) {
    for (DType dtype : dtypes) {
      CAPTURE(shape.str(), name_of(dtype));
      const Tensor x = numbers(shape, dtype), y = numbers(shape, dtype), xt = laid(x, dims), yt = laid(y, dims);
      REQUIRE_FALSE(xt.is_contiguous());
      check_equal(contiguous(xt), x);
      check_equal(maximum(y, xt), maximum(y, x));
      check_equal(maximum(yt, xt), maximum(y, x));
      check_equal(gt(xt, y), gt(x, y));
      check_equal(where(gt(xt, yt), xt, y), where(gt(x, y), x, y));
      check_equal(where(gt(x, y), yt, x), where(gt(x, y), y, x));
      for (DType to : {DType::f64, DType::bf16, DType::u8}) check_equal(cast(xt, to), cast(x, to));
      if (is_floating(dtype)) check_equal(neg(xt), neg(x));
      const Tensor sliced = slice(xt, 0, 1, shape[0] - 1, 2);
      check_equal(maximum(sliced, 7), maximum(slice(x, 0, 1, shape[0] - 1, 2), 7));
    }
  }
}

TEST_CASE("where takes a number on either side", "[layout]") {
  const Tensor x = numbers({37, 41}, DType::f32), mask = gt(x, 50);
  const auto v = x.to_vector<float>();
  const auto low = where(mask, 3, x).to_vector<float>(), high = where(mask, x, 3).to_vector<float>();
  for (size_t i = 0; i < v.size(); ++i) {
    CHECK(low[i] == (v[i] > 50 ? 3 : v[i]));
    CHECK(high[i] == (v[i] > 50 ? v[i] : 3));
  }
}

TEST_CASE("reductions and scans take operands of any layout", "[layout]") {
  for (DType dtype : dtypes) {
    CAPTURE(name_of(dtype));
    const Tensor x = numbers({19, 30, 23}, dtype);
    for (const Shape& dims : {Shape{2, 0, 1}, Shape{1, 0, 2}, Shape{2, 1, 0}}) {
      const Tensor xt = laid(x, dims);
      check_equal(sum(xt), sum(x));
      check_equal(amax(xt), amax(x));
      for (int d = 0; d < 3; ++d) {
        check_equal(amin(xt, {d}), amin(x, {d}));
        check_equal(argmax(xt, d), argmax(x, d));
        check_equal(argmin(xt, d), argmin(x, d));
        check_equal(cumsum(xt, d), cumsum(x, d));
      }
    }
  }
}

TEST_CASE("argmax is the first of equals and the first nan, in rows and columns", "[layout]") {
  Tensor x = numbers({300, 270}, DType::f32);
  float* p = x.mutable_data<float>();
  for (int i : {17, 200}) p[i * 270 + 40] = NAN;
  for (int i : {30, 290}) p[i * 270 + 41] = 1000;
  CHECK(argmax(x, 0).to_vector<int64_t>()[40] == 17);
  CHECK(argmin(x, 0).to_vector<int64_t>()[40] == 17);
  CHECK(argmax(x, 0).to_vector<int64_t>()[41] == 30);
  check_equal(argmax(transpose(x), 1), argmax(x, 0));
  check_equal(argmax(clone(transpose(x)), 1), argmax(x, 0));
}

TEST_CASE("a sum of small integers does not wrap", "[layout]") {
  CHECK(sum(ones({70000}, {DType::boolean})).item<int64_t>() == 70000);
  CHECK(sum(full({300, 300}, 255, {DType::u8}), {0}).to_vector<int64_t>() == std::vector<int64_t>(300, 76500));
  CHECK(sum(full({4}, 2e9, {DType::i32})).item<int64_t>() == 8000000000);
}

TEST_CASE("running sums of a line are exact to the last digit of float", "[layout]") {
  for (int64_t n : {1, 7, 8, 9, 1000}) {
    const Tensor x = randn({3, n});
    const auto in = x.to_vector<double>(), out = cumsum(x, 1).to_vector<double>();
    for (int64_t r = 0; r < 3; ++r) {
      double sum = 0;
      for (int64_t i = r * n; i < (r + 1) * n; ++i) {
        sum += in[size_t(i)];
        CHECK(out[size_t(i)] == Approx(sum).epsilon(6e-8).margin(1e-12));
      }
    }
  }
}

TEST_CASE("erf and gelu of float are right everywhere", "[layout]") {
  constexpr float inf = std::numeric_limits<float>::infinity();
  std::vector<float> v = {-inf, -1e30f, -100, inf, 1e30f, NAN, 0};
  for (float x = -12; x < 12; x += 0.0037f) v.push_back(x);
  Tensor x = tensor<float>(v, {int64_t(v.size())});
  x.set_requires_grad();
  const Tensor y = gelu(x);
  backward(y, {}, ones_like(x));
  const auto e = erf(x).to_vector<float>(), value = y.to_vector<float>(), slope = x.grad().to_vector<float>();
  for (size_t i : {0, 1, 2}) CHECK((std::abs(value[i]) < 1e-30 && std::abs(slope[i]) < 1e-20));
  CHECK((value[3] == inf && value[4] == 1e30f && std::isnan(value[5])));
  CHECK((slope[3] == 1 && slope[4] == 1 && std::isnan(slope[5])));
  CHECK((e[0] == -1 && e[1] == -1 && e[3] == 1 && std::isnan(e[5]) && e[6] == 0));
  for (size_t i = 6; i < v.size(); ++i) {
    const double t = v[i], phi = 0.5 * std::erfc(-t * M_SQRT1_2);
    CHECK(std::abs(e[i] - std::erf(t)) <= 7 * 6e-8 * std::abs(std::erf(t)));
    CHECK(std::abs(value[i] - t * phi) <= 1e-7 * std::max(1.0, std::abs(t * phi)));
    CHECK(std::abs(slope[i] - (phi + t * 0.3989422804014327 * std::exp(-t * t / 2))) <= 3e-7);
  }
}
