// Tensors that grow along a dim, and the states of layers that are made of them.
#include <retape/retape.h>

#include "../catch.h"
#include "mixer_checks.h"

#include <set>

using namespace retape;
using namespace retape::testing;
using nn::GrowingTensor;

namespace {

Tensor part(const Tensor& x, int64_t first, int64_t length) { return narrow(x, 1, first, length); }
Tensor numbers(const Shape& shape = {2, 40, 3}) { return values(shape, -1, 1, 1, DType::f32); }
const void* memory_of(const GrowingTensor& x) { return x.all()->storage.get(); }

// How often the memory of the parts of a state moves over steps of one position each.
template <class M, class Parts> int moves(const M& m, int64_t features, int steps, Parts&& parts) {
  const NoGrad off;
  typename M::State state;
  std::set<const void*> seen;
  std::vector<Tensor> alive;  // so that no address is used twice
  for (int i = 0; i < steps; ++i) {
    m.step(zeros({1, 1, features}), state);
    for (const GrowingTensor* x : parts(state)) seen.insert(memory_of(*x)), alive.push_back(x->all());
  }
  return int(seen.size());
}

}  // namespace

TEST_CASE("what is added under NoGrad goes into one buffer that doubles", "[growing_tensor]") {
  const NoGrad off;
  const Tensor x = numbers();
  GrowingTensor a(1);
  CHECK(!a.all());
  CHECK(a.length() == 0);
  std::vector<int64_t> rooms;
  for (int64_t i = 0; i < 40; ++i) {
    a = a.with(part(x, i, 1));
    CHECK(a.length() == i + 1);
    if (rooms.empty() || rooms.back() != a.room()) rooms.push_back(a.room());
  }
  CHECK(same_bits(contiguous(a.all()), x));
  CHECK(rooms == std::vector<int64_t>{0, 16, 34, 70});
  a = GrowingTensor(1).with(part(x, 0, 3), 5);
  CHECK(a.room() == 5);
  CHECK(memory_of(a) != x->storage.get());
  CHECK(GrowingTensor(1).with(part(x, 0, 3), 2).room() == 3);
}
TEST_CASE("what is added while the tape records passes gradients", "[growing_tensor]") {
  const Tensor x = Tensor(numbers()).set_requires_grad(), weights = values({2, 40, 3}, -1, 1, 2, DType::f32);
  GrowingTensor a(1);
  for (const int64_t i : {0, 10, 20, 30}) a = a.with(part(x, i, 10));
  CHECK(a.room() == 0);
  backward(sum(a.all() * weights));
  CHECK(same_bits(x.grad(), weights));
  {
    const NoGrad off;
    a = a.with(part(x, 0, 1));
  }
  CHECK(a.length() == 41);
  CHECK_FALSE(a.all().requires_grad());
}
TEST_CASE("a value that the tape has saved stays as it was when the state goes on", "[growing_tensor]") {
  const Tensor x = numbers();
  GrowingTensor a(1);
  {
    const NoGrad off;
    for (int64_t i = 0; i < 20; ++i) a = a.with(part(x, i, 1));
  }
  const Tensor w = Tensor(values({2, 21, 3}, -1, 1, 2, DType::f32)).set_requires_grad();
  a = a.with(part(x, 20, 1));
  const Tensor y = sum(square(a.all()) * w), expected = square(part(x, 0, 21));
  {
    const NoGrad off;
    a.keep(3);
    for (int64_t i = 0; i < 20; ++i) a = a.with(part(x, i, 1));
  }
  backward(y);
  CHECK(same_bits(w.grad(), expected));
}
TEST_CASE("a copy of a growing tensor goes on by itself, and one that is dropped changes nothing", "[growing_tensor]") {
  const NoGrad off;
  const Tensor x = numbers();
  GrowingTensor a(1);
  for (int64_t i = 0; i < 10; ++i) a = a.with(part(x, i, 1));
  GrowingTensor b = a;
  b = b.with(part(x, 30, 1));
  a = a.with(part(x, 10, 1));
  CHECK(same_bits(contiguous(a.all()), part(x, 0, 11)));
  CHECK(same_bits(contiguous(b.all()), cat({part(x, 0, 10), part(x, 30, 1)}, 1)));
  a.with(part(x, 20, 15));
  CHECK(same_bits(contiguous(a.all()), part(x, 0, 11)));
}
TEST_CASE("a growing tensor forgets, starts again, and takes rows", "[growing_tensor]") {
  const Tensor x = numbers();
  for (const bool recording : {false, true})
    for (const int64_t first : {0, 2, 5}) {
      INFO("recording " << recording << ", the first " << first);
      const Scoped scope(ctx.recording, recording);
      GrowingTensor a(1);
      for (int64_t i = 0; i < 8; ++i) a = a.with(part(x, i, 1));
      a.keep(9, first);
      CHECK(a.length() == 8);
      a.keep(2, first);
      CHECK(same_bits(contiguous(a.all()), cat({part(x, 0, first), part(x, 6, 2)}, 1)));
      a = a.with(part(x, 8, 4));
      CHECK(same_bits(contiguous(a.all()), cat({part(x, 0, first), part(x, 6, 6)}, 1)));
      a.keep(0);
      CHECK(a.length() == 0);
      a = a.with(part(x, 0, 3));
      CHECK(same_bits(contiguous(a.all()), part(x, 0, 3)));
      a.select(tensor<int64_t>({1, 1, 0}, {3}), 6);
      CHECK(a.room() == 6);
      CHECK(same_bits(contiguous(select(a.all(), 0, 1)), contiguous(select(part(x, 0, 3), 0, 1))));
      a.shrink(1);
      CHECK(a.room() == 3);
      CHECK(same_bits(contiguous(select(a.all(), 0, 2)), contiguous(select(part(x, 0, 3), 0, 0))));
      a.clear();
      CHECK(a.length() == 0);
    }
}
TEST_CASE("what is added promotes, and refuses other sizes", "[growing_tensor]") {
  const NoGrad off;
  const Tensor x = numbers();
  GrowingTensor a = GrowingTensor(1).with(cast(part(x, 0, 2), DType::bf16), 8);
  a = a.with(part(x, 2, 2));
  CHECK(a.all().dtype() == DType::f32);
  CHECK(same_bits(contiguous(part(a.all(), 2, 2)), part(x, 2, 2)));
  a = a.with(cast(part(x, 4, 1), DType::bf16));
  CHECK(a.all().dtype() == DType::f32);
  CHECK_THAT(error_of([&] {
               a.with(zeros({2, 1, 1}));
             }),
             ContainsSubstring("[2, 1, 1] on cpu does not go on from [2, 5, 3] on cpu; it must be [2, 1, 3]"));
  CHECK_THAT(error_of([&] { a.with(zeros({2, 3})); }), ContainsSubstring("does not go on from [2, 5, 3]"));
  CHECK_THAT(error_of([&] { a.with(empty({2, 1, 3}, {.device = Device::meta()})); }), ContainsSubstring("on meta does not go on from"));
  CHECK_THAT(error_of([&] { GrowingTensor(3).with(x); }), ContainsSubstring("[2, 40, 3] has no dim 3 to grow along"));
  CHECK_THAT(error_of([&] { a.with(Tensor()); }), ContainsSubstring("undefined"));
  CHECK(a.length() == 5);
}

TEST_CASE("states that hold all positions do not copy them at every step", "[growing_tensor]") {
  const auto of = [](auto&... parts) { return std::vector<const GrowingTensor*>{&parts...}; };
  // One position alone, then buffers for 16, 34, 70 and 142.
  CHECK(moves(nn::GatedAttentionUnit(6, {.query_key_dim = 4}), 6, 100, [&](auto& s) { return of(s.k, s.v, s.bias); }) == 3 * 5);
  CHECK(moves(nn::RelativeSelfAttention(8, {.num_heads = 2}), 8, 100, [&](auto& s) { return of(s.k, s.v); }) == 2 * 5);
  CHECK(moves(nn::TransformerXLAttention(8, {.num_heads = 2}), 8, 100, [&](auto& s) { return of(s.memory, s.k, s.v); }) == 3 * 5);
  // The last 20 positions move to the beginning of a buffer for 42 every 22 steps.
  CHECK(moves(nn::TransformerXLAttention(8, {.num_heads = 2, .mem_len = 20}), 8, 100, [&](auto& s) { return of(s.memory); }) <= 7);
  CHECK(moves(nn::FLASH(6, {.chunk_size = 10, .query_key_dim = 4}), 6, 100, [&](auto& s) { return of(s.k, s.lin_k, s.v); }) == 3 * 2);
  CHECK(moves(nn::DiagAttention(8, {.num_heads = 2, .block_size = 10}), 8, 100, [&](auto& s) { return of(s.k, s.v); }) == 2 * 2);
}
