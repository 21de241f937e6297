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
        CHECK(difference(cache.attend(x.q, x.k, x.v, 0.3), narrow(whole, 2, first, length), dtype) <= 1);
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
    const Tensor y = cache.attend(x.q, x.k, x.v, 0.3), expected = narrow(whole, 2, first, 1);
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
  cache.attend(begin.q, begin.k, begin.v, 0.3);
  cache.select(tensor<int64_t>({0, 1}, {2}));
  CHECK(difference(cache.attend(rest.q, rest.k, rest.v, 0.3), narrow(whole, 2, 3, 37), DType::f64) <= 1);
}
