// Positions, patterns and causal self-attention against numbers of PyTorch and transformers; see tests/golden/make_attention.py.
#include "layer_cases.h"

using namespace retape;
using namespace retape::testing;

namespace {

// From transformers' names.
void load(nn::CausalSelfAttention& m, const CaseInputs& x) {
  const NoGrad off;
  m.to(x["x"].dtype());
  for (auto& [name, t] : m.state_dict()) {
    const std::string kind = name.substr(name.find('.'));
    if (name.starts_with("c_attn.")) copy_into(cat({x["q_proj" + kind], x["k_proj" + kind], x["v_proj" + kind]}), t);
    else copy_into(x[name.starts_with("c_proj.") ? "o_proj" + kind : name], t);
  }
}
// The module's biases are the rows of its table that bucket() names.
void check_t5_bias(const Tensor& table, bool bidirectional, int64_t queries, int64_t keys) {
  nn::T5RelativePositionBias m(table.size(1), {.num_buckets = table.size(0), .max_distance = 30, .bidirectional = bidirectional});
  std::vector<int64_t> buckets;
  for (int64_t d = 1 - queries; d < keys; ++d) buckets.push_back(m.bucket(d));
  const NoGrad off;
  m.to(table.dtype());
  copy_into(table, m.relative_attention_bias.weight.tensor());
  CHECK(same_bits(contiguous(m(queries, keys)), contiguous(transpose(index_select(table, 0, tensor(buckets, {queries + keys - 1}))))));
}

}  // namespace

TEST_CASE("attention's options give the numbers of PyTorch and transformers", "[attention]") {
  const auto t5 = [](bool bidirectional) {
    return [=](const CaseInputs& x) {
      check_t5_bias(x["table"], bidirectional, 40, 44);
      const nn::T5RelativePositionBias m(2, {.num_buckets = 12, .max_distance = 30, .bidirectional = bidirectional});
      std::vector<int64_t> buckets;
      for (int64_t d = -39; d < 44; ++d) buckets.push_back(m.bucket(d));
      const Tensor bias = transpose(index_select(x["table"], 0, tensor(buckets, {83})));
      return scaled_dot_product_attention(x["q"], x["k"], x["v"], {.is_causal = !bidirectional, .relative_bias = bias});
    };
  };
  check_layer_cases(
      SafeTensors::open(RETAPE_GOLDEN "/attention.safetensors").tensors(),
      {{"window", [](auto& x) { return scaled_dot_product_attention(x["q"], x["k"], x["v"], {.window_left = 5, .window_right = 2}); }},
       {"sinks",
        [](auto& x) { return scaled_dot_product_attention(x["q"], x["k"], x["v"], {.is_causal = true, .window_left = 5, .sinks = 2}); }},
       {"capped", [](auto& x) { return scaled_dot_product_attention(x["q"], x["k"], x["v"], {.is_causal = true, .softcap = 1.5}); }},
       {"alibi",
        [](auto& x) {
          return scaled_dot_product_attention(x["q"], x["k"], x["v"], {.is_causal = true, .alibi_slopes = nn::alibi_slopes(6)});
        }},
       {"t5", t5(true)},
       {"t5_causal", t5(false)},
       {"packed",
        [](auto& x) {
          return scaled_dot_product_attention(x["q"], x["k"], x["v"],
                                              {.is_causal = true, .cu_seqlens_q = x["begin_q"], .cu_seqlens_k = x["begin_k"]});
        }},
       {"llama",
        [](auto& x) {
          nn::CausalSelfAttention m(12, {.num_heads = 4, .num_kv_heads = 2, .head_dim = 6, .bias = true, .rope = {.base = 500}});
          load(m, x);
          return m(x["x"]);
        }},
       {"qwen3", [](auto& x) {
          nn::CausalSelfAttention m(12, {.num_heads = 4, .num_kv_heads = 2, .head_dim = 6, .rope = {.base = 500}, .qk_norm = true});
          load(m, x);
          return m(x["x"]);
        }}});
}

TEST_CASE("rotary tables under scaling are transformers'", "[rope]") {
  const Golden golden(RETAPE_GOLDEN "/rope.safetensors");
  using Type = nn::RopeScalingType;
  const auto options = [](nn::RopeScaling scaling, int64_t rotary_dim = 0) {
    return nn::RotaryEmbeddingOptions{.base = 500, .rotary_dim = rotary_dim, .scaling = scaling};
  };
  const std::vector<std::pair<std::string, nn::RotaryEmbeddingOptions>> cases = {
      {"linear", options({.type = Type::linear, .factor = 4})},
      {"dynamic", options({.type = Type::dynamic, .factor = 2, .original_max_position_embeddings = 64})},
      {"yarn", options({.type = Type::yarn, .factor = 4, .original_max_position_embeddings = 64})},
      {"yarn_fractions", options({.type = Type::yarn,
                                  .factor = 8,
                                  .original_max_position_embeddings = 64,
                                  .beta_fast = 8,
                                  .beta_slow = 2,
                                  .truncate = false,
                                  .mscale = 1,
                                  .mscale_all_dim = 0.7})},
      {"yarn_factor", options({.type = Type::yarn, .factor = 4, .original_max_position_embeddings = 64, .attention_factor = 1.25})},
      {"llama3", options({.type = Type::llama3, .factor = 8, .original_max_position_embeddings = 64})},
      {"partial", options({.type = Type::linear, .factor = 2}, 16)},
  };
  for (const auto& [name, o] : cases) {
    const nn::RotaryEmbedding m(32, o);
    for (const int64_t length : {16, 100, 16}) {  // dynamic scaling goes back for a short one
      INFO(name << " " << length);
      // ones in the first half of the rotated features, and zeros behind: cosines, then sines
      const int64_t half = m.options.rotary_dim / 2;
      const Tensor x = cat({ones({length, half}), zeros({length, half}), full({length, 32 - 2 * half}, 7)}, 1), y = m(x);
      const std::string key = name + "." + std::to_string(length);
      CHECK(relative_difference(narrow(narrow(y, 0, length - 8, 8), 1, 0, half), golden(key + ".cos")) <= 1e-5);
      CHECK(relative_difference(narrow(narrow(y, 0, length - 8, 8), 1, half, half), golden(key + ".sin")) <= 1e-5);
      CHECK(same_bits(contiguous(narrow(y, 1, 2 * half, 32 - 2 * half)), full({length, 32 - 2 * half}, 7)));
    }
  }
}

TEST_CASE("NTK-aware scaling divides the lowest frequency by the factor and leaves the highest", "[rope]") {
  const auto plain = nn::RotaryEmbedding(8).inv_freq();
  const auto scaled = nn::RotaryEmbedding(8, {.scaling = {.type = nn::RopeScalingType::ntk, .factor = 4}}).inv_freq();
  CHECK(scaled[0] == Approx(plain[0]));
  CHECK(scaled[3] == Approx(plain[3] / 4));
  // dynamic scaling is that for the factor of the length
  const nn::RotaryEmbedding dynamic(
      8, {.scaling = {.type = nn::RopeScalingType::dynamic, .factor = 3, .original_max_position_embeddings = 10}});
  CHECK(dynamic.inv_freq(10)[3] == Approx(plain[3]));
  CHECK(dynamic.inv_freq(20)[3] == Approx(plain[3] / 4));
}

TEST_CASE("RotaryEmbedding refuses scaling that is not valid", "[rope]") {
  using Type = nn::RopeScalingType;
  const auto error = [](nn::RotaryEmbeddingOptions o) { return error_of([&] { nn::RotaryEmbedding(4, o); }); };
  CHECK_THAT(error({.base = 0}), ContainsSubstring("base 0 is not valid"));
  for (const int64_t dim : {-2, 3, 6})
    CHECK_THAT(error({.rotary_dim = dim}), ContainsSubstring("rotary_dim " + std::to_string(dim) + " is not valid for a head_dim of 4"));
  CHECK_THAT(error({.scaling = {.type = Type::linear, .factor = 0}}), ContainsSubstring("factor = 0"));
  for (const Type type : {Type::dynamic, Type::yarn, Type::llama3})
    CHECK_THAT(error({.scaling = {.type = type, .factor = 2}}), ContainsSubstring("original_max_position_embeddings = 0"));
  CHECK_THAT(error({.rotary_dim = 2, .scaling = {.type = Type::ntk, .factor = 2}}), ContainsSubstring("rotary_dim = 2"));
  CHECK_THAT(error({.scaling = {.type = Type::dynamic, .factor = 0.5, .original_max_position_embeddings = 4}}),
             ContainsSubstring("1 or more"));
  CHECK_THAT(error({.scaling = {.type = Type::yarn, .factor = 2, .original_max_position_embeddings = 4, .beta_slow = 40}}),
             ContainsSubstring("beta_fast = 32"));
  CHECK_THAT(error({.scaling = {.type = Type::llama3, .factor = 2, .original_max_position_embeddings = 4, .low_freq_factor = 4}}),
             ContainsSubstring("high_freq_factor = 4"));
}

TEST_CASE("ALiBi slopes are those of the paper's code, for heads that are no power of two as well", "[attention]") {
  const Golden golden(RETAPE_GOLDEN "/rope.safetensors");
  for (int64_t heads = 1; heads <= 20; ++heads)
    CHECK(relative_difference(nn::alibi_slopes(heads), golden("slopes." + std::to_string(heads))) <= 1e-6);
  CHECK_THAT(error_of([] { nn::alibi_slopes(0); }), ContainsSubstring("0 heads"));
}

TEST_CASE("T5's buckets are transformers', at their borders as well", "[attention]") {
  const Golden golden(RETAPE_GOLDEN "/rope.safetensors");
  for (const bool bidirectional : {false, true})
    for (const auto& [count, most] : {std::pair<int64_t, int64_t>{32, 128}, {8, 20}}) {
      const nn::T5RelativePositionBias m(2, {.num_buckets = count, .max_distance = most, .bidirectional = bidirectional});
      std::vector<int64_t> buckets;
      for (int64_t d = -300; d <= 300; ++d) buckets.push_back(m.bucket(d));
      CHECK(buckets == golden("buckets." + std::to_string(bidirectional) + "." + std::to_string(count)).to_vector<int64_t>());
    }
  nn::T5RelativePositionBias m(3);
  CHECK(m.state_dict()[0].first == "relative_attention_bias.weight");
  CHECK(m(2, 5, 4).shape() == Shape{3, 6});
  CHECK(same_bits(m(1, 5, 4).detach(), narrow(m(5, 5), 1, 0, 5).detach()));
  backward(sum(
      scaled_dot_product_attention(values({1, 3, 4, 2}), values({1, 3, 4, 2}), values({1, 3, 4, 2}, 0, 1, 2), {.relative_bias = m(4, 4)})));
  CHECK(sum(abs(m.relative_attention_bias.weight->grad())).item() > 0);
  CHECK_THAT(error_of([] { nn::T5RelativePositionBias(2, {.num_buckets = 3}); }), ContainsSubstring("3 buckets up to a distance of 128"));
  CHECK_THAT(error_of([] { nn::T5RelativePositionBias(2, {.max_distance = 8}); }), ContainsSubstring("beyond the 8"));
  CHECK_THAT(error_of([&] { m(-1, 2); }), ContainsSubstring("-1 queries"));
}

TEST_CASE("sparse patterns see the blocks that their papers name", "[attention]") {
  const auto rows = [](const nn::BlockPattern& p) {
    std::vector<std::string> all;
    const Tensor mask = p.mask(6 * p.block_size - 1, 6 * p.block_size);
    CHECK(mask.shape() == Shape{1, 6, 6});
    for (int64_t i = 0; i < 6; ++i) {
      all.emplace_back();
      for (int64_t j = 0; j < 6; ++j) all.back() += mask.at({0, i, j}).item<bool>() ? 'x' : '.';
    }
    return all;
  };
  using Rows = std::vector<std::string>;
  CHECK(rows(nn::sparse_patterns::strided(128)) == Rows{"xxx.x.", "xxxx.x", "xxxxx.", ".xxxxx", "x.xxxx", ".x.xxx"});
  CHECK(rows(nn::sparse_patterns::fixed(384, 128, 128)) == Rows{"xxx..x", "xxx..x", "xxx..x", "..xxxx", "..xxxx", "..xxxx"});
  CHECK(rows(nn::sparse_patterns::longformer(100)) == Rows{"xx....", "xxx...", ".xxx..", "..xxx.", "...xxx", "....xx"});
  CHECK(rows(nn::sparse_patterns::longformer(0, 1)) == Rows{"xxxxxx", "xx....", "x.x...", "x..x..", "x...x.", "x....x"});
  const Tensor later = nn::sparse_patterns::longformer(0).mask(10, 150, 140);
  CHECK(later.shape() == Shape{1, 3, 3});
  CHECK(later.to_vector<bool>() == std::vector<bool>{false, false, false, false, false, false, false, false, true});
  CHECK_THAT(error_of([] { nn::sparse_patterns::strided(100); }),
             ContainsSubstring("a stride of 100 positions is no number of blocks of 64"));
  CHECK_THAT(error_of([] { nn::sparse_patterns::strided(128, 32); }), ContainsSubstring("a block_size of 32"));
  CHECK_THAT(error_of([] { nn::sparse_patterns::fixed(128, 192); }),
             ContainsSubstring("a summary of 192 positions does not fit a stride of 128"));
  CHECK_THAT(error_of([] { nn::sparse_patterns::longformer(-1); }), ContainsSubstring("a window of -1"));
  CHECK_THAT(error_of([] { nn::BlockPattern().mask(1, 1); }), ContainsSubstring("no function `sees`"));
}

TEST_CASE("causal self-attention in pieces is that of the whole, with every option", "[attention][sequence_mixer]") {
  using Position = nn::AttentionPosition;
  const std::vector<std::pair<const char*, nn::CausalSelfAttentionOptions>> cases = {
      {"rope", {.num_heads = 4}},
      {"grouped heads, biases", {.num_heads = 4, .num_kv_heads = 2, .head_dim = 6, .bias = true}},
      {"no positions", {.num_heads = 2, .position = Position::none}},
      {"ALiBi", {.num_heads = 3, .head_dim = 4, .position = Position::alibi}},
      {"T5", {.num_heads = 2, .position = Position::t5, .num_buckets = 8, .max_distance = 20}},
      {"window", {.num_heads = 2, .window = 5}},
      {"window of one", {.num_heads = 2, .window = 1}},
      {"window, ALiBi", {.num_heads = 2, .window = 7, .position = Position::alibi}},
      {"window, T5", {.num_heads = 2, .window = 7, .position = Position::t5, .num_buckets = 8, .max_distance = 20}},
      {"blocks", {.num_heads = 2, .sparse = nn::sparse_patterns::longformer(0, 64)}},
      {"capped, normed", {.num_heads = 2, .num_kv_heads = 1, .softcap = 0.5, .qk_norm = true}},
      {"dropout", {.num_heads = 2, .dropout = 0.5}},
      {"partly rotated, llama3",
       {.num_heads = 2,
        .rope = {.interleaved = true,
                 .rotary_dim = 2,
                 .scaling = {.type = nn::RopeScalingType::llama3, .factor = 8, .original_max_position_embeddings = 16}}}},
  };
  const NoGrad off;
  for (const auto& [name, options] : cases) {
    manual_seed(1);
    nn::CausalSelfAttention m(8, options);
    m.to(DType::f64);
    m.eval();
    nn::AnySequenceMixer any(m.clone());
    const int64_t length = options.sparse.sees ? 200 : 40;
    const Tensor x = values({2, length, 8}), whole = m(x);
    const std::vector<int64_t> steps(size_t(length), 1);
    const std::vector<std::vector<int64_t>> ways = {steps, {length}, {1, 3, 9, 1, 1, length - 15}, {length - 7, 1, 2, 4}};
    for (const auto& pieces : ways) {
      INFO(name << " in " << pieces.size() << " pieces");
      if (options.dropout > 0) m.train();  // step() drops nothing
      nn::KVCache state;
      nn::AnySequenceMixer::State of_any;
      int64_t first = 0;
      for (const int64_t n : pieces) {
        const Tensor part = narrow(x, 1, first, n), expected = narrow(whole, 1, first, n);
        CHECK(difference(m.step(part, state), expected, DType::f64) <= 1);
        CHECK(difference(any.step(part, of_any), expected, DType::f64) <= 1);
        first += n;
      }
      if (options.window > 0) CHECK(state.keys().size(2) == options.window - 1);
    }
  }
}

TEST_CASE("a copied state of causal self-attention goes on by itself", "[attention][sequence_mixer]") {
  const NoGrad off;
  for (const int64_t window : {0, 3}) {
    manual_seed(1);
    const nn::CausalSelfAttention m(4, {.num_heads = 1, .window = window});
    const Tensor x = values({1, 8, 4}, -1, 1, 1, DType::f32), other = values({1, 8, 4}, -1, 1, 2, DType::f32);
    nn::KVCache state;
    m.step(narrow(x, 1, 0, 5), state);
    nn::KVCache copy = state;
    m.step(narrow(other, 1, 5, 3), copy);
    CHECK(difference(m.step(narrow(x, 1, 5, 3), state), narrow(m(x), 1, 5, 3), DType::f32) <= 1);
  }
}

TEST_CASE("causal self-attention learns all its parameters, and saves them under GPT-2's names", "[attention]") {
  manual_seed(1);
  nn::CausalSelfAttention m(8, {.num_heads = 2, .position = nn::AttentionPosition::t5, .qk_norm = true});
  std::vector<std::string> names;
  for (auto& [name, t] : m.state_dict()) names.push_back(name);
  CHECK(names == std::vector<std::string>{"c_attn.weight", "c_proj.weight", "q_norm.weight", "k_norm.weight",
                                          "relative_attention.relative_attention_bias.weight"});
  backward(sum(square(m(values({2, 5, 8}, -1, 1, 1, DType::f32)))));
  for (auto& p : m.parameters()) CHECK(sum(abs(p.grad())).item() > 0);
  CHECK(nn::CausalSelfAttention(8, {.num_heads = 2, .position = nn::AttentionPosition::alibi}).state_dict().size() == 2);
}

TEST_CASE("causal self-attention refuses what does not fit", "[attention]") {
  const auto error = [](int64_t embed_dim, nn::CausalSelfAttentionOptions o) {
    return error_of([&] { nn::CausalSelfAttention(embed_dim, o); });
  };
  CHECK_THAT(error(9, {.num_heads = 2}), ContainsSubstring("embed_dim 9 does not divide into 2 heads"));
  CHECK_THAT(error(8, {.num_heads = 4, .num_kv_heads = 3}), ContainsSubstring("4 heads do not share 3 heads"));
  CHECK_THAT(error(8, {.num_heads = 2, .dropout = 2}), ContainsSubstring("dropout 2"));
  CHECK_THAT(error(8, {.num_heads = 2, .window = -1}), ContainsSubstring("window -1"));
  CHECK_THAT(error(8, {.num_heads = 2, .window = 4, .sparse = nn::sparse_patterns::longformer(64)}),
             ContainsSubstring("give one of the two"));
  CHECK_THAT(error(6, {.num_heads = 2}), ContainsSubstring("head_dim 3 is not valid"));
  const NoGrad off;
  const nn::CausalSelfAttention m(8, {.num_heads = 2, .window = 4});
  CHECK_THAT(error_of([&] { m(ones({2, 8})); }), ContainsSubstring("x has shape [2, 8]; it must be (B, T, 8)"));
  nn::KVCache wrong({.window = 5});
  CHECK_THAT(error_of([&] { m.step(ones({1, 1, 8}), wrong); }), ContainsSubstring("a state with a window of 5, but the layer's is 4"));
}
