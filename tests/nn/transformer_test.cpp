// Transformer layers against numbers from PyTorch; see layers_test.cpp for wave() and for the parameters' values.
#include "golden.h"

using namespace retape;
using namespace retape::testing;

namespace {
const Tensor source() { return wave({2, 3, 4}, 0.1); }
const Tensor target() { return wave({2, 2, 4}, 0.2); }
const Tensor padding = tensor<bool>({0, 0, 1, 0, 0, 0}, {2, 3});
nn::TransformerLayerOptions post_norm() { return {.dim_feedforward = 6, .batch_first = true}; }
nn::TransformerLayerOptions pre_norm() {
  return {.dim_feedforward = 6, .activation = nn::TransformerActivation::gelu, .batch_first = true, .norm_first = true};
}
template <class M> M prepared(nn::TransformerLayerOptions options, bool norm) {
  const nn::DefaultOptions f64({.dtype = DType::f64});
  M m(4, 2, 2, options, norm);
  waved(m).eval();
  return m;
}
}  // namespace

// nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 6, batch_first=True, ...), 2, norm), src_key_padding_mask; the decoder with
// generate_square_subsequent_mask and memory_key_padding_mask.
TEST_CASE("the encoder and the decoder are PyTorch's", "[transformer]") {
  const auto check = [](nn::TransformerLayerOptions options, const std::vector<double>& encoded, const std::vector<double>& decoded) {
    auto encoder = prepared<nn::TransformerEncoder>(options, options.norm_first);
    auto decoder = prepared<nn::TransformerDecoder>(options, options.norm_first);
    const Tensor memory = encoder(source(), nn::MultiheadAttentionInputs{.key_padding_mask = padding});
    CHECK(matches(memory, {2, 3, 4}, encoded));
    const nn::MultiheadAttentionInputs causal{.is_causal = true}, padded{.key_padding_mask = padding};
    CHECK(matches(decoder(target(), memory, causal, padded), {2, 2, 4}, decoded));
    std::vector<Tensor> weights;
    CHECK(matches(decoder(target(), memory, causal, padded, &weights), {2, 2, 4}, decoded));
    REQUIRE(weights.size() == 2);
    for (auto& w : weights) {
      CHECK(w.shape() == Shape{2, 2, 3});
      CHECK(difference(sum(w, {-1}), ones({2, 2}, {DType::f64}), DType::f64) <= 1);
      CHECK(same_bits(select(select(w, 0, 0), 1, 2), zeros({2}, {DType::f64})));  // what is left out gets nothing
    }
  };
  check(post_norm(),
        {1.17801554855, 0.48869478218,  -0.481323378472, 0.623221152017, 1.20317700309, 0.434780222336, -0.454471493454, 0.6159839579,
         1.17368765781, 0.497713284811, -0.485562284303, 0.624401111765, 1.1966327898,  0.448138448832, -0.461234821734, 0.618048388402,
         1.16823567206, 0.506932447172, -0.489478815292, 0.626149251106, 1.19500515214, 0.451824146857, -0.463131303045, 0.618505062936},
        {-0.478913723336, -2.55884413622, 0.103056610064, 0.3139492243, -0.473297726028, -2.55990362562, 0.096851424311, 0.31378996794,
         -0.479546273612, -2.55870646523, 0.10380802376, 0.313970647322, -0.47822576762, -2.55884595022, 0.102812042343, 0.313962153464});
  check(
      pre_norm(), {2.54926389355,    -0.00508504204927, -0.142678744686, -0.445442403114, 2.55980313126,   -0.0861492599797,
                   -0.0606492027875, -0.429964083725,   2.50867259357,   -0.133204053867, -0.104153782262, -0.463323511016,
                   2.5740104141,     0.00926107145048,  -0.111316814442, -0.427272628335, 2.30543673328,   -0.0953346536397,
                   -0.252495824717,  -0.545691804925,   2.57466069197,   0.0446076707793, -0.13364942678,  -0.428372175924},
      {-1.6541498611, -0.503823127462, 0.17584090451, -0.176888945631, -1.69917752746, -0.549364872021, 0.181951373967, -0.188024562124,
       -1.60121569107, -0.514623822927, 0.173232443075, -0.177883531591, -1.70829039254, -0.540866766783, 0.181961440459, -0.186104765235});
}

TEST_CASE("a layer takes time first unless it is batch_first", "[transformer]") {
  const nn::DefaultOptions f64({.dtype = DType::f64});
  nn::TransformerEncoderLayer layer(4, 2, {.dim_feedforward = 6});
  waved(layer).eval();
  CHECK(matches(layer(source()), {2, 3, 4},
                {-0.537671296467, -1.80209205248,  0.516342026978,  -0.320070017589, -0.621228678621, -1.25267457357,
                 0.628012041974,  -0.558045861328, -0.516309505628, -1.91262397943,  0.410395707715,  -0.229976110456,
                 -0.582206445161, -1.40688560162,  0.707619848341,  -0.65326720827,  -0.530466572712, -1.88270552839,
                 0.391374614875,  -0.176472999522, -0.578670440175, -1.51100148443,  0.664723878835,  -0.531126532691}));
}

TEST_CASE("transformer layers have PyTorch's parameter names and default sizes", "[transformer]") {
  const nn::TransformerDecoderLayer layer(8, 2);
  std::vector<std::string> names;
  for (auto& [name, t] : layer.state_dict()) names.push_back(name);
  CHECK(names == std::vector<std::string>{"self_attn.in_proj_weight", "self_attn.in_proj_bias", "self_attn.out_proj.weight",
                                          "self_attn.out_proj.bias", "multihead_attn.in_proj_weight", "multihead_attn.in_proj_bias",
                                          "multihead_attn.out_proj.weight", "multihead_attn.out_proj.bias", "linear1.weight",
                                          "linear1.bias", "linear2.weight", "linear2.bias", "norm1.weight", "norm1.bias", "norm2.weight",
                                          "norm2.bias", "norm3.weight", "norm3.bias"});
  CHECK(layer.linear1.weight->shape() == Shape{2048, 8});
  const nn::TransformerEncoder encoder(8, 2, 2, {.dim_feedforward = 4}, true);
  CHECK(encoder.state_dict().front().first == "layers.0.self_attn.in_proj_weight");
  CHECK(encoder.state_dict().back().first == "norm.bias");
  CHECK(nn::TransformerEncoderLayer(8, 2, {.bias = false}).state_dict().size() == 6);
}

TEST_CASE("dropout stands where each part is added", "[transformer]") {
  nn::TransformerLayerOptions options = pre_norm();
  options.dropout = 1;  // nothing passes
  nn::TransformerEncoderLayer encoder(4, 2, options);
  nn::TransformerDecoderLayer decoder(4, 2, options);
  const Tensor x = cast(source(), DType::f32), y = cast(target(), DType::f32);
  CHECK(same_bits(encoder(x), x));
  CHECK(same_bits(decoder(y, x), y));
  encoder.eval();
  CHECK(!same_bits(encoder(x), x));
}

TEST_CASE("gradients of transformer layers are right", "[transformer]") {
  Tensor x = source(), y = target();
  x.set_requires_grad(), y.set_requires_grad();
  for (auto& options : {post_norm(), pre_norm()}) {
    const auto encoder = prepared<nn::TransformerEncoder>(options, true);
    const auto decoder = prepared<nn::TransformerDecoder>(options, true);
    std::vector<Tensor> inputs = encoder.parameters();
    for (auto& p : decoder.parameters()) inputs.push_back(p);
    inputs.push_back(x), inputs.push_back(y);
    const auto result = gradcheck(
        [&](const std::vector<Tensor>&) {
          const Tensor memory = encoder(x, nn::MultiheadAttentionInputs{.key_padding_mask = padding});
          return decoder(y, memory, nn::MultiheadAttentionInputs{.is_causal = true},
                         nn::MultiheadAttentionInputs{.key_padding_mask = padding});
        },
        inputs);
    INFO(result.report);
    CHECK(result.passed);
  }
}

TEST_CASE("a decoder in steps gives what it gives at once", "[transformer]") {
  const NoGrad off;
  for (auto& options : {post_norm(), pre_norm()}) {
    const auto decoder = prepared<nn::TransformerDecoder>(options, true);
    const Tensor y = wave({2, 5, 4}, 0.7), memory = source();
    const Tensor whole =
        decoder(y, memory, nn::MultiheadAttentionInputs{.is_causal = true}, nn::MultiheadAttentionInputs{.key_padding_mask = padding});
    auto caches = decoder.caches(memory, 5);
    int64_t first = 0;
    for (const int64_t length : {2, 1, 2}) {
      const Tensor part = decoder.step(narrow(y, 1, first, length), caches, padding);
      CHECK(difference(part, narrow(whole, 1, first, length), DType::f64) <= 1);
      first += length;
    }
    // Row 1 twice instead of both goes on as row 1 would.
    auto chosen = decoder.caches(memory, 5);
    decoder.step(narrow(y, 1, 0, 4), chosen, padding);
    const Tensor rows = tensor<int64_t>({1, 1}, {2});
    for (auto& cache : chosen) {
      cache.self.select(rows);
      cache.memory = {index_select(cache.memory.k, 0, rows), index_select(cache.memory.v, 0, rows)};
    }
    const Tensor last = decoder.step(index_select(narrow(y, 1, 4, 1), 0, rows), chosen, index_select(padding, 0, rows));
    for (int64_t row : {0, 1}) CHECK(difference(select(last, 0, row), select(narrow(whole, 1, 4, 1), 0, 1), DType::f64) <= 1);
  }
  const auto decoder = prepared<nn::TransformerDecoder>(post_norm(), false);
  // Two rows for each sequence of the memory, or the memory twice.
  const Tensor rows = tensor<int64_t>({0, 0, 1, 1}, {4}), four = wave({4, 1, 4}, 0.9);
  auto shared = decoder.caches(source(), 2), own = decoder.caches(index_select(source(), 0, rows), 2);
  CHECK(difference(decoder.step(four, shared, padding), decoder.step(four, own, index_select(padding, 0, rows)), DType::f64) <= 1);
  auto other = decoder.caches(source(), 2);
  CHECK_THROWS_WITH(decoder.step(narrow(four, 0, 0, 3), other), ContainsSubstring("query [3, 1, 4] has 3 rows, but memory has 2"));
  std::vector<nn::TransformerDecoderCache> none;
  CHECK_THROWS_WITH(decoder.step(target(), none), ContainsSubstring("0 caches for 2 layers"));
  const nn::TransformerDecoderLayer time_first(4, 2);
  CHECK_THROWS_WITH(time_first.cache(source(), 3), ContainsSubstring("needs batch_first"));
}

TEST_CASE("sinusoidal positions are those of the paper", "[transformer]") {
  const Tensor p = nn::sinusoidal_positions(3, 4, 5);
  REQUIRE(p.shape() == Shape{3, 4});
  for (int64_t i = 0; i < 3; ++i) {
    const double at = double(5 + i);
    const std::vector<double> expected{std::sin(at), std::cos(at), std::sin(at / 100), std::cos(at / 100)};
    for (int64_t k = 0; k < 4; ++k) CHECK(select(select(p, 0, i), 0, k).item() == Approx(expected[size_t(k)]).epsilon(1e-6));
  }
  CHECK_THROWS_WITH(nn::sinusoidal_positions(3, 0), ContainsSubstring("(3, 0)"));
}
