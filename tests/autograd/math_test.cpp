// Numbers of elementwise functions and reductions where definitions could differ; those of PyTorch unless said otherwise.
#include <cmath>

#include "../catch.h"

using namespace retape;
using namespace retape::testing;
using Values = std::vector<double>;

namespace {

constexpr double inf = INFINITY, NaN = NAN;
Tensor f64(const Values& v) { return tensor(v); }
Tensor i64(const std::vector<int64_t>& v) { return tensor(v); }
// Equal, with nan equal to nan, or relatively closer than the tolerance.
bool are(const Tensor& x, const Values& wanted, double tolerance = 1e-14) {
  const auto got = x.to_vector<double>();
  bool same = got.size() == wanted.size();
  for (size_t i = 0; same && i < got.size(); ++i)
    same = got[i] == wanted[i] || (got[i] != got[i] && wanted[i] != wanted[i]) ||
           std::abs(got[i] - wanted[i]) <= tolerance * std::abs(wanted[i]);
  if (!same) UNSCOPED_INFO(to_string(x));
  return same;
}

}  // namespace

TEST_CASE("rounded division and what it leaves have the signs of Python and C", "[elementwise]") {
  const Tensor a = i64({5, -5, 5, -5, 7, 0}), b = i64({3, 3, -3, -3, 7, 2});
  CHECK(are(floor_divide(a, b), {1, -2, -2, 1, 1, 0}));
  CHECK(are(div(a, b, Rounding::trunc), {1, -1, -1, 1, 1, 0}));
  CHECK(are(fmod(a, b), {2, -2, 2, -2, 0, 0}));
  CHECK(are(a % b, {2, 1, -1, -2, 0, 0}));
  CHECK(floor_divide(a, b).dtype() == DType::i64);
  const Tensor x = f64({5.5, -5.5, 5.5, -5.5, 1, inf, NaN, 6}), y = f64({2, 2, -2, -2, 0, 2, 2, 0.1});
  CHECK(are(floor_divide(x, y), {2, -3, -3, 2, inf, NaN, NaN, 59}));
  CHECK(are(div(x, y, Rounding::trunc), {2, -2, -2, 2, inf, inf, NaN, 60}));
  CHECK(are(fmod(x, y), {1.5, -1.5, 1.5, -1.5, NaN, NaN, NaN, 0.09999999999999967}));
  CHECK(are(remainder(x, y), {1.5, 0.5, -0.5, -1.5, NaN, NaN, NaN, 0.09999999999999967}));
  CHECK(are(div(a, 2), {2.5, -2.5, 2.5, -2.5, 3.5, 0}));
}

TEST_CASE("integer division refuses 0 and survives the lowest number", "[elementwise]") {
  const int64_t lowest = INT64_MIN;
  CHECK(are(floor_divide(i64({lowest}), -1), {double(lowest)}));
  CHECK(are(remainder(i64({lowest}), -1), {0}));
  for (auto f : {floor_divide, fmod, remainder})
    CHECK_THAT(error_of([&] { f(i64({1, 2}), i64({1, 0})); }), ContainsSubstring("an integer divisor is 0"));
  CHECK_THAT(error_of([] { div(tensor<bool>({true}), tensor<bool>({true}), Rounding::floor); }),
             ContainsSubstring("bool tensors cannot be divided"));
}

TEST_CASE("integers wrap around", "[elementwise]") {
  const Tensor most = i64({INT64_MAX});
  CHECK((most + 1).item<int64_t>() == INT64_MIN);
  CHECK((most * 2).item<int64_t>() == -2);
  CHECK((i64({INT64_MIN}) - 1).item<int64_t>() == INT64_MAX);
  CHECK(sum(tensor<int64_t>({INT64_MAX, 1})).item<int64_t>() == INT64_MIN);
  CHECK((tensor<uint8_t>({250}) + 10).to_vector<int64_t>()[0] == 4);
}

TEST_CASE("functions of two values at their edges", "[elementwise]") {
  CHECK(are(logaddexp(f64({-inf, inf, 0, 1000, NaN}), f64({-inf, inf, -inf, 1000, 0})), {-inf, inf, 0, 1000.6931471805599, NaN}));
  CHECK(are(xlogy(f64({0, 0, 0, 2}), f64({0, NaN, -1, 3})), {0, NaN, 0, 2 * std::log(3.0)}));
  CHECK(are(heaviside(f64({-1, 0, 2, NaN}), 0.5), {0, 0.5, 1, 0}));
  CHECK(are(maximum(f64({1, NaN, 0}), f64({NaN, 1, 2})), {NaN, NaN, 2}));
  CHECK(are(fmax(f64({1, NaN, 0, NaN}), f64({NaN, 1, 2, NaN})), {1, 1, 2, NaN}));
  CHECK(are(fmin(f64({1, NaN, 0}), f64({NaN, 1, 2})), {1, 1, 0}));
  CHECK(are(copysign(f64({1, -2, 3}), f64({-0.0, 5, -1})), {-1, 2, -3}));
  CHECK(are(atan2(i64({0, 1}), i64({-1, 0})), {M_PI, M_PI / 2}, 1e-7));
  CHECK(hypot(tensor<float>({3e30f}), 4e30).item() == Approx(5e30));
}

TEST_CASE("a function without a gradient says so in backward, and only there", "[elementwise]") {
  const Tensor x = tensor<float>({1}).set_requires_grad(), y = heaviside(x, 0.5);
  CHECK(y.item() == 1);
  CHECK_THAT(error_of([&] { backward(sum(y)); }), ContainsSubstring("heaviside: has no gradient"));
}

TEST_CASE("bits", "[elementwise]") {
  const Tensor a = i64({12, -1, 5}), b = i64({10, 6, 3});
  CHECK(are(a & b, {8, 6, 1}));
  CHECK(are(a | b, {14, -1, 7}));
  CHECK(are(a ^ b, {6, -7, 6}));
  CHECK(are(~a, {-13, 0, -6}));
  CHECK(are(~tensor<uint8_t>({1}), {254}));
  const Tensor p = tensor<bool>({true, true, false}), q = tensor<bool>({true, false, false});
  CHECK(are(p ^ q, {0, 1, 0}));
  CHECK(are(~p, {0, 0, 1}));
  CHECK((p & q).dtype() == DType::boolean);
  CHECK(are(bitwise_left_shift(i64({1, -1, 5, 1}), i64({2, 1, 63, 64})), {4, -2, double(INT64_MIN), 0}));
  CHECK(are(bitwise_right_shift(i64({-5, 9, -1, 1}), i64({1, 1, 64, 64})), {-3, 4, -1, 0}));
  CHECK_THAT(error_of([&] { f64({1}) & f64({1}); }), ContainsSubstring("bitwise_and: f64 has no bits to combine"));
  CHECK_THAT(error_of([&] { a | 0.5; }), ContainsSubstring("a fractional number has no bits"));
}

TEST_CASE("logic takes any dtype, and gives bool", "[elementwise]") {
  const Tensor a = f64({0, 2, NaN, 0}), b = f64({0, 0, 1, -1});
  CHECK(are(logical_and(a, b), {0, 0, 1, 0}));
  CHECK(are(logical_or(a, b), {0, 1, 1, 1}));
  CHECK(are(logical_xor(a, b), {0, 1, 0, 1}));
  CHECK(are(logical_not(a), {1, 0, 0, 1}));
  CHECK(logical_xor(a, 1).dtype() == DType::boolean);
}

TEST_CASE("nan and infinities are found and replaced", "[elementwise]") {
  const Tensor x = f64({NaN, inf, -inf, 1});
  CHECK(are(isnan(x), {1, 0, 0, 0}));
  CHECK(are(isinf(x), {0, 1, 1, 0}));
  CHECK(are(isfinite(x), {0, 0, 0, 1}));
  CHECK(are(isinf(i64({1})), {0}));
  CHECK(are(nan_to_num(x, 7, 8), {7, 8, -1.7976931348623157e308, 1}));
  CHECK(are(nan_to_num(cast(x, DType::f32)), {0, 3.4028234663852886e38, -3.4028234663852886e38, 1}));
}

TEST_CASE("closeness and equality", "[elementwise]") {
  const Tensor a = f64({1, inf, -inf, NaN, 1}), b = f64({1 + 1e-6, inf, inf, NaN, inf});
  CHECK(are(isclose(a, b), {1, 1, 0, 0, 0}));
  CHECK(are(isclose(a, b, 1e-5, 1e-8, true), {1, 1, 0, 1, 0}));
  CHECK(allclose(f64({1, 2}), f64({1, 2 + 1e-9})));
  CHECK_FALSE(allclose(f64({1, 2}), f64({1, 2.1})));
  CHECK(equal(i64({1, 2}), i64({1, 2})));
  CHECK_FALSE(equal(i64({1, 2}), i64({1, 3})));
  CHECK_FALSE(equal(i64({1, 2}), tensor<int64_t>({1, 2}, {1, 2})));
}

TEST_CASE("activations give PyTorch's numbers", "[elementwise]") {
  const Tensor x = f64({-3.5, -1, -0.2, 0, 0.3, 2.5, 20});
  CHECK(are(selu(x),
            {-1.705009340957283, -1.1113307378125625, -0.3186893435295005, 0, 0.31521029620664415, 2.626752468388701, 21.014019747109607},
            1e-12));
  CHECK(are(mish(x), {-0.10409575448637122, -0.30340146137410895, -0.10714478086835713, 0, 0.20800137234811503, 2.471392304557881, 20},
            1e-12));
  CHECK(are(hardswish(x), {0, -0.3333333333333333, -0.09333333333333332, 0, 0.165, 2.2916666666666665, 20}, 1e-12));
  CHECK(are(hardsigmoid(x), {0, 0.3333333333333333, 0.4666666666666666, 0.5, 0.55, 0.9166666666666666, 1}, 1e-12));
  CHECK(are(relu6(x), {0, 0, 0, 0, 0.3, 2.5, 6}));
  CHECK(are(softsign(x), {-0.7777777777777778, -0.5, -1 / 6.0, 0, 0.23076923076923075, 0.7142857142857143, 0.9523809523809523}));
  CHECK(are(tanhshrink(x),
            {-2.501822102388801, -0.23840584404423515, -0.002624679775096006, 0, 0.008687387548409087, 1.5133857018485697, 19}, 1e-12));
  CHECK(are(logsigmoid(x),
            {-3.5297504182726205, -1.3132616875182228, -0.7981388693815918, -0.6931471805599453, -0.5543552444685271, -0.07888973429254963,
             -2.061153620314381e-09},
            1e-12));
  CHECK(are(elu_plus_one(x), {0.0301973834223185, 0.36787944117144233, 0.8187307530779818, 1, 1.3, 3.5, 21}, 1e-12));
  CHECK(are(elu_plus_one(f64({-100})), {3.720075976020836e-44}, 1e-12));  // elu(x) + 1 would be 0
}

TEST_CASE("special functions give PyTorch's numbers, and their slopes", "[elementwise]") {
  Tensor x = f64({-2.5, -0.5, 0.1, 1, 5.5, 30}).set_requires_grad();
  CHECK(are(lgamma(x), {-0.05624371649767405, 1.2655121234846454, 2.252712651734206, 0, 3.9578139676187165, 71.25703896716801}, 1e-12));
  CHECK(are(digamma(x),
            {1.1031566406452433, 0.03648997397857639, -10.423754940411076, -0.5772156649015328, 1.611093148581751, 3.384438132685525},
            1e-12));
  const Tensor first = grad({sum(digamma(x))}, {x}, {.create_graph = true})[0];
  CHECK(are(first, {9.53924664493752, 8.934802200117687, 101.43329914989455, 1.6449340668482264, 0.19934238699894422, 0.03389506035774027},
            1e-9));
  CHECK(are(slice(grad({sum(first)}, {x})[0], 0, 1, 6),
            {-0.82879664423432, -2001.8614573783439, -2.404113806319188, -0.03960894752130204, -0.0011487652037285997}, 1e-9));
  CHECK(are(erfinv(f64({-1, -0.999999, -0.5, 0, 1e-9, 0.7, 0.99999999, 1, 1.5})),
            {-inf, -3.458910737279500, -0.4769362762044699, 0, 8.86226925452758e-10, 0.7328690779592169, 4.052237243871388, inf, NaN},
            1e-9));
  CHECK(are(erf(erfinv(f64({-0.99, 0.3, 0.999}))), {-0.99, 0.3, 0.999}));
}

TEST_CASE("rounding functions leave integers as they are", "[elementwise]") {
  for (auto f : {retape::floor, retape::ceil, retape::round, retape::trunc, retape::relu}) CHECK(f(i64({3})).dtype() == DType::i64);
  CHECK(are(relu(i64({-3, 3})), {0, 3}));
  CHECK(are(frac(f64({-1.25, 2.5})), {-0.25, 0.5}));
  CHECK(are(round(f64({0.5, 1.5, 2.5})), {0, 2, 2}));
}

TEST_CASE("products pass gradients through zeros", "[reduce]") {
  Tensor x = tensor<double>({1, 0, 2, 0, 3, 0}, {2, 3}).set_requires_grad();
  CHECK(are(grad({sum(prod(x, {1}))}, {x})[0], {0, 2, 0, 0, 0, 0}));
  CHECK(are(grad({sum(cumprod(x, 1))}, {x})[0], {1, 3, 0, 4, 0, 0}));
  Tensor one = tensor<double>({0.5, 0, 2, 1.5, 3, -1}, {2, 3}).set_requires_grad();
  for (const TensorFunction& f :
       {TensorFunction([](auto& t) { return prod(t[0], {1}); }), TensorFunction([](auto& t) { return prod(t[0]); }),
        TensorFunction([](auto& t) { return cumprod(t[0], 1); })}) {
    CHECK(gradcheck(f, {one}).passed);
    CHECK(gradgradcheck(f, {one}).passed);
  }
  CHECK(prod(tensor<bool>({true, true})).dtype() == DType::i64);
  CHECK(prod(zeros({0})).item() == 1);
}

TEST_CASE("norms of every order", "[reduce]") {
  const Tensor x = f64({0, -3, 4});
  CHECK(norm(x).item() == 5);
  CHECK(norm(x, 0).item() == 2);
  CHECK(norm(x, 1).item() == 7);
  CHECK(norm(x, INFINITY).item() == 4);
  CHECK(norm(x, -INFINITY).item() == 0);
  CHECK(norm(f64({1, -2, 4}), -1).item() == Approx(1 / 1.75));
  CHECK(norm(zeros({0, 3}), 2, {0}).to_vector<double>() == Values(3, 0));
  Tensor zero = zeros({2}).set_requires_grad();
  CHECK(are(grad({norm(zero)}, {zero})[0], {0, 0}));
  CHECK_THAT(error_of([] { norm(i64({1})); }), ContainsSubstring("cast() it to a floating dtype"));
}

TEST_CASE("reductions at their edges", "[reduce]") {
  const Tensor y = tensor<double>({4, 1, 3, 2, 0, 10, 5, 7}, {2, 4});
  CHECK(are(retape::std(y, {1}), {1.2909944487358056, 4.203173404306164}));
  CHECK(are(logsumexp(f64({-inf, -inf})), {-inf}));
  CHECK(are(logsumexp(f64({inf, 1})), {inf}));
  CHECK(are(logsumexp(f64({1000, 1000})), {1000.6931471805599}));
  CHECK(are(logsumexp(zeros({0})), {-inf}));
  CHECK(are(nansum(f64({NaN, 1, 2})), {3}));
  CHECK(are(nanmean(f64({NaN, 1, 2})), {1.5}));
  CHECK(are(count_nonzero(tensor<double>({0, 2, NaN, 0}, {2, 2}), {1}), {1, 1}));
  const auto [low, high] = aminmax(y, {0});
  CHECK(are(low, {0, 1, 3, 2}));
  CHECK(are(high, {4, 10, 5, 7}));
  const auto top = max(tensor<double>({1, NaN, 3, 3}, {2, 2}), 1);
  CHECK(are(top.values, {NaN, 3}));
  CHECK(are(top.indices, {1, 0}));
  CHECK(min(y, 0, true).values.shape() == Shape{1, 4});
  CHECK_THAT(error_of([] { max(zeros({2, 0}), 1); }), ContainsSubstring("has no elements"));
}

TEST_CASE("running results at their edges", "[scan]") {
  CHECK(are(cumprod(f64({2, 0, 3, NaN}), 0), {2, 0, 0, NaN}));
  CHECK(are(cummax(f64({1, 3, 3, NaN, 2}), 0).indices, {0, 1, 2, 3, 3}));
  CHECK(are(cummin(f64({1, 1, 3, 0, 0}), 0).indices, {0, 1, 1, 3, 4}));
  CHECK(are(logcumsumexp(f64({-inf, 1, 1000, -5}), 0), {-inf, 1, 1000, 1000}));
  CHECK(are(cumsum(tensor<bool>({true, false, true}), 0), {1, 1, 2}));
  CHECK(cumsum(zeros({2, 0, 3}), 1).shape() == Shape{2, 0, 3});
  CHECK(cumsum(full({}, 3), 0).shape() == Shape{});
  CHECK_THAT(error_of([] { cumsum(zeros({2}), 1); }), ContainsSubstring("cumsum"));
  // The gradient does not overflow where e^(largest - running) would.
  Tensor x = f64({-2000, 0, 1500}).set_requires_grad();
  CHECK(are(grad({sum(logcumsumexp(x, 0))}, {x})[0], {1, 1, 1}));
  Tensor nothing = f64({-inf, -inf, 0}).set_requires_grad();
  CHECK(are(grad({sum(logcumsumexp(nothing, 0))}, {nothing})[0], {0, 0, 1}));
}
