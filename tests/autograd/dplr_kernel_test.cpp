// What tests/op_cases.h cannot say of dplr_kernel: many channels, states and positions, states that fade, bad input.
#include <omp.h>

#include "../nn/golden.h"
#include "../op_cases.h"

using namespace retape;
using namespace retape::testing;

namespace {

// States that neither grow nor fade soon.
std::vector<Tensor> draw_kernel(int64_t channels, int64_t pairs, DType dtype = DType::f64) {
  const Shape s{channels, pairs, 2};
  std::vector<Tensor> x = {values(s, -0.7, 0.7, 1, dtype), values(s, -0.3, 0.3, 2, dtype),
                           values(s, -0.3 / double(pairs + 1), 0.3 / double(pairs + 1), 3, dtype), values(s, -1, 1, 4, dtype),
                           values(s, -1, 1, 5, dtype)};
  for (Tensor& t : x) t.set_requires_grad();
  return x;
}
Tensor run(const std::vector<Tensor>& x, int64_t length) { return dplr_kernel(x[0], x[1], x[2], x[3], x[4], length); }

}  // namespace

TEST_CASE("a kernel of many channels and positions has the gradients of its states", "[dplr_kernel]") {
  struct Size {
    int64_t channels, pairs, length;
  };
  for (const auto& [H, N, length] : {Size{1, 1, 1}, Size{19, 5, 100}, Size{3, 33, 64}, Size{8, 2, 2}}) {
    INFO("H " << H << ", N " << N << ", length " << length);
    const auto x = draw_kernel(H, N), y = draw_kernel(H, N);
    const Tensor a = run(x, length), b = kernel_of_states(y, length);
    CHECK(relative_difference(a, b) < 1e-13);
    backward(sum(square(a))), backward(sum(square(b)));
    for (size_t i = 0; i < 5; ++i) {
      if (length == 1 && i < 3) {  // no state goes on
        CHECK(sum(abs(x[i].grad())).item() == 0);
        continue;
      }
      INFO("input " << i);
      CHECK(relative_difference(x[i].grad(), y[i].grad()) < 1e-12);
    }
  }
}

TEST_CASE("a kernel without positions, channels or states is empty or 0", "[dplr_kernel]") {
  const auto x = draw_kernel(2, 3), none = draw_kernel(2, 0);
  const Tensor y = run(x, 0), zero = run(none, 4);
  CHECK(y.shape() == Shape{2, 0});
  backward(sum(y));
  CHECK(sum(abs(x[0].grad())).item() == 0);
  CHECK(sum(abs(x[3].grad())).item() == 0);
  CHECK(zero.to_vector<double>() == std::vector<double>(8, 0.0));
  CHECK(run(draw_kernel(0, 3), 4).shape() == Shape{0, 4});
}

TEST_CASE("a kernel is the same bits for any number of threads", "[dplr_kernel]") {
  const auto all = [](int threads) {
    const int before = omp_get_max_threads();
    omp_set_num_threads(threads);
    const auto x = draw_kernel(70, 5, DType::f32);
    std::vector<Tensor> r = {run(x, 50)};
    backward(sum(square(r[0])));
    omp_set_num_threads(before);
    for (auto& t : x) r.push_back(t.grad());
    return r;
  };
  const auto one = all(1), five = all(5);
  for (size_t i = 0; i < one.size(); ++i) CHECK(same_bits(one[i], five[i]));
}

TEST_CASE("dplr_kernel says what does not fit", "[dplr_kernel]") {
  const Tensor a = zeros({2, 3, 2}), b = zeros({2, 4, 2});
  CHECK_THAT(error_of([&] {
               dplr_kernel(zeros({2, 3}), a, a, a, a, 4);
             }),
             ContainsSubstring("dplr_kernel: factor is [2, 3]; its shape must be (H, N, 2)"));
  CHECK_THAT(error_of([&] { dplr_kernel(a, a, b, a, a, 4); }),
             ContainsSubstring("dplr_kernel: q is [2, 4, 2], but factor is [2, 3, 2]; they must be equal"));
  CHECK_THAT(error_of([&] { dplr_kernel(a, a, a, a, zeros({2, 3, 2}, {DType::i64}), 4); }), ContainsSubstring("c has dtype i64"));
  CHECK_THAT(error_of([&] { dplr_kernel(a, a, a, a, a, -1); }), ContainsSubstring("length is -1; it must be 0 or more"));
}
