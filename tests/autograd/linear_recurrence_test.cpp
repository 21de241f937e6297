// What tests/op_cases.h cannot say of linear_recurrence: long sequences, states that fade, bad input.
#include <omp.h>

#include "../nn/golden.h"

using namespace retape;
using namespace retape::testing;

TEST_CASE("a recurrence over many channels and steps is the same bits for any number of threads", "[linear_recurrence]") {
  const auto run = [](int threads) {
    const int before = omp_get_max_threads();
    omp_set_num_threads(threads);
    Tensor a = values({150}, 0.5, 1, 1, DType::f32).set_requires_grad(),
           b = values({3, 300, 150}, -1, 1, 2, DType::f32).set_requires_grad();
    const Tensor h = linear_recurrence(a, b);
    backward(sum(square(h)));
    omp_set_num_threads(before);
    return std::vector<Tensor>{h.detach(), a.grad(), b.grad()};
  };
  const auto one = run(1), four = run(4);
  for (size_t i = 0; i < one.size(); ++i) CHECK(same_bits(one[i], four[i]));
}

TEST_CASE("the state of a recurrence of half types is not rounded between steps", "[linear_recurrence]") {
  for (const DType dtype : {DType::f16, DType::bf16}) {
    // 1 + 2^-12 + ...: each step adds less than half of what a half type resolves at 1.
    const Tensor b = cat({ones({1, 1, 1}), full({1, 512, 1}, 0x1p-12)}, 1);
    const Tensor h = linear_recurrence(ones({1}), cast(b, DType::f32));
    const Tensor low = linear_recurrence(cast(ones({1}), dtype), cast(b, dtype));
    CHECK(low.dtype() == dtype);
    CHECK(select(low, 1, 512).item<double>() == 1.125);
    CHECK(select(h, 1, 512).item<double>() == 1.125);
  }
}

TEST_CASE("a state without input fades to 0 and stays there", "[linear_recurrence]") {
  const Tensor h = linear_recurrence(full({1}, 0.5), cat({ones({1, 1, 1}), zeros({1, 299, 1})}, 1));
  CHECK(select(h, 1, 126).item<double>() == 0x1p-126);
  CHECK(select(h, 1, 127).item<double>() == 0);  // would be denormal
  CHECK(select(h, 1, 299).item<double>() == 0);
  CHECK(full({1}, 0x1p-130).item<double>() == 0x1p-130);  // other code of this thread still has denormal numbers
}

TEST_CASE("a recurrence that grows gives inf, and recurrence_radius says why", "[linear_recurrence]") {
  const Tensor a = tensor<float>({2, 0.5});
  const Tensor h = linear_recurrence(a, ones({1, 200, 2}));
  CHECK(h.to_vector<float>()[199 * 2] == INFINITY);
  CHECK(h.to_vector<float>()[199 * 2 + 1] == Approx(2));
  CHECK(recurrence_radius(a).item() == 2);
  CHECK(recurrence_radius(tensor<float>({3, -4, 1, 0}, {2, 2}), true).item() == 5);
  CHECK(std::isnan(recurrence_radius(tensor<float>({1, NAN})).item()));
  CHECK(recurrence_radius(zeros({0})).item() == 0);
}

TEST_CASE("nan in one channel of a recurrence stays in it, from its step on", "[linear_recurrence]") {
  Tensor b = ones({1, 4, 3});
  copy_into(full({}, NAN), select(select(select(b, 0, 0), 0, 2), 0, 1));
  const auto h = linear_recurrence(full({3}, 0.5), b).to_vector<float>();
  for (size_t t = 0; t < 4; ++t)
    for (size_t c = 0; c < 3; ++c) CHECK(std::isnan(h[t * 3 + c]) == (t >= 2 && c == 1));
}

TEST_CASE("under autocast a recurrence runs in f32", "[linear_recurrence]") {
  const Autocast amp(DType::bf16);
  const Tensor h = linear_recurrence(cast(full({2}, 0.5), DType::bf16), zeros({1, 3, 2}, {DType::bf16}), {.initial = ones({1, 2})});
  CHECK(h.dtype() == DType::f32);
  CHECK(h.to_vector<float>() == std::vector<float>{0.5, 0.5, 0.25, 0.25, 0.125, 0.125});
}

TEST_CASE("factors of one step, however they are written, are not expanded", "[linear_recurrence]") {
  const Tensor b = values({2, 4, 3}, -1, 1, 2);
  for (const Shape& shape : {Shape{3}, Shape{1, 3}, Shape{1, 1, 3}, Shape{2, 1, 3}, Shape{4, 3}, Shape{1}, Shape{}}) {
    INFO(shape.str());
    const Tensor a = leaf(shape);
    const Tensor h = linear_recurrence(a, b);
    CHECK(difference(h, linear_recurrence(contiguous(expand(a, b.shape())), b), DType::f64) <= 1);
    backward(sum(h));
    CHECK(a.grad().shape() == shape);
  }
}

TEST_CASE("linear_recurrence says what does not fit", "[linear_recurrence]") {
  const Tensor b = zeros({2, 4, 3});
  CHECK_THAT(error_of([&] { linear_recurrence(zeros({4}), b); }),
             ContainsSubstring("linear_recurrence: a [4] does not broadcast to b [2, 4, 3]"));
  CHECK_THAT(error_of([&] {
               linear_recurrence(zeros({3}), zeros({4, 3}));
             }),
             ContainsSubstring("b is [4, 3]; its shape must be (B, T, C)"));
  CHECK_THAT(error_of([&] { linear_recurrence(zeros({3}), b, {.initial = zeros({3})}); }),
             ContainsSubstring("initial is [3], but b [2, 4, 3] asks for [2, 3]"));
  CHECK_THAT(error_of([&] {
               linear_recurrence(zeros({3, 2}), b, {.complex = true});
             }),
             ContainsSubstring("(B, T, C, 2) for complex numbers"));
  CHECK_THAT(error_of([&] {
               linear_recurrence(zeros({3, 1}), zeros({2, 4, 3, 2}), {.complex = true});
             }),
             ContainsSubstring("does not broadcast"));
  CHECK_THAT(error_of([&] { linear_recurrence({}, b); }), ContainsSubstring("linear_recurrence: "));
  CHECK_THAT(error_of([&] { linear_recurrence(zeros({3}), cast(b, DType::i64)); }), ContainsSubstring("b has dtype i64"));
  CHECK_THAT(error_of([&] { recurrence_radius(zeros({3}), true); }), ContainsSubstring("recurrence_radius: a is [3]"));
}
