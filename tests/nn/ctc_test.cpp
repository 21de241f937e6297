// Connectionist temporal classification, beyond the numbers in loss_test.cpp.
#include <cmath>

#include "../catch.h"

using namespace retape;
using namespace retape::testing;

namespace {

// The sum over all paths of the probability that they emit the target.
double by_paths(const Tensor& log_probs, const std::vector<int64_t>& target, int64_t blank) {
  const int64_t frames = log_probs.size(0), classes = log_probs.size(1);
  const auto p = log_probs.to_vector<double>();
  double total = 0;
  std::vector<int64_t> path(size_t(frames), 0);
  for (;;) {
    std::vector<int64_t> emitted;
    double product = 1;
    for (size_t t = 0; t < path.size(); ++t) {
      product *= std::exp(p[t * size_t(classes) + size_t(path[t])]);
      if (path[t] != blank && (t == 0 || path[t] != path[t - 1])) emitted.push_back(path[t]);
    }
    if (emitted == target) total += product;
    size_t t = 0;
    while (t < path.size() && ++path[t] == classes) path[t++] = 0;
    if (t == path.size()) return -std::log(total);
  }
}

}  // namespace

TEST_CASE("ctc_loss is the sum over all paths", "[ctc]") {
  const Tensor x = log_softmax(values({5, 1, 3}, -2, 2), 2);
  for (const std::vector<int64_t>& target : {std::vector<int64_t>{1}, {1, 2}, {2, 2}, {1, 1, 2}, {}})
    for (const int64_t blank : {0, 2}) {
      std::vector<int64_t> labels = target;
      if (blank == 2)
        for (auto& l : labels) l = l == 2 ? 0 : l;
      const double loss =
          ctc_loss(x, tensor(labels, {int64_t(labels.size())}), {5}, {int64_t(labels.size())}, {blank, Reduction::sum}).item();
      CHECK(loss == Approx(by_paths(squeeze(x, 1), labels, blank)).epsilon(1e-12));
    }
}

TEST_CASE("the gradient of ctc_loss below log_softmax agrees with differences", "[ctc]") {
  const auto f = [](const std::vector<Tensor>& x) {
    return ctc_loss(log_softmax(x[0], 2), tensor<int64_t>({1, 2, 2, 3, 0, 0}, {2, 3}), {6, 4}, {3, 1}, {.reduction = Reduction::none});
  };
  const auto result = gradcheck(f, {leaf({6, 2, 4})});
  INFO(result.report);
  CHECK(result.passed);
  CHECK_THAT(error_of([&] {
               const Tensor x = leaf({6, 2, 4});
               const auto g = grad({sum(f({x}))}, {x}, {.create_graph = true});
               backward(sum(square(g[0])));
             }),
             ContainsSubstring("ctc_loss: second derivatives are not provided"));
}

TEST_CASE("a target that frames cannot reach has an infinite loss, or 0", "[ctc]") {
  const Tensor x = leaf({3, 2, 3});
  const Tensor targets = tensor<int64_t>({1, 1, 1, 2}, {2, 2});  // 1, 1 needs a blank in between
  for (const bool zero : {false, true}) {
    x.set_grad({});
    const Tensor losses = ctc_loss(log_softmax(x, 2), targets, {2, 3}, {2, 2}, {.reduction = Reduction::none, .zero_infinity = zero});
    CHECK(losses.to_vector<double>()[0] == (zero ? 0 : INFINITY));
    CHECK(std::isfinite(losses.to_vector<double>()[1]));
    backward(sum(losses));
    const auto g = x.grad().to_vector<double>();
    CHECK((zero ? g[0] == 0 : std::isnan(g[0])));
    CHECK(std::isfinite(g[3]));
  }
  CHECK(ctc_loss(x, targets, {0, 0}, {0, 1}, {.reduction = Reduction::none}).to_vector<double>() == std::vector<double>{0, INFINITY});
}

TEST_CASE("half types of ctc_loss are computed in f32, and memory layouts do not matter", "[ctc]") {
  const Tensor targets = tensor<int64_t>({1, 2, 2, 3, 0, 0}, {2, 3});
  const auto loss = [&](const Tensor& x) { return ctc_loss(x, targets, {6, 4}, {3, 1}); };
  const Tensor x = log_softmax(values({6, 2, 4}, -2, 2), 2), y = loss(x);
  for (const DType dtype : {DType::f16, DType::bf16, DType::f32}) {
    const Tensor low = loss(cast(x, dtype));
    CHECK(low.dtype() == dtype);
    CHECK(difference(low, y, dtype) <= 1);
  }
  const Tensor turned = transpose(contiguous(transpose(x, 0, 2)), 0, 2);
  CHECK(same_bits(loss(turned), y));
  CHECK(same_bits(checkpoint([&](const Tensor& h) { return loss(h); }, x), y));
  CHECK(loss(to(x, Device::meta())).shape() == Shape{});
}

TEST_CASE("ctc_loss refuses lengths and labels that do not fit", "[ctc]") {
  const Tensor x = zeros({4, 2, 3}), targets = ones({2, 2}, {DType::i64});
  const auto error = [&](const Tensor& t, const std::vector<int64_t>& in, const std::vector<int64_t>& out, int64_t blank = 0) {
    return error_of([&] { ctc_loss(x, t, in, out, {.blank = blank}); });
  };
  CHECK_THAT(error(targets, {4, 5}, {2, 2}), ContainsSubstring("input_lengths: 5 of sequence 1 is out of range; expected 0 to 4"));
  CHECK_THAT(error(targets, {4, -1}, {2, 2}), ContainsSubstring("input_lengths: -1 of sequence 1"));
  CHECK_THAT(error(targets, {4, 4}, {3, 2}), ContainsSubstring("target_lengths: 3 of sequence 0 is out of range; expected 0 to 2"));
  CHECK_THAT(error(targets, {4}, {2, 2}), ContainsSubstring("input_lengths have shape [1]; there are 2 sequences"));
  CHECK_THAT(error(targets, {4, 4}, {2, 2}, 3), ContainsSubstring("blank 3 is out of range; expected 0 <= blank < 3"));
  CHECK_THAT(error(ones({3, 2}, {DType::i64}), {4, 4}, {2, 2}), ContainsSubstring("[3, 2]") && ContainsSubstring("[4, 2, 3]"));
  CHECK_THAT(error(ones({3}, {DType::i64}), {4, 4}, {2, 2}), ContainsSubstring("there are 3 targets, but target_lengths add up to 4"));
  CHECK_THAT(error(targets + 2, {4, 4}, {2, 2}), ContainsSubstring("index 3 is out of range; expected 0 <= index < 3"));
  CHECK_THAT(error(cast(targets, DType::f32), {4, 4}, {2, 2}), ContainsSubstring("f32"));
}
