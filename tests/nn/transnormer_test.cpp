// TransNormer's two attentions.
#include <retape/retape.h>

#include "../catch.h"
#include "mixer_checks.h"

using namespace retape;
using namespace retape::testing;

namespace {

constexpr int64_t C = 8;

Tensor heads_of(const nn::Linear& proj, const Tensor& x) {
  return transpose(reshape(proj.forward(x), {x.size(0), x.size(1), 2, C / 2}), 1, 2);
}
Tensor without_heads(const Tensor& y) { return reshape(transpose(y, 1, 2), {y.size(0), y.size(2), C}); }

}  // namespace

TEST_CASE("NormAttention divides products of features by their root mean square, not by their sum", "[transnormer]") {
  for (const bool causal : {true, false}) {
    manual_seed(1);
    nn::NormAttention m(C, {.num_heads = 2, .causal = causal});
    m.to(DType::f64);
    waved(m);
    const Tensor x = wave({2, 9, C}, 0.1);
    const auto features = [](const Tensor& t) { return where(gt(t, 0), t + 1, exp(t)); };
    const Tensor scores = matmul(features(heads_of(m.q_proj, x)), transpose(features(heads_of(m.k_proj, x))));
    const Tensor y = without_heads(matmul(causal ? tril(scores) : scores, heads_of(m.v_proj, x)));
    const Tensor expected = m.o_proj(y / sqrt(mean(square(y), {-1}, true) + 1e-5) * m.norm.weight);
    CHECK(relative_difference(m(x), expected) <= 1e-12);
  }
  check_mixer([] { return nn::NormAttention(C, {.num_heads = 2}); }, C);
  check_mixer([] { return nn::NormAttention(C, {.num_heads = 2, .feature_map = nn::FeatureMap::taylor}); }, C);
}

TEST_CASE("DiagAttention is softmax attention in blocks that see nothing of each other", "[transnormer]") {
  for (const bool causal : {true, false})
    for (const int64_t block : {1, 4, 9, 20}) {
      INFO("causal " << causal << ", blocks of " << block);
      manual_seed(1);
      nn::DiagAttention m(C, {.num_heads = 2, .block_size = block, .causal = causal});
      m.to(DType::f64);
      const Tensor x = wave({2, 9, C}, 0.1);
      const Tensor blocks = div(arange(9, {DType::f64}), double(block), Rounding::floor), same = eq(unsqueeze(blocks, 1), blocks);
      const Tensor scores = matmul(heads_of(m.q_proj, x), transpose(heads_of(m.k_proj, x))) / 2;
      const Tensor left_out = logical_not(causal ? tril(same) : same);
      const Tensor y = matmul(softmax(masked_fill(scores, left_out, -INFINITY), -1), heads_of(m.v_proj, x));
      CHECK(relative_difference(m(x), m.o_proj(without_heads(y))) <= 1e-12);
    }
  for (const int64_t block : {1, 4, 20}) check_pieces(nn::DiagAttention(C, {.num_heads = 2, .block_size = block}), C);
  check_mixer([] { return nn::DiagAttention(C, {.num_heads = 2, .block_size = 5}); }, C, "k_proj.bias");
}
TEST_CASE("a state of DiagAttention holds one block at most", "[transnormer]") {
  nn::DiagAttention m(C, {.num_heads = 2, .block_size = 4});
  const NoGrad off;
  nn::DiagAttention::State state;
  for (const int64_t n : {3, 10, 1, 6}) {
    m.step(zeros({1, n, C}), state);
    CHECK(state.k.length() <= 4);
    CHECK(state.v.all().shape() == state.k.all().shape());
  }
}

TEST_CASE("the option of TransNormer picks one of its attentions", "[transnormer]") {
  const NoGrad off;
  const Tensor x = cast(wave({1, 7, C}), DType::f32);
  for (const auto kind : {nn::TransNormerAttention::diag, nn::TransNormerAttention::norm}) {
    manual_seed(1);
    const nn::AnySequenceMixer any =
        nn::transnormer_attention(C, {.attention = kind, .num_heads = 2, .block_size = 3, .feature_map = nn::FeatureMap::relu});
    manual_seed(1);
    nn::DiagAttention diag(C, {.num_heads = 2, .block_size = 3});
    manual_seed(1);
    nn::NormAttention norm(C, {.num_heads = 2, .feature_map = nn::FeatureMap::relu});
    CHECK(relative_difference(any(x), kind == nn::TransNormerAttention::diag ? diag(x) : norm(x)) == 0);
  }
}

TEST_CASE("TransNormer's layers refuse options that make no sense", "[transnormer]") {
  CHECK_THAT(error_of([] { nn::NormAttention(C, {.num_heads = 5}); }),
             ContainsSubstring("NormAttention: embed_dim 8 does not divide into 5 heads"));
  CHECK_THAT(error_of([] { nn::NormAttention(C, {.eps = -1}); }), ContainsSubstring("eps -1"));
  CHECK_THAT(error_of([] { nn::DiagAttention(C, {.block_size = 0}); }), ContainsSubstring("block_size is 0; it must be above 0"));
  nn::DiagAttention both(C, {.causal = false});
  nn::DiagAttention::State state;
  CHECK_THAT(error_of([&] { both.step(zeros({1, 1, C}), state); }), ContainsSubstring("step() with causal = false"));
}
