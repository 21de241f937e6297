// Attention over cached keys and values is causal attention over the whole sequence.
#include "../catch.h"

using namespace retape;
using namespace retape::testing;

namespace {
struct Inputs {
  Tensor q, k, v;
};
Inputs inputs(int64_t length, DType dtype = DType::f64) {
  return {values({2, 4, length, 6}, -1, 1, 1, dtype), values({2, 2, length, 6}, -1, 1, 2, dtype),
          values({2, 2, length, 5}, -1, 1, 3, dtype)};
}
Inputs part(const Inputs& x, int64_t first, int64_t length) {
  return {narrow(x.q, 2, first, length), narrow(x.k, 2, first, length), narrow(x.v, 2, first, length)};
}
}  // namespace

TEST_CASE("a sequence in pieces through a cache is the sequence at once", "[kv_cache]") {
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16}) {
    INFO(name_of(dtype));
    const Inputs all = inputs(9, dtype);
    const Tensor whole = scaled_dot_product_attention(all.q, all.k, all.v, {.is_causal = true, .scale = 0.3});
    nn::KVCache cache(9);
    CHECK(!cache.keys());
    for (int round = 0; round < 2; ++round) {  // the second one in a buffer that has been used
      int64_t first = 0;
      for (const int64_t length : {3, 1, 4, 1}) {
        const Inputs x = part(all, first, length);
        CHECK(difference(cache.attend(x.q, x.k, x.v, {.scale = 0.3}), narrow(whole, 2, first, length), dtype) <= 1);
        first += length;
        CHECK(cache.length() == first);
      }
      CHECK(same_bits(cache.keys(), all.k));
      CHECK(same_bits(cache.values(), all.v));
      cache.clear();
      CHECK(cache.length() == 0);
    }
  }
}

TEST_CASE("a cache refuses what does not go on from what it has, and keeps that", "[kv_cache]") {
  CHECK_THROWS_WITH(nn::KVCache(0), ContainsSubstring("capacity of 0 positions"));
  nn::KVCache cache(4);
  const Inputs x = inputs(3);
  cache.attend(x.q, x.k, x.v);
  CHECK_THROWS_WITH(cache.attend(x.q, x.k, x.v), ContainsSubstring("3 more positions do not fit behind 3 of 4"));
  const Inputs one = part(x, 0, 1);
  CHECK_THROWS_WITH(cache.attend(one.q, cast(one.k, DType::f32), one.v), ContainsSubstring("k [2, 2, 1, 6] of f32 does not go on"));
  CHECK_THROWS_WITH(cache.attend(one.q, one.k, narrow(one.v, 3, 0, 4)), ContainsSubstring("v [2, 2, 1, 4] of f64 does not go on"));
  CHECK_THROWS_WITH(cache.attend(narrow(one.q, 0, 0, 1), one.k, one.v), ContainsSubstring("does not fit q [1, 4, 1, 6]"));
  CHECK_THROWS_WITH(cache.attend(one.q, one.k, Tensor{}), ContainsSubstring("v (undefined)"));
  CHECK_THROWS_WITH(cache.attend(clone(one.q).set_requires_grad(), one.k, one.v), ContainsSubstring("generate under NoGrad"));
  CHECK(cache.length() == 3);
  CHECK(same_bits(cache.keys(), x.k));
}

TEST_CASE("a cache goes on from selected rows, and grows again", "[kv_cache]") {
  const Inputs all = inputs(40);
  const Tensor whole = scaled_dot_product_attention(all.q, all.k, all.v, {.is_causal = true, .scale = 0.3});
  const Tensor crossed = tensor<int64_t>({1, 0}, {2}), ones = tensor<int64_t>({1, 1, 1}, {3});
  nn::KVCache cache(40);
  cache.select(crossed);  // nothing is there yet
  bool swapped = false;
  for (int64_t first = 0; first < 39; ++first) {
    Inputs x = part(all, first, 1);
    if (swapped) x = {index_select(x.q, 0, crossed), index_select(x.k, 0, crossed), index_select(x.v, 0, crossed)};
    const Tensor y = cache.attend(x.q, x.k, x.v, {.scale = 0.3}), expected = narrow(whole, 2, first, 1);
    CHECK(difference(y, swapped ? index_select(expected, 0, crossed) : expected, DType::f64) <= 1);
    if (first % 3 == 0) cache.select(crossed), swapped = !swapped;
  }
  CHECK(cache.length() == 39);
  CHECK(same_bits(cache.keys(), narrow(swapped ? index_select(all.k, 0, crossed) : all.k, 2, 0, 39)));
  cache.select(ones);
  CHECK(same_bits(select(cache.values(), 0, 2), select(narrow(all.v, 2, 0, 39), 0, swapped ? 0 : 1)));
}

TEST_CASE("a cache that was selected from takes many positions at once", "[kv_cache]") {
  const Inputs all = inputs(40);
  const Tensor whole = scaled_dot_product_attention(all.q, all.k, all.v, {.is_causal = true, .scale = 0.3});
  nn::KVCache cache(40);
  const Inputs begin = part(all, 0, 3), rest = part(all, 3, 37);
  cache.attend(begin.q, begin.k, begin.v, {.scale = 0.3});
  cache.select(tensor<int64_t>({0, 1}, {2}));
  CHECK(difference(cache.attend(rest.q, rest.k, rest.v, {.scale = 0.3}), narrow(whole, 2, 3, 37), DType::f64) <= 1);
}

TEST_CASE("a cache made by default grows as needed", "[kv_cache]") {
  const Inputs all = inputs(100);
  const Tensor whole = scaled_dot_product_attention(all.q, all.k, all.v, {.is_causal = true});
  nn::KVCache cache;
  int64_t first = 0;
  for (const int64_t length : {1, 20, 1, 70, 8}) {
    const Inputs x = part(all, first, length);
    CHECK(difference(cache.attend(x.q, x.k, x.v), narrow(whole, 2, first, length), DType::f64) <= 1);
    first += length;
  }
  CHECK(same_bits(cache.keys(), all.k));
  CHECK(cache.options().capacity == 0);
}

TEST_CASE("a cache with a window attends as windows over the whole do, and keeps no more", "[kv_cache]") {
  const int64_t length = 90;
  const Inputs all = inputs(length);
  for (const int64_t window : {1, 2, 7, 70})
    for (const int64_t sinks : {0, 1, 3, 9}) {
      const Tensor whole =
          scaled_dot_product_attention(all.q, all.k, all.v, {.is_causal = true, .window_left = window - 1, .sinks = sinks});
      const std::vector<std::vector<int64_t>> ways = {
          std::vector<int64_t>(length, 1), {length}, {50, 1, 1, 38}, {2, 30, 1, 1, 1, 5, 40, 10}};
      for (const auto& pieces : ways) {
        INFO("window " << window << ", " << sinks << " sinks, " << pieces.size() << " pieces");
        nn::KVCache cache({.window = window, .sinks = sinks});
        int64_t first = 0;
        for (const int64_t n : pieces) {
          const Inputs x = part(all, first, n);
          CHECK(difference(cache.attend(x.q, x.k, x.v), narrow(whole, 2, first, n), DType::f64) <= 1);
          first += n;
        }
        const int64_t last = std::min(window - 1, length - sinks);
        CHECK(cache.length() == length);
        CHECK(same_bits(contiguous(cache.keys()), cat({narrow(all.k, 2, 0, sinks), narrow(all.k, 2, length - last, last)}, 2)));
        CHECK(cache.values()->storage->bytes <= size_t(2 * 2 * (sinks + 2 * window) * 5 * 8));
        cache.clear();
        CHECK(cache.keys().size(2) == 0);
      }
    }
}

TEST_CASE("a cache with a window takes selected rows along", "[kv_cache]") {
  const Inputs all = inputs(40);
  const Tensor whole = scaled_dot_product_attention(all.q, all.k, all.v, {.is_causal = true, .window_left = 4, .sinks = 2});
  nn::KVCache cache({.window = 5, .sinks = 2});
  for (int64_t first = 0; first < 40; ++first) {
    const Inputs x = part(all, first, 1);
    CHECK(difference(cache.attend(x.q, x.k, x.v), narrow(whole, 2, first, 1), DType::f64) <= 1);
    if (first % 3 == 0) cache.select(tensor<int64_t>({0, 1}, {2}));
  }
}

TEST_CASE("a copy of a cache goes on by itself", "[kv_cache]") {
  const Inputs all = inputs(20);
  const Tensor whole = scaled_dot_product_attention(all.q, all.k, all.v, {.is_causal = true});
  nn::KVCache a, b;
  const Inputs begin = part(all, 0, 10), one = part(all, 10, 1), other = part(all, 15, 1);
  a.attend(begin.q, begin.k, begin.v);
  b = a;
  b.attend(other.q, other.k, other.v);
  nn::KVCache c(a);
  c.attend(other.q, other.k, other.v);
  CHECK(difference(a.attend(one.q, one.k, one.v), narrow(whole, 2, 10, 1), DType::f64) <= 1);
  CHECK(same_bits(a.keys(), narrow(all.k, 2, 0, 11)));
}

TEST_CASE("a cache takes biases and blocks for the keys that it has", "[kv_cache]") {
  const Inputs all = inputs(130);
  const Tensor slopes = tensor<double>({0.1, 0.2, 0.3, 0.4}), bias = values({4, 259}, -1, 1, 9);
  const Tensor blocks = tensor<bool>({true, false, false, false, true, false, true, false, true}, {1, 3, 3});
  const Tensor whole = scaled_dot_product_attention(
      all.q, all.k, all.v, {.is_causal = true, .softcap = 2, .alibi_slopes = slopes, .relative_bias = bias, .block_mask = blocks});
  nn::KVCache cache;
  int64_t first = 0;
  for (const int64_t n : {60, 1, 9, 1, 59}) {
    const Inputs x = part(all, first, n);
    const int64_t keys = cache.keys_for(n), rows = (first + n + 63) / 64;
    CHECK(keys == first + n);
    const AttentionParams params{.softcap = 2,
                                 .alibi_slopes = slopes,
                                 .relative_bias = narrow(bias, 1, 129 - keys + 1, keys + n - 1),
                                 .block_mask = narrow(narrow(blocks, 1, 0, rows), 2, 0, rows)};
    CHECK(difference(cache.attend(x.q, x.k, x.v, params), narrow(whole, 2, first, n), DType::f64) <= 1);
    first += n;
  }
}

TEST_CASE("a cache refuses options that have no meaning", "[kv_cache]") {
  const auto error = [](nn::KVCacheOptions o) { return error_of([&] { nn::KVCache{o}; }); };
  CHECK_THAT(error({.capacity = -1}), ContainsSubstring("capacity -1, window 0 and sinks 0"));
  CHECK_THAT(error({.sinks = 4}), ContainsSubstring("4 sinks without a window"));
  CHECK_THAT(error({.capacity = 8, .window = 4}), ContainsSubstring("a window of 4 bounds the memory"));
  const Inputs x = inputs(3);
  const Tensor slopes = ones({4}), seen = ones({3, 3}, {DType::boolean});
  const auto refusal = [&](nn::KVCache cache, const AttentionParams& p) {
    const std::string said = error_of([&] { cache.attend(x.q, x.k, x.v, p); });
    CHECK(cache.length() == 0);
    return said;
  };
  CHECK_THAT(refusal(nn::KVCache(), {.mask = seen}), ContainsSubstring("attend() got a mask"));
  CHECK_THAT(refusal(nn::KVCache(), {.dropout_p = 0.5}), ContainsSubstring("got dropout"));
  CHECK_THAT(refusal(nn::KVCache(), {.window_left = 2}), ContainsSubstring("got a window"));
  CHECK_THAT(refusal(nn::KVCache(), {.sinks = 2}), ContainsSubstring("got sinks"));
  CHECK_THAT(refusal(nn::KVCache(), {.query_offset = 2}), ContainsSubstring("got a query_offset"));
  CHECK_THAT(refusal(nn::KVCache(), {.cu_seqlens_q = seen}), ContainsSubstring("got packed sequences"));
  CHECK_THAT(refusal(nn::KVCache({.window = 4}), {.block_mask = seen}), ContainsSubstring("a block_mask next to the cache's window"));
  CHECK_THAT(refusal(nn::KVCache({.window = 4, .sinks = 1}), {.alibi_slopes = slopes}),
             ContainsSubstring("biases by distance next to the cache's sinks"));
  CHECK_THAT(refusal(nn::KVCache(), {.relative_bias = ones({4, 5}).set_requires_grad()}), ContainsSubstring("a bias wants a gradient"));
}
