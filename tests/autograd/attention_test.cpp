// Windows, biases, blocks and packed sequences of attention against scores that are written out.
#include <omp.h>

#include <cmath>

#include "../catch.h"

using namespace retape;
using namespace retape::testing;

namespace {

struct Sizes {
  int64_t batch, heads, kv_heads, queries, keys, head_dim = 4, value_dim = 3;
};
struct Run {
  Tensor y;
  std::vector<Tensor> gradients;  // of q, k, v and a table of relative biases
};

// Which keys are hidden, (1, Hq, T, S), element by element.
Tensor hidden(const Sizes& s, const AttentionParams& p) {
  std::vector<uint8_t> all;
  for (int64_t h = 0; h < s.heads; ++h)
    for (int64_t i = p.query_offset; i < p.query_offset + s.queries; ++i)
      for (int64_t j = 0; j < s.keys; ++j) {
        bool seen = !(p.is_causal && j > i) && !(p.window_right >= 0 && j > i + p.window_right) &&
                    !(p.window_left >= 0 && j < i - p.window_left && j >= p.sinks);
        if (p.block_mask) {
          const int64_t at[] = {p.block_mask.size(0) == 1 ? 0 : h, i / p.block_size, j / p.block_size};
          seen = seen && p.block_mask.at({at[0], at[1], at[2]}).item<bool>();
        }
        all.push_back(!seen);
      }
  return ne(tensor(all, {1, s.heads, s.queries, s.keys}), 0);
}

Run run(const Sizes& s, AttentionParams p, DType dtype, bool fused, bool biased) {
  const auto input = [&](const Shape& shape, uint64_t seed) {
    return cast(values(shape, -1, 1, seed, DType::f32), dtype).set_requires_grad();
  };
  std::vector<Tensor> x = {input({s.batch, s.heads, s.queries, s.head_dim}, 1), input({s.batch, s.kv_heads, s.keys, s.head_dim}, 2),
                           input({s.batch, s.kv_heads, s.keys, s.value_dim}, 3)};
  if (biased) x.push_back(input({s.heads, s.queries + s.keys - 1}, 4));
  Generator g(6);
  Tensor y;
  if (fused) {
    if (biased) p.relative_bias = x[3];
    p.allow_masked_rows = true;  // blocks may hide all
    y = scaled_dot_product_attention(x[0], x[1], x[2], p, g);
  } else {
    const auto repeat = [&](const Tensor& t) { return index_select(t, 1, floor_divide(arange(s.heads), s.heads / s.kv_heads)); };
    Tensor scores = matmul(x[0], transpose(repeat(x[1]))) / std::sqrt(double(s.head_dim));
    if (p.softcap > 0) scores = p.softcap * tanh(scores / p.softcap);
    const Tensor d = arange(s.keys) - unsqueeze(arange(s.queries), 1);
    if (biased)
      scores = scores + reshape(index_select(x[3], 1, reshape(d + (s.queries - 1), {s.queries * s.keys})), {s.heads, s.queries, s.keys});
    if (p.alibi_slopes) scores = scores - cast(reshape(p.alibi_slopes, {s.heads, 1, 1}), dtype) * cast(abs(d - p.query_offset), dtype);
    if (p.mask) scores = masked_fill(scores, logical_not(p.mask), -INFINITY);
    scores = masked_fill(scores, hidden(s, p), -INFINITY);
    y = matmul(dropout(softmax(scores, -1), p.dropout_p, true, g), repeat(x[2]));
  }
  backward(y, {}, cast(values(y.shape(), -1, 1, 7, DType::f32), dtype));
  Run r{y.detach(), {}};
  for (auto& t : x) r.gradients.push_back(t.grad());
  return r;
}

Tensor some_blocks(int64_t heads, int64_t rows, int64_t columns) { return gt(values({heads, rows, columns}, -1, 1, 9), -0.3); }
Tensor slopes(int64_t heads) { return cast(arange(double(heads)) * 0.05 + 0.02, DType::f32); }

}  // namespace

TEST_CASE("attention with every option is that with its scores written out, gradients too", "[attention]") {
  struct Case {
    const char* name;
    Sizes sizes;
    AttentionParams params;
    bool biased = false;
  };
  const std::vector<Case> cases = {
      {"window", {1, 2, 2, 150, 170}, {.window_left = 70, .window_right = 3}},
      {"window to the left", {2, 2, 1, 130, 130}, {.window_left = 64}},
      {"causal window of whole tiles", {1, 2, 1, 200, 200}, {.is_causal = true, .window_left = 64}},
      {"narrow causal window", {1, 4, 2, 140, 140}, {.is_causal = true, .window_left = 3}},
      {"causal is no wider than a window to the right", {1, 1, 1, 70, 80}, {.is_causal = true, .window_right = 5}},
      {"window and sinks", {1, 2, 2, 210, 210}, {.is_causal = true, .window_left = 10, .sinks = 67}},
      {"offset", {1, 2, 2, 70, 150}, {.is_causal = true, .query_offset = 80}},
      {"offset of a tile", {1, 2, 2, 70, 150}, {.is_causal = true, .query_offset = 64}},
      {"offset, window and biases",
       {2, 2, 1, 20, 150},
       {.is_causal = true, .window_left = 90, .query_offset = 130, .alibi_slopes = slopes(2)},
       true},
      {"capped", {1, 2, 2, 70, 70}, {.is_causal = true, .softcap = 0.3}},
      {"ALiBi", {1, 4, 2, 130, 70}, {.alibi_slopes = slopes(4)}},
      {"ALiBi, causal", {2, 6, 2, 130, 130}, {.is_causal = true, .alibi_slopes = slopes(6)}},
      {"relative biases", {2, 4, 2, 130, 150}, {}, true},
      {"blocks", {1, 2, 2, 200, 150}, {.block_mask = some_blocks(1, 4, 3)}},
      {"blocks of heads, causal, offset", {2, 4, 2, 130, 200}, {.is_causal = true, .query_offset = 40, .block_mask = some_blocks(4, 3, 4)}},
      {"large blocks", {1, 2, 2, 200, 300}, {.block_mask = some_blocks(2, 2, 3), .block_size = 128}},
      {"one query: window, cap and biases",
       {2, 4, 2, 1, 131},
       {.is_causal = true, .window_left = 77, .query_offset = 120, .softcap = 0.5, .alibi_slopes = slopes(4)},
       true},
      {"one query: sinks", {1, 2, 2, 1, 131}, {.is_causal = true, .window_left = 7, .sinks = 3, .query_offset = 130}},
      {"all together",
       {2, 4, 2, 150, 200},
       {.mask = gt(values({2, 1, 150, 200}, -1, 1, 8), -0.8),
        .is_causal = true,
        .dropout_p = 0.2,
        .window_left = 100,
        .sinks = 2,
        .query_offset = 50,
        .softcap = 0.7,
        .alibi_slopes = slopes(4),
        .block_mask = some_blocks(4, 4, 4)},
       true},
  };
  for (const auto& c : cases)
    for (const DType dtype : {DType::f64, DType::f32, DType::bf16}) {
      INFO(c.name << ", " << name_of(dtype));
      const Run a = run(c.sizes, c.params, dtype, true, c.biased);
      const Run b = run(c.sizes, c.params, dtype == DType::bf16 ? dtype : DType::f64, false, c.biased);
      const double allowed = dtype == DType::bf16 ? 6 : 1;  // the written form rounds scores and weights to bf16
      CHECK(difference(a.y, b.y, dtype) <= allowed);
      for (size_t i = 0; i < a.gradients.size(); ++i) {
        INFO("gradient " << i);
        if (dtype == DType::bf16 && i == 3) continue;  // sums of hundreds of rounded numbers
        CHECK(difference(a.gradients[i], b.gradients[i], dtype) <= allowed);
      }
    }
}

TEST_CASE("tiles of scores outside of windows and blocks are not computed, backward too", "[attention]") {
  // What is not read may be nan.
  const int64_t length = 512;
  const auto finite = [&](const AttentionParams& p, int64_t first, int64_t end, int64_t first_query) {
    const auto input = [&](uint64_t seed) {
      Tensor x = values({1, 1, length, 4}, -1, 1, seed, DType::f32);
      copy_into(full({1, 1, end - first, 4}, NAN), narrow(x, 2, first, end - first));
      return x.set_requires_grad();
    };
    Tensor q = values({1, 1, length, 4}, -1, 1, 1, DType::f32).set_requires_grad(), k = input(2), v = input(3);
    const Tensor y = scaled_dot_product_attention(q, k, v, p), seen = narrow(y, 2, first_query, length - first_query);
    backward(sum(seen));
    return all(isfinite(seen)).item<bool>() && all(isfinite(narrow(q.grad(), 2, first_query, length - first_query))).item<bool>();
  };
  CHECK(finite({.is_causal = true, .window_left = 63}, 0, 384, 448));
  CHECK_FALSE(finite({.is_causal = true}, 0, 384, 448));
  const Tensor blocks =
      tensor<bool>({true, false, false, false, true, false, true, true, true, true, false, true, true, false, false, true}, {4, 4});
  CHECK(finite({.block_mask = blocks, .block_size = 128}, 128, 256, 384));
  CHECK_FALSE(finite({.block_mask = blocks, .block_size = 128}, 128, 256, 256 - 128));
}

TEST_CASE("packed sequences are what each is by itself, bit by bit", "[attention]") {
  const std::vector<int64_t> begin_q = {0, 70, 70, 75, 140}, begin_k = {0, 66, 80, 80, 150};
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16}) {
    const auto input = [&](const Shape& shape, uint64_t seed) {
      return cast(values(shape, -1, 1, seed, DType::f32), dtype).set_requires_grad();
    };
    AttentionParams p{.is_causal = true, .window_left = 40, .softcap = 2, .alibi_slopes = slopes(4)};
    Tensor q = input({140, 4, 5}, 1), k = input({150, 2, 5}, 2), v = input({150, 2, 3}, 3);
    const Tensor dy = cast(values({140, 4, 3}, -1, 1, 4, DType::f32), dtype);
    AttentionParams packed = p;
    packed.cu_seqlens_q = tensor(begin_q, {5}), packed.cu_seqlens_k = cast(tensor(begin_k, {5}), DType::i32);
    const Tensor y = scaled_dot_product_attention(q, k, v, packed);
    CHECK(y.shape() == Shape{140, 4, 3});
    CHECK(y.is_contiguous());
    backward(y, {}, dy);
    const std::vector<Tensor> gradients = {q.grad(), k.grad(), v.grad()};
    for (Tensor* x : {&q, &k, &v}) x->set_grad({});
    for (size_t n = 0; n < 4; ++n) {
      const auto part = [&](const Tensor& x, const std::vector<int64_t>& begin) {
        return transpose(narrow(x, 0, begin[n], begin[n + 1] - begin[n]), 0, 1);
      };
      const Tensor one = scaled_dot_product_attention(part(q, begin_q), part(k, begin_k), part(v, begin_k), p);
      CHECK(same_bits(one.detach(), part(y, begin_q).detach()));
      backward(one, {}, part(dy, begin_q));
    }
    CHECK(same_bits(q.grad(), gradients[0]));
    CHECK(same_bits(k.grad(), gradients[1]));
    CHECK(same_bits(v.grad(), gradients[2]));
  }
}

TEST_CASE("packed sequences take blocks of the longest one, and dropout", "[attention]") {
  const Tensor q = values({150, 2, 4}), k = values({150, 2, 4}, -1, 1, 2), v = values({150, 2, 4}, -1, 1, 3),
               begin = tensor<int64_t>({0, 20, 150});
  const Tensor blocks = tensor<bool>({true, false, true, true, true, true, false, true, true}, {3, 3});
  AttentionParams p{.block_mask = blocks, .cu_seqlens_q = begin, .cu_seqlens_k = begin, .max_seqlen_q = 130, .max_seqlen_k = 130};
  const Tensor y = scaled_dot_product_attention(q, k, v, p);
  const auto last = [](const Tensor& x) { return transpose(narrow(x, 0, 20, 130), 0, 1); };
  CHECK(same_bits(last(y), scaled_dot_product_attention(last(q), last(k), last(v), {.block_mask = blocks})));
  Generator g(1);
  const Tensor dropped = scaled_dot_product_attention(q, k, ones({150, 2, 4}, {DType::f64}),
                                                      {.dropout_p = 0.5, .cu_seqlens_q = begin, .cu_seqlens_k = begin}, g);
  CHECK(mean(dropped).item() == Approx(1).margin(0.1));
  CHECK(amin(dropped).item() < 0.9);
}

TEST_CASE("a packed query whose blocks hide all of its sequence's keys is refused, one of a sequence without keys is not", "[attention]") {
  const Tensor q = values({100, 2, 4}), k = values({70, 2, 4}, -1, 1, 2);
  AttentionParams p{.cu_seqlens_q = tensor<int64_t>({0, 30, 100}), .cu_seqlens_k = tensor<int64_t>({0, 0, 70})};
  CHECK(sum(abs(narrow(scaled_dot_product_attention(q, k, k, p), 0, 0, 30))).item() == 0);
  p.block_mask = tensor<bool>({true, true, false, false}, {2, 2});
  CHECK_THROWS_WITH(scaled_dot_product_attention(q, k, k, p),
                    ContainsSubstring("query 64 of head 0 of batch element 1 sees none of its 70 keys"));
}

TEST_CASE("a query whose window has no key gets zero where masked rows are allowed, and passes no gradient", "[attention]") {
  for (const bool one : {false, true}) {
    const int64_t queries = one ? 1 : 70;
    Tensor q = leaf({1, 2, queries, 4}), k = leaf({1, 2, 5, 4}, -1, 1, 2), v = leaf({1, 2, 5, 4}, -1, 1, 3), bias = leaf({2, queries + 4});
    AttentionParams p{.window_left = 3, .query_offset = 20, .softcap = 2, .relative_bias = bias};
    CHECK_THROWS_WITH(scaled_dot_product_attention(q, k, v, p),
                      ContainsSubstring("query 0 of head 0 of batch element 0 sees none of its 5 keys"));
    p.allow_masked_rows = true;
    const Tensor y = scaled_dot_product_attention(q, k, v, p);
    backward(sum(y));
    for (const Tensor& x : {y.detach(), q.grad(), k.grad(), v.grad(), bias.grad()}) CHECK(sum(abs(x)).item() == 0);
  }
}

TEST_CASE("the second derivative of attention sees blocks and windows", "[attention]") {
  const Tensor blocks = tensor<bool>({true, false, true, true}, {2, 2});
  const auto second = [&](const AttentionParams& p) {
    Tensor q = leaf({1, 1, 80, 2}), k = leaf({1, 1, 80, 2}, -1, 1, 2), v = leaf({1, 1, 80, 2}, -1, 1, 3);
    const auto first = grad({sum(square(scaled_dot_product_attention(q, k, v, p)))}, {q, k, v}, {.create_graph = true});
    return grad({sum(square(first[0])) + sum(square(first[1])) + sum(square(first[2]))}, {q, k, v});
  };
  AttentionParams p{.window_left = 30, .block_mask = blocks};
  const auto a = second(p), b = second({.mask = logical_not(hidden({1, 1, 1, 80, 80}, [&] {
                                          AttentionParams o = p;
                                          o.block_mask = unsqueeze(blocks, 0);
                                          return o;
                                        }()))});
  for (size_t i = 0; i < 3; ++i) CHECK(difference(a[i], b[i], DType::f64) <= 1);
}

TEST_CASE("memory of attention with biases, windows and blocks grows with the length, not with its square", "[attention]") {
  const auto peak = [](int64_t length, AttentionParams p, bool biased) {
    const auto input = [&](uint64_t seed) { return values({1, 2, length, 16}, -1, 1, seed, DType::f32).set_requires_grad(); };
    const Tensor q = input(1), k = input(2), v = input(3), dy = values({1, 2, length, 16}, -1, 1, 4, DType::f32);
    if (biased) p.relative_bias = values({2, 2 * length - 1}, -1, 1, 5, DType::f32).set_requires_grad();
    reset_peak_memory();
    const int64_t before = memory_stats().live;
    backward(scaled_dot_product_attention(q, k, v, p), {}, dy);
    return memory_stats().peak - before;
  };
  for (const bool biased : {false, true}) {
    const AttentionParams p{.is_causal = true, .window_left = 511, .softcap = 30, .alibi_slopes = slopes(2)};
    CHECK(double(peak(4096, p, biased)) < 2.3 * double(peak(2048, p, biased)));
    CHECK(peak(4096, p, biased) < 4096 * 4096 * 4 / 4);  // a quarter of one head's scores
  }
}

TEST_CASE("gradients of relative biases do not depend on the number of threads", "[attention]") {
  const auto gradient = [] {
    Tensor bias = values({4, 599}, -1, 1, 4, DType::f32).set_requires_grad();
    const auto input = [](int64_t heads, uint64_t seed) { return values({2, heads, 300, 8}, -1, 1, seed, DType::f32); };
    backward(sum(square(scaled_dot_product_attention(input(4, 1), input(2, 2), input(2, 3), {.relative_bias = bias}))));
    return bias.grad();
  };
  const int threads = omp_get_max_threads();
  const Tensor expected = gradient();
  for (const int n : {1, 2, 3}) {
    omp_set_num_threads(n);
    CHECK(same_bits(gradient(), expected));
  }
  omp_set_num_threads(threads);
}

TEST_CASE("ALiBi slopes that want a gradient get one", "[attention]") {
  const auto f = [](const std::vector<Tensor>& x) {
    return scaled_dot_product_attention(x[0], x[0], x[0], {.is_causal = true, .alibi_slopes = x[1]});
  };
  CHECK(gradcheck(f, {leaf({2, 6, 3}), leaf({2}, 0.1, 0.9)}).passed);
}

TEST_CASE("attention says which options do not fit", "[attention]") {
  const Tensor q = ones({1, 4, 3, 8}), k = ones({1, 2, 5, 8}), packed_q = ones({7, 4, 8}), packed_k = ones({7, 2, 8});
  const auto error = [](const Tensor& a, const Tensor& b, const AttentionParams& p) {
    return error_of([&] { scaled_dot_product_attention(a, b, b, p); });
  };
  CHECK_THAT(error(q, k, {.window_left = -2}), ContainsSubstring("window_left = -2 and window_right = -1 are not a window"));
  CHECK_THAT(error(q, k, {.query_offset = -1}), ContainsSubstring("query_offset = -1 and sinks = 0"));
  CHECK_THAT(error(q, k, {.sinks = -1}), ContainsSubstring("sinks = -1"));
  CHECK_THAT(error(q, k, {.softcap = -1}), ContainsSubstring("softcap = -1"));
  CHECK_THAT(error(q, k, {.softcap = NAN}), ContainsSubstring("softcap = nan"));
  CHECK_THAT(error(q, k, {.alibi_slopes = ones({2})}),
             ContainsSubstring("alibi_slopes is [2] of f32; for scores [1, 4, 3, 5] it must be [4]"));
  CHECK_THAT(error(q, k, {.alibi_slopes = zeros({4}, {DType::i64})}), ContainsSubstring("of a floating dtype"));
  CHECK_THAT(error(q, k, {.relative_bias = ones({4, 8})}),
             ContainsSubstring("relative_bias is [4, 8] of f32; for scores [1, 4, 3, 5] it must be [4, 7]"));
  const Tensor block = ones({1, 1, 1}, {DType::boolean});
  CHECK_THAT(error(q, k, {.block_mask = block, .block_size = 96}), ContainsSubstring("a block_size of 96 does not divide into tiles"));
  CHECK_THAT(error(q, k, {.block_mask = block, .block_size = 0}), ContainsSubstring("a block_size of 0"));
  CHECK_THAT(error(q, k, {.query_offset = 62, .block_mask = block}),
             ContainsSubstring("in blocks of 64 it must be [1, 2, 1] or [4, 2, 1] of bool"));
  CHECK_THAT(error(q, k, {.block_mask = ones({1, 1})}), ContainsSubstring("block_mask is [1, 1] of f32"));
  const auto packed = [&](const std::vector<int64_t>& a, const std::vector<int64_t>& b, int64_t longest = 0) {
    return error(packed_q, packed_k,
                 {.cu_seqlens_q = tensor(a, {int64_t(a.size())}), .cu_seqlens_k = tensor(b, {int64_t(b.size())}), .max_seqlen_q = longest});
  };
  CHECK_THAT(packed({0, 6}, {0, 7}), ContainsSubstring("cu_seqlens_q goes from 0 to 6; it must go from 0 to 7"));
  CHECK_THAT(packed({0, 7}, {0, 5, 4, 7}), ContainsSubstring("sequence 1 of cu_seqlens_k goes from 5 to 4"));
  CHECK_THAT(packed({0, 7}, {0, 4, 7}), ContainsSubstring("cu_seqlens_q is of 1 sequences and cu_seqlens_k of 2"));
  CHECK_THAT(packed({0, 2, 7}, {0, 4, 7}, 4), ContainsSubstring("sequence 1 of cu_seqlens_q goes from 2 to 7; it must have from 0 to 4"));
  const Tensor begin = tensor<int64_t>({0, 7});
  CHECK_THAT(error(packed_q, packed_k, {.cu_seqlens_q = begin}), ContainsSubstring("cu_seqlens_q is given and cu_seqlens_k is not"));
  CHECK_THAT(error(packed_q, packed_k, {.mask = ones({7, 7}, {DType::boolean}), .cu_seqlens_q = begin, .cu_seqlens_k = begin}),
             ContainsSubstring("no mask"));
  CHECK_THAT(error(q, k, {.cu_seqlens_q = begin, .cu_seqlens_k = begin}), ContainsSubstring("3 dims, (positions, heads, features)"));
  CHECK_THAT(error(packed_q, packed_k, {.cu_seqlens_q = ones({2}), .cu_seqlens_k = begin}),
             ContainsSubstring("cu_seqlens_q is [2] of f32; it must be i32 or i64"));
}
