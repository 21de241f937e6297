// Tensors without the tape: creation, dtypes, memory, random numbers, views, arithmetic, and what bad input says.
#include <omp.h>

#include <cmath>
#include <thread>

#include <retape/core/format.h>

#include "../catch.h"

using namespace retape;
using namespace retape::testing;

namespace {
const Tensor made_before_main = arange(3) + 1;
}

TEST_CASE("static tensors may run ops", "[tensor]") { CHECK(made_before_main.to_vector<int64_t>() == std::vector<int64_t>{1, 2, 3}); }

TEST_CASE("creation fills what it says", "[tensor]") {
  CHECK(full({2, 2}, 1.5).to_vector<float>() == std::vector<float>(4, 1.5f));
  CHECK(arange(2, 11, 3).to_vector<int64_t>() == std::vector<int64_t>{2, 5, 8});
  CHECK(arange(1, 0, -0.25, {DType::f32}).to_vector<float>() == std::vector<float>{1, 0.75f, 0.5f, 0.25f});
  CHECK(tensor<int64_t>({1, 2, 3, 4}, {2, 2}).size(-1) == 2);
  CHECK(zeros({}).item() == 0);
  CHECK(ones({3}, {DType::boolean}).to_vector<int64_t>() == std::vector<int64_t>{1, 1, 1});
  CHECK(empty({0, 4}).numel() == 0);
}

TEST_CASE("bad sizes are errors", "[tensor]") {
  CHECK_THROWS_WITH(empty({2, -3}), "empty: size -3 in shape [2, -3] is negative");
  CHECK_THROWS_WITH(empty({int64_t{1} << 40, int64_t{1} << 40}), ContainsSubstring("more than 2^63 bytes"));
  CHECK_THROWS_WITH(empty({0, int64_t{1} << 62, int64_t{1} << 62}), ContainsSubstring("more than 2^63 bytes"));
  CHECK_THROWS_WITH(empty({int64_t{1} << 50}), ContainsSubstring("out of memory"));
  CHECK_THROWS_WITH(empty({1, 1, 1, 1, 1, 1, 1, 1, 1}), ContainsSubstring("9 dimensions are too many; at most 8"));
  CHECK_THROWS_WITH(tensor<float>({1, 2, 3}, {2, 2}), ContainsSubstring("3 values do not fill shape [2, 2], which has 4 elements"));
  CHECK_THROWS_WITH(arange(0, 5, -1), ContainsSubstring("never ends"));
}

TEST_CASE("data is typed", "[tensor]") {
  const Tensor x = ones({2});
  CHECK(x.data<float>()[1] == 1);
  CHECK_THROWS_WITH(x.data<double>(), ContainsSubstring("asked for f64 in a tensor of f32"));
  CHECK_THROWS_WITH(Tensor().data<float>(), ContainsSubstring("undefined"));
  CHECK_THROWS_WITH(x.item(), ContainsSubstring("has 2 elements; item() needs exactly one"));
  CHECK_THROWS_WITH(x.size(1), ContainsSubstring("dim 1 is out of range; expected -1 <= dim < 1"));
  const uint32_t version = x.version();
  x.mutable_data<float>();
  CHECK(x.version() == version + 1);
}

TEST_CASE("meta tensors have shapes and no bytes", "[tensor]") {
  const int64_t before = memory_stats().live;
  const Tensor x = empty({100000, 100000}, {.device = Device::meta()});
  const Tensor y = matmul(relu(x + 1), transpose(x));
  CHECK(y.shape() == Shape{100000, 100000});
  CHECK(memory_stats().live == before);
  CHECK_THROWS_WITH(y.data<float>(), ContainsSubstring("on the meta device"));
  CHECK_THROWS_WITH(sum(y).item(), ContainsSubstring("has no values"));
  CHECK_THROWS_WITH(x + ones({1}), ContainsSubstring("on different devices"));
  CHECK_THROWS_WITH(empty({1}, {.device = Device::cuda()}), ContainsSubstring("has no CUDA"));
}

TEST_CASE("half types round to nearest even and keep infinities and nan", "[dtype]") {
  auto half = [](float v) { return f16(v).bits; };
  CHECK(half(1) == 0x3c00);
  CHECK(half(-2.5f) == 0xc100);
  CHECK(half(65504) == 0x7bff);
  CHECK(half(65520) == 0x7c00);         // rounds up to infinity
  CHECK(half(1 + 0x1p-11f) == 0x3c00);  // halfway: to even
  CHECK(half(1 + 3 * 0x1p-11f) == 0x3c02);
  CHECK(half(0x1p-24f) == 1);  // the least subnormal
  CHECK(half(0x1p-25f) == 0);
  CHECK(half(-0.0f) == 0x8000);
  CHECK(half(INFINITY) == 0x7c00);
  CHECK(std::isnan(float(f16(NAN))));
  CHECK(bf16(1).bits == 0x3f80);
  CHECK(bf16(1 + 0x1p-8f).bits == 0x3f80);
  CHECK(bf16(1 + 3 * 0x1p-8f).bits == 0x3f82);
  CHECK(std::isnan(float(bf16(NAN))));
  for (uint32_t b = 0; b < 65536; ++b) {  // every value survives the way through float
    f16 h;
    h.bits = uint16_t(b);
    bf16 g;
    g.bits = uint16_t(b);
    const bool nan16 = (b & 0x7c00) == 0x7c00 && (b & 0x3ff), nanb = (b & 0x7f80) == 0x7f80 && (b & 0x7f);
    if (!nan16 && f16(float(h)).bits != b) FAIL("f16 " << b);
    if (!nanb && bf16(float(g)).bits != b) FAIL("bf16 " << b);
    if (nan16 && !std::isnan(float(h))) FAIL("f16 nan " << b);
  }
}

TEST_CASE("casts go between all dtypes", "[dtype]") {
  const std::vector<DType> all{DType::f64, DType::f32, DType::f16, DType::bf16, DType::i64, DType::i32, DType::u8, DType::boolean};
  for (DType a : all)
    for (DType b : all) {
      INFO(name_of(a) << " to " << name_of(b));
      const Tensor x = cast(tensor<int64_t>({0, 1, 3}), a);
      const auto y = cast(x, b).to_vector<int64_t>();
      const int64_t three = a == DType::boolean || b == DType::boolean ? 1 : 3;
      CHECK(y == std::vector<int64_t>{0, 1, three});
    }
}

TEST_CASE("dtypes promote as in PyTorch", "[dtype]") {
  auto result = [](DType a, DType b) { return (ones({1}, {a}) + ones({1}, {b})).dtype(); };
  CHECK(result(DType::f32, DType::f64) == DType::f64);
  CHECK(result(DType::f16, DType::f32) == DType::f32);
  CHECK(result(DType::f16, DType::bf16) == DType::f32);
  CHECK(result(DType::i64, DType::f16) == DType::f16);
  CHECK(result(DType::i32, DType::u8) == DType::i32);
  CHECK(result(DType::boolean, DType::u8) == DType::u8);
  CHECK((ones({2}) * 2.5).dtype() == DType::f32);
  CHECK((ones({2}, {DType::f16}) * 2.5).dtype() == DType::f16);
  CHECK((arange(2) * 2).dtype() == DType::i64);
  CHECK((arange(2) * 2.5).dtype() == DType::f32);
  CHECK((arange(3) / arange(1, 4)).dtype() == DType::f32);
  CHECK((ones({2}) + ones({}, {DType::f64})).dtype() == DType::f32);  // a 0-dim tensor takes part like a number
  CHECK((arange(2) + ones({}, {DType::f64})).dtype() == DType::f64);
  CHECK(sum(ones({3}, {DType::boolean})).item<int64_t>() == 3);
}

TEST_CASE("bools add as or and multiply as and", "[dtype]") {
  const Tensor a = tensor<bool>({true, true, false, false}), b = tensor<bool>({true, false, true, false});
  CHECK((a + b).to_vector<int64_t>() == std::vector<int64_t>{1, 1, 1, 0});
  CHECK((a * b).to_vector<int64_t>() == std::vector<int64_t>{1, 0, 0, 0});
  CHECK_THROWS_WITH(a - b, ContainsSubstring("bool tensors cannot be subtracted"));
  CHECK(logical_not(a).to_vector<int64_t>() == std::vector<int64_t>{0, 0, 1, 1});
}

TEST_CASE("integer arithmetic stays integer", "[dtype]") {
  CHECK(neg(arange(3)).to_vector<int64_t>() == std::vector<int64_t>{0, -1, -2});
  CHECK(pow(arange(4), tensor<int64_t>({3})).to_vector<int64_t>() == std::vector<int64_t>{0, 1, 8, 27});
  CHECK(abs(tensor<int64_t>({-2, 3})).to_vector<int64_t>() == std::vector<int64_t>{2, 3});
  CHECK(exp(arange(1)).dtype() == DType::f32);
}

TEST_CASE("shapes that do not broadcast are errors", "[tensor]") {
  CHECK_THROWS_WITH(ones({2, 3}) + ones({2}), ContainsSubstring("add: cannot broadcast [2, 3] with [2]: sizes 3 and 2 at dim -1 differ"));
  CHECK_THROWS_WITH(matmul(ones({3, 4}), ones({3, 4})), "matmul: cannot multiply [3, 4] by [3, 4]: inner sizes 4 and 3 differ");
  CHECK_THROWS_WITH(matmul(arange(3), ones({3})), ContainsSubstring("both must be floating"));
  CHECK_THROWS_WITH(linear(ones({2, 3}), ones({4, 5})), ContainsSubstring("linear: x [2, 3] does not fit weight [4, 5]"));
  CHECK_THROWS_WITH(ones({1}) + Tensor(), ContainsSubstring("add: an operand is an undefined tensor"));
}

TEST_CASE("views share memory and say what does not fit", "[views]") {
  const Tensor x = reshape(arange(12), {3, 4});
  CHECK(transpose(x).shares_storage(x));
  CHECK(reshape(x, {2, -1}).shape() == Shape{2, 6});
  CHECK(reshape(transpose(x), {12}).to_vector<int64_t>()[1] == 4);
  CHECK_FALSE(reshape(transpose(x), {12}).shares_storage(x));
  CHECK(reshape(narrow(reshape(arange(24), {2, 12}), 1, 0, 8), {2, 2, 4}).shares_storage(Tensor()) == false);
  const Tensor rows = narrow(reshape(arange(24), {2, 12}), 1, 4, 8);
  CHECK(reshape(rows, {2, 2, 4}).shares_storage(rows));  // a part of each row, cut further, needs no copy
  CHECK(select(reshape(rows, {2, 2, 4}), 1, 1).to_vector<int64_t>() == std::vector<int64_t>{8, 9, 10, 11, 20, 21, 22, 23});
  CHECK(flatten(ones({2, 3, 4}), 1).shape() == Shape{2, 12});
  CHECK(expand(ones({3, 1}), {2, 3, 4}).strides() == Shape{0, 1, 0});
  CHECK(chunk(arange(5), 2)[1].to_vector<int64_t>() == std::vector<int64_t>{3, 4});
  CHECK(slice(arange(10), 0, -5, 10, 2).to_vector<int64_t>() == std::vector<int64_t>{5, 7, 9});
  CHECK_THROWS_WITH(reshape(x, {5, 3}), ContainsSubstring("[3, 4] has 12 elements, but [5, 3] has 15"));
  CHECK_THROWS_WITH(reshape(x, {5, -1}), ContainsSubstring("12 is no multiple of 5"));
  CHECK_THROWS_WITH(reshape(x, {-1, -1}), ContainsSubstring("size -1"));
  CHECK_THROWS_WITH(reshape(x, {-2, 6}), ContainsSubstring("size -2"));
  CHECK_THROWS_WITH(expand(x, {3, 5}), ContainsSubstring("[3, 4] does not broadcast to [3, 5]"));
  CHECK_THROWS_WITH(narrow(x, 1, 3, 2), ContainsSubstring("elements 3 to 5 of dim 1 are not all in [3, 4]"));
  CHECK_THROWS_WITH(select(x, 0, 3), ContainsSubstring("index 3 is out of range for dim 0 of [3, 4]"));
  CHECK_THROWS_WITH(permute(x, {0, 0}), ContainsSubstring("every dim must occur once"));
  CHECK_THROWS_WITH(split(x, std::vector<int64_t>{1, 1}, 1), ContainsSubstring("parts of sizes [1, 1] do not make up dim 1"));
  CHECK_THROWS_WITH(cat({x, ones({3})}, 0), ContainsSubstring("all other sizes must be equal"));
  CHECK_THROWS_WITH(transpose(x, 0, 2), ContainsSubstring("dim 2 is out of range"));
}

TEST_CASE("extremes follow nan and ties, and need elements", "[reduce]") {
  const Tensor x = tensor<float>({1, NAN, 3, 3, 2, 0}, {2, 3});
  CHECK(std::isnan(amax(x, {1}).to_vector<float>()[0]));
  CHECK(amax(x, {1}).to_vector<float>()[1] == 3);
  CHECK(argmax(x, 1).to_vector<int64_t>() == std::vector<int64_t>{1, 0});
  CHECK(argmin(x, 1).to_vector<int64_t>() == std::vector<int64_t>{1, 2});
  CHECK_THROWS_WITH(amax(ones({0})), ContainsSubstring("no elements to reduce"));
  const Tensor t = Tensor(tensor<double>({1, 2, 2})).set_requires_grad();
  backward(amax(t));
  CHECK(t.grad().to_vector<double>() == std::vector<double>{0, 0.5, 0.5});
  CHECK(any(tensor<bool>({false, true})).item() == 1);
  CHECK(all(tensor<bool>({false, true})).item() == 0);
  CHECK(all(ones({0}, {DType::boolean})).item() == 1);
}

TEST_CASE("ReLU has slope 0 at 0 and keeps nan", "[unary]") {
  const Tensor x = Tensor(tensor<float>({-1, 0, 2})).set_requires_grad();
  backward(sum(relu(x)));
  CHECK(x.grad().to_vector<float>() == std::vector<float>{0, 0, 1});
  CHECK(std::isnan(relu(full({}, NAN)).item()));
}

TEST_CASE("sums over any dims agree with a plain loop", "[reduce]") {
  const Tensor x = values({3, 70, 5, 300}, -1, 1, 4, DType::f32);
  const auto v = x.to_vector<double>();
  for (const Shape& dims : {Shape{0}, Shape{1}, Shape{3}, Shape{0, 1}, Shape{1, 3}, Shape{2, 3}, Shape{0, 2}, Shape{0, 1, 2}, Shape{}}) {
    INFO(dims.str());
    Shape to = x.shape();
    for (int64_t d : dims) to[int(d)] = 1;
    if (dims.rank() == 0) to = {1, 1, 1, 1};
    std::vector<double> expected(size_t(to.numel()), 0.0);
    for (size_t i = 0; i < v.size(); ++i) {
      int64_t rest = int64_t(i), at = 0, stride = 1;
      for (int d = 3; d >= 0; --d) {
        if (to[d] != 1) at += rest % x.shape()[d] * stride, stride *= to[d];
        rest /= x.shape()[d];
      }
      expected[size_t(at)] += v[i];
    }
    const auto got = sum(x, dims).to_vector<double>();
    REQUIRE(got.size() == expected.size());
    for (size_t i = 0; i < got.size(); ++i) CHECK(got[i] == Approx(expected[i]).margin(2e-4));
    const Tensor y = permute(x, {3, 1, 0, 2});  // the same values, other strides
    const Shape inverse{2, 1, 3, 0};
    Shape moved;
    for (int64_t d : dims) moved.push_back(inverse[int(d)]);
    CHECK(sum(sum(y, moved)).item() == Approx(sum(x).item()).margin(1e-2));
  }
}

TEST_CASE("Philox gives the published numbers", "[random]") {  // Random123's known answers
  const Philox zero(0, 0);
  CHECK(zero.x[0] == 0x6627e8d5u);
  CHECK(zero.x[1] == 0xe169c58du);
  CHECK(zero.x[2] == 0xbc57ac4cu);
  CHECK(zero.x[3] == 0x9b00dbd8u);
}

TEST_CASE("random numbers depend on the seed only", "[random]") {
  auto draw_all = [] {
    Generator g(7);
    return std::vector<Tensor>{rand({30000}, {}, g), randn({30001}, {}, g), randint(-5, 5, {20000}, {DType::i64}, g), randperm(1000, g),
                               dropout(ones({30000}), 0.5, true, g)};
  };
  const auto first = draw_all();
  const int threads = omp_get_max_threads();
  omp_set_num_threads(5);
  const auto second = draw_all();
  omp_set_num_threads(threads);
  for (size_t i = 0; i < first.size(); ++i) CHECK(same_bits(first[i], second[i]));
  Generator other(8);
  CHECK_FALSE(same_bits(first[0], rand({30000}, {}, other)));
}

TEST_CASE("random numbers have the right moments", "[random]") {
  Generator g(3);
  const Tensor u = uniform({100000}, 2, 4, {DType::f64}, g), n = normal({100000}, 1, 3, {}, g), k = randint(0, 3, {90000}, {DType::i64}, g);
  CHECK(mean(u).item() == Approx(3).margin(0.01));
  CHECK(amin(u).item() >= 2);
  CHECK(amax(u).item() < 4);
  CHECK(mean(n).item() == Approx(1).margin(0.05));
  CHECK(var(n).item() == Approx(9).margin(0.2));
  for (int64_t v : {0, 1, 2}) CHECK(sum(eq(k, v)).item() == Approx(30000).margin(600));
  std::vector<int64_t> p = randperm(100, g).to_vector<int64_t>();
  std::sort(p.begin(), p.end());
  CHECK(p == arange(100).to_vector<int64_t>());
}

TEST_CASE("results do not depend on the number of threads", "[threads]") {
  const Tensor x = values({300, 700}, -2, 2, 1, DType::f32), w = values({700, 130}, -1, 1, 2, DType::f32);
  auto run = [&](int threads) {
    omp_set_num_threads(threads);
    const Tensor a = Tensor(x).detach().set_requires_grad(), b = Tensor(w).detach().set_requires_grad();
    const Tensor y = gelu(matmul(a, b));
    backward(sum(softmax(y, 1) * y) + mean(a, {0, 1}));
    return std::vector<Tensor>{y.detach(), sum(x, {0}), sum(x, {1}), sum(x), a.grad(), b.grad()};
  };
  const int before = omp_get_max_threads();
  const auto one = run(1);
  for (int threads : {2, 3, 16}) {
    const auto many = run(threads);
    for (size_t i = 0; i < one.size(); ++i) CHECK(same_bits(one[i], many[i]));
  }
  omp_set_num_threads(before);
}

TEST_CASE("tensors of ever other sizes share memory", "[memory]") {
#ifndef RETAPE_NO_POOL
  empty_cache();
  const int64_t before = memory_stats().live;
  // 4 to 8 MiB, each size class once and then once more: the largest block serves all.
  const std::byte* largest = nullptr;
  for (int round = 0; round < 2; ++round)
    for (int64_t eighths = 16; eighths > 8; --eighths) {
      const Tensor t = empty({eighths << 17});
      if (!largest) largest = t->storage->data;
      CHECK(t->storage->data == largest);
      CHECK(memory_stats().live - before == eighths << 19);
      CHECK(memory_stats().cached == 0);
    }
  CHECK(memory_stats().cached == 16 << 19);
  { const Tensor half = empty({15 << 16}); }  // its block would be wasted by more than half
  CHECK(memory_stats().cached == (16 << 19) + (15 << 18));
  // At most 256 MiB wait, or as much as tensors have taken at once; the size that has waited longest goes first.
  empty_cache();
  reset_peak_memory();
  constexpr int64_t mib = 1 << 18;  // floats
  for (const int64_t size : {160, 72, 30}) empty({size * mib});
  CHECK(memory_stats().cached == 262 << 20);
  empty({12 * mib});
  CHECK(memory_stats().cached == 114 << 20);
  empty_cache();
  CHECK(memory_stats().cached == 0);
#endif
}

TEST_CASE("freed memory is used again", "[memory]") {
#ifndef RETAPE_NO_POOL
  const std::byte* p = nullptr;
  {
    const Tensor t = empty({12345});
    p = t->storage->data;
  }
  CHECK(memory_stats().cached > 0);
  CHECK(empty({12300})->storage->data == p);
  empty_cache();
  CHECK(memory_stats().cached == 0);
#endif
  const int64_t live = memory_stats().live;
  {
    const Tensor t = empty({1000});
    CHECK(memory_stats().live >= live + 4000);
    CHECK(uintptr_t(t.data<float>()) % 64 == 0);
  }
  CHECK(memory_stats().live == live);
}

TEST_CASE("tensors print", "[tensor]") {
  CHECK(to_string(tensor<float>({1, -2.5f}, {1, 2})) == "[[ 1.0000, -2.5000]]\nTensor [1, 2] f32");
  CHECK(to_string(arange(2)) == "[0, 1]\nTensor [2] i64");
  CHECK(to_string(reshape(arange(2000), {2, 1000})).find("...") != std::string::npos);
  CHECK(to_string(Tensor()) == "Tensor(undefined)");
}

TEST_CASE("fmt prints tensors and shapes", "[core]") {
  CHECK(fmt::format("{} of {}", full({}, 2, {DType::i64}), Shape{2, 3}) == to_string(full({}, 2, {DType::i64})) + " of [2, 3]");
}
