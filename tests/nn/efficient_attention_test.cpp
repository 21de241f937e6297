// Linear and efficient attention: the formulas of the papers with scores of all pairs, steps, and what is special about each.
#include <retape/retape.h>

#include "../catch.h"
#include "mixer_checks.h"

#include <cmath>

using namespace retape;
using namespace retape::testing;

namespace {

constexpr int64_t C = 8;

// x (B, T, C) through a projection, as (B, H, T, D) in f64
Tensor heads_of(const nn::Linear& proj, const Tensor& x, int64_t heads) {
  const Shape& s = x.shape();
  return transpose(reshape(proj.forward(x), {s[0], s[1], heads, s[2] / heads}), 1, 2);
}
Tensor joined(const nn::Linear& proj, const Tensor& y) {
  const Shape& s = y.shape();
  return proj.forward(reshape(transpose(y, 1, 2), {s[0], s[2], s[1] * s[3]}));
}
// weights (.., T, T) for causal layers: nothing of later keys
Tensor hidden(const Tensor& weights, bool causal) { return causal ? tril(weights) : weights; }
Tensor weighted_mean(const Tensor& weights, const Tensor& v, double eps = 0) {
  return matmul(weights, v) / (sum(weights, {-1}, true) + eps);
}

// The module, in f64 and eval mode, against f(q, k, v, causal) with (B, H, T, D) each, for both forms.
template <class Make, class F> void check_formula(Make&& make, F&& f, double most = 1e-11) {
  for (const bool causal : {true, false}) {
    INFO("causal " << causal);
    manual_seed(1);
    auto m = make(causal);
    m.eval();
    m.to(DType::f64);
    const Tensor x = wave({2, 9, C}, 0.1);
    const Tensor y =
        f(m, heads_of(m.q_proj, x, m.num_heads), heads_of(m.k_proj, x, m.num_heads), heads_of(m.v_proj, x, m.num_heads), causal);
    CHECK(relative_difference(m(x), joined(m.o_proj, y)) <= most);
  }
}
// d loss / d x of a module against differences
template <class M> void check_slope(M m) {
  m.eval();
  m.to(DType::f64);
  const Tensor x = Tensor(wave({1, 4, C}, 0.4)).set_requires_grad();
  const auto r = gradcheck([&](const std::vector<Tensor>& in) { return m(in[0]); }, {x});
  INFO(r.report);
  CHECK(r.passed);
}

}  // namespace

TEST_CASE("linear attention is attention with products of features as weights", "[efficient_attention]") {
  using nn::FeatureMap;
  for (const FeatureMap map : {FeatureMap::elu_plus_one, FeatureMap::relu, FeatureMap::dpfp, FeatureMap::taylor}) {
    INFO("map " << int(map));
    check_formula([&](bool causal) { return nn::LinearAttention(C, {.num_heads = 2, .feature_map = map, .causal = causal}); },
                  [&](auto&, const Tensor& q, const Tensor& k, const Tensor& v, bool causal) {
                    const Tensor weights = matmul(nn::feature_map(map, q), transpose(nn::feature_map(map, k)));
                    return weighted_mean(hidden(weights, causal), v, 1e-6);
                  });
    check_mixer([&] { return nn::LinearAttention(C, {.num_heads = 2, .feature_map = map}); }, C);
    manual_seed(1);
    check_slope(nn::LinearAttention(C, {.num_heads = 2, .feature_map = map}));
  }
}
TEST_CASE("feature maps are those of their papers", "[efficient_attention]") {
  using nn::FeatureMap;
  const Tensor x = tensor<double>({0.5, -2, 1}, {1, 3}), z = tensor<double>({-1, 0.3, 2}, {1, 3});
  CHECK(matches(nn::feature_map(FeatureMap::elu_plus_one, x), {1, 3}, {1.5, std::exp(-2.0), 2}));
  CHECK(matches(nn::feature_map(FeatureMap::relu, x), {1, 3}, {0.5, 0, 1}));
  // r = (0.5, 0, 1, 0, 2, 0), times its neighbour before
  CHECK(matches(nn::feature_map(FeatureMap::dpfp, tensor<double>({0.5, 3, -2}, {1, 3})), {1, 6}, {0.5 * 2, 3 * 0.5, 0, 0, 0, 0}));
  const double s = (0.5 * -1 + -2 * 0.3 + 1 * 2) / std::sqrt(3.0);
  const Tensor product = matmul(nn::feature_map(FeatureMap::taylor, x), transpose(nn::feature_map(FeatureMap::taylor, z)));
  CHECK(matches(product, {1, 1}, {1 + s + s * s / 2}));
  CHECK_THAT(error_of([] { nn::feature_map(FeatureMap::relu, tensor<float>({1}, {})); }), ContainsSubstring("it must be (..., D)"));
}
TEST_CASE("sums of half types do not overflow in linear attention", "[efficient_attention]") {
  manual_seed(1);
  nn::LinearAttention m(C, {.num_heads = 1});
  const NoGrad off;
  const Tensor x = 30 * ones({1, 4000, C}), exact = m(x);
  const Autocast amp(DType::f16);
  CHECK(relative_difference(cast(m(x), DType::f32), exact) <= 0.01);
}

TEST_CASE("FAVOR+ is attention with products of random features as weights", "[efficient_attention]") {
  for (const nn::FavorKernel kernel : {nn::FavorKernel::softmax, nn::FavorKernel::relu}) {
    const bool relus = kernel == nn::FavorKernel::relu;
    const auto make = [&](bool causal) {
      return nn::FavorAttention(C, {.num_heads = 2, .nb_features = 7, .kernel = kernel, .eps = relus ? 1e-3 : 0.0, .causal = causal});
    };
    check_formula(make, [&](auto& m, const Tensor& q, const Tensor& k, const Tensor& v, bool causal) {
      const auto features = [&](const Tensor& x) {
        const Tensor scaled = x / std::pow(4.0, 0.25), products = matmul(scaled, transpose(m.projection.tensor()));
        return relus ? relu(products) + 1e-3 : exp(products - sum(square(scaled), {-1}, true) / 2);
      };
      return weighted_mean(hidden(matmul(features(q), transpose(features(k))), causal), v);
    });
    check_mixer([&] { return nn::FavorAttention(C, {.num_heads = 2, .nb_features = 7, .kernel = kernel}); }, C);
    manual_seed(1);
    check_slope(make(true));
    check_slope(make(false));
  }
}
TEST_CASE("FAVOR+ approaches softmax attention as features are added", "[efficient_attention]") {
  const int64_t size = 16;
  const NoGrad off;
  double error[2] = {0, 0};
  const int64_t counts[] = {16, 1024};
  for (int i = 0; i < 2; ++i) {
    manual_seed(1);
    nn::FavorAttention m(size, {.num_heads = 2, .nb_features = counts[i]});
    m.eval();
    m.to(DType::f64);
    const Tensor x = wave({2, 20, size}, 0.3);
    const Tensor y =
        scaled_dot_product_attention(heads_of(m.q_proj, x, 2), heads_of(m.k_proj, x, 2), heads_of(m.v_proj, x, 2), {.is_causal = true});
    const Tensor exact = joined(m.o_proj, y);
    for (int draw = 0; draw < 5; ++draw) error[i] += relative_difference(m(x), exact) / 5, m.redraw();
  }
  CAPTURE(error[0], error[1]);
  CHECK(error[1] < 0.03);
  CHECK(error[1] < error[0] / 3);
}
TEST_CASE("directions of FAVOR+ are orthogonal in blocks and as long as normal vectors", "[efficient_attention]") {
  manual_seed(1);
  const nn::FavorAttention m(64, {.num_heads = 4, .nb_features = 40});
  const Tensor w = m.projection;
  CHECK(w.shape() == Shape{40, 16});
  const auto products = [&](int64_t from, int64_t rows) {
    const Tensor block = narrow(w, 0, from, rows), all = matmul(block, transpose(block));
    return sum(abs(all - diag(diag(all)))).item();
  };
  for (const int64_t from : {0, 16, 32}) CHECK(products(from, std::min(int64_t{16}, 40 - from)) < 1e-3);
  CHECK(mean(sum(square(w), {1})).item() == Approx(16).margin(4));
  // D log D
  CHECK(nn::FavorAttention(64, {.num_heads = 4}).projection->shape() == Shape{44, 16});
  CHECK(nn::FavorAttention(4, {.num_heads = 4}).projection->shape() == Shape{1, 1});
}
TEST_CASE("FAVOR+ draws its directions anew in training only", "[efficient_attention]") {
  manual_seed(1);
  nn::FavorAttention m(C, {.num_heads = 2, .feature_redraw_interval = 2});
  const Tensor x = cast(wave({1, 5, C}), DType::f32);
  const auto now = [&] { return m.projection->to_vector<float>(); };
  const auto first = now();
  const Tensor y = m(x);
  m(x);
  CHECK(now() == first);
  m(x);
  const auto second = now();
  CHECK(second != first);
  backward(sum(square(y)));  // which needs the directions of its own forward
  m.eval();
  for (int i = 0; i < 5; ++i) m(x);
  CHECK(now() == second);
  m.redraw();
  CHECK(now() != second);
  nn::FavorAttention never(C, {.num_heads = 2, .feature_redraw_interval = 0});
  const auto start = never.projection->to_vector<float>();
  for (int i = 0; i < 3; ++i) never(x);
  CHECK(never.projection->to_vector<float>() == start);
}
TEST_CASE("FAVOR+ goes on counting where its state was saved", "[efficient_attention]") {
  manual_seed(1);
  nn::FavorAttention m(C, {.num_heads = 2, .feature_redraw_interval = 3}), other(C, {.num_heads = 2, .feature_redraw_interval = 3});
  const Tensor x = cast(wave({1, 5, C}), DType::f32);
  const auto now = [&] { return other.projection->to_vector<float>(); };
  m(x), m(x);
  other(x);
  other.load_state_dict(m.state_dict());
  const auto loaded = now();
  other(x);
  CHECK(now() == loaded);
  other(x);
  CHECK(now() != loaded);
}
TEST_CASE("FAVOR+ stays finite for large queries and keys", "[efficient_attention]") {
  manual_seed(1);
  nn::FavorAttention m(C, {.num_heads = 2});
  m.eval();
  const NoGrad off;
  const Tensor x = 200 * cast(wave({1, 9, C}), DType::f32);
  CHECK(std::isfinite(sum(m(x)).item()));
  CHECK(relative_difference(in_pieces(m, x, {4, 5}), m(x)) <= 1e-4);
}

TEST_CASE("efficient attention weighs positions by a softmax of each feature", "[efficient_attention]") {
  const auto make = [](bool causal) { return nn::EfficientAttention(C, {.num_heads = 2, .causal = causal}); };
  check_formula(make, [](auto&, const Tensor& q, const Tensor& k, const Tensor& v, bool causal) {
    const Tensor features = softmax(q, -1);
    if (!causal) return matmul(matmul(features, transpose(softmax(k, 2))), v);
    std::vector<Tensor> ys;
    for (int64_t t = 0; t < q.size(2); ++t)
      ys.push_back(matmul(matmul(narrow(features, 2, t, 1), transpose(softmax(narrow(k, 2, 0, t + 1), 2))), narrow(v, 2, 0, t + 1)));
    return cat(ys, 2);
  });
  check_mixer([&] { return make(true); }, C, "k_proj.bias");
  manual_seed(1);
  check_slope(make(true));
  // exp(k) would overflow.
  nn::EfficientAttention m = make(true);
  const NoGrad off;
  const Tensor x = 500 * cast(wave({1, 9, C}), DType::f32), y = m(x);
  CHECK(std::isfinite(sum(y).item()));
  m.to(DType::f64);
  CHECK(relative_difference(y, m(cast(x, DType::f64))) <= 1e-4);
}
TEST_CASE("efficient attention is as exact over long sequences as over short ones", "[efficient_attention]") {
  manual_seed(1);
  nn::EfficientAttention m(C, {.num_heads = 2});
  const NoGrad off;
  const Tensor x = randn({1, 8192, C}), y = m(x);
  m.to(DType::f64);
  CHECK(relative_difference(y, m(cast(x, DType::f64))) <= 1e-6);
}

TEST_CASE("cosFormer weighs products of relus by the cosine of the distance", "[efficient_attention]") {
  const auto make = [](bool causal) { return nn::CosformerAttention(C, {.num_heads = 2, .max_length = 20, .causal = causal}); };
  check_formula(make, [](auto&, const Tensor& q, const Tensor& k, const Tensor& v, bool causal) {
    const Tensor p = arange(q.size(2), {DType::f64}), distances = unsqueeze(p, 1) - p;
    return weighted_mean(hidden(matmul(relu(q), transpose(relu(k))) * cos(distances * (std::acos(-1.0) / 40)), causal), v, 1e-6);
  });
  check_mixer([&] { return make(true); }, C);
  nn::CosformerAttention m = make(true);
  nn::CosformerAttention::State state;
  m.step(zeros({1, 19, C}), state);
  CHECK(state.position == 19);
  CHECK_THAT(error_of([&] { m.step(zeros({1, 2, C}), state); }), ContainsSubstring("positions 19 .. 20 are beyond max_length 20"));
  CHECK(state.position == 19);
  CHECK_THAT(error_of([&] { m(zeros({1, 21, C})); }), ContainsSubstring("max_length 20"));
}

TEST_CASE("layers of linear attention refuse options that make no sense", "[efficient_attention]") {
  using namespace nn;
  CHECK_THAT(error_of([] { LinearAttention(C, {.num_heads = 3}); }),
             ContainsSubstring("LinearAttention: embed_dim 8 does not divide into 3 heads"));
  CHECK_THAT(error_of([] { EfficientAttention(C, {.num_heads = 0}); }), ContainsSubstring("into 0 heads"));
  CHECK_THAT(error_of([] { LinearAttention(C, {.eps = -1}); }), ContainsSubstring("eps -1"));
  CHECK_THAT(error_of([] { Performer(C, {.nb_features = 0}); }), ContainsSubstring("nb_features is 0; it must be above 0"));
  CHECK_THAT(error_of([] { FavorAttention(C, {.feature_redraw_interval = -1}); }), ContainsSubstring("feature_redraw_interval -1"));
  CHECK_THAT(error_of([] { CosformerAttention(C, {.max_length = 0}); }), ContainsSubstring("max_length is 0; it must be above 0"));
  LinearAttention both(C, {.causal = false});
  LinearAttention::State state;
  CHECK_THAT(error_of([&] { both.step(zeros({1, 1, C}), state); }), ContainsSubstring("step() with causal = false"));
}
