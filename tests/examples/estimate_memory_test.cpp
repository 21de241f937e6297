// What a training step will take, against what it takes.
#include <examples/gpt/model.h>

#include "../catch.h"

#define main custom_op_main
#include <examples/custom_op/custom_op.cpp>
#undef main

namespace {

struct Measured {
  int64_t first = 0, later = 0;
};
// The peaks of the first and of a later training step, over what was in use before the model was made.
template <class Make, class Loss> Measured measured(const Make& make, const Loss& loss, int accumulate = 1) {
  const int64_t before = memory_stats().live;
  auto model = make();
  AdamW optimizer(model.parameters());
  Measured m;
  for (int64_t* peak : {&m.first, &m.later}) {
    reset_peak_memory();
    optimizer.zero_grad();
    for (int i = 0; i < accumulate; ++i) backward(loss(model));
    optimizer.step();
    *peak = memory_stats().peak - before;
  }
  return m;
}
std::string within(double tolerance, int64_t estimated, int64_t real) {
  const double ratio = double(estimated) / double(real);
  return std::abs(ratio - 1) <= tolerance ? "" : "estimated " + std::to_string(estimated) + ", measured " + std::to_string(real);
}

Tensor random_ids(int64_t vocab, int64_t batch, int64_t length) { return randint(0, vocab, {batch, length}); }

void check_gpt(const gpt::Config& config, int64_t batch, int accumulate = 1) {
  const auto make = [&] { return gpt::Gpt(config); };
  const int64_t before = memory_stats().live;
  const Tensor ids = random_ids(config.vocab, batch, config.block), targets = random_ids(config.vocab, batch, config.block);
  const int64_t inputs = memory_stats().live - before;
  Measured real = measured(make, [&](gpt::Gpt& m) { return m.loss(ids, targets); }, accumulate);
  real.first += inputs, real.later += inputs;
  const auto estimate = estimate_memory(make(), &gpt::Gpt::loss, {ids, targets}, {.accumulate = accumulate});
  CHECK(within(0.05, estimate.first_peak, real.first) == "");
  CHECK(within(0.05, estimate.peak, real.later) == "");
  WARN(estimate.first_peak << " / " << real.first << " = " << double(estimate.first_peak) / double(real.first) << "; " << estimate.peak << " / " << real.later << " = " << double(estimate.peak) / double(real.later));
}

}  // namespace

TEST_CASE("estimate_memory predicts the peak of a GPT's training step", "[examples][memory]") {
  SECTION("nanoGPT's CPU settings") { check_gpt({.vocab = 65}, 12); }
  SECTION("dropout") { check_gpt({.vocab = 65, .dropout = 0.1}, 12); }
  SECTION("one layer, a small batch") { check_gpt({.vocab = 65, .block = 32, .layers = 1, .heads = 2, .width = 64}, 2); }
  SECTION("a large vocabulary") { check_gpt({.vocab = 5000, .block = 32, .layers = 2, .heads = 2, .width = 64}, 4); }
  SECTION("a long block") { check_gpt({.vocab = 65, .block = 512, .layers = 2, .heads = 4, .width = 64}, 1); }
  SECTION("gradients of two batches") { check_gpt({.vocab = 65, .layers = 2}, 4, 2); }
}

TEST_CASE("estimate_memory predicts the peak of the example with an op of its own", "[examples][memory]") {
  const Tensor x = uniform({4096, 2}, -2, 2);
  const auto loss = [](Net& net, const Tensor& input) { return mean(square(squeeze(net(input), 1) - select(input, 1, 0))); };
  Measured real = measured([] { return Net(); }, [&](Net& net) { return loss(net, x); });
  real.first += 32768, real.later += 32768;  // x
  const auto estimate = estimate_memory(Net(), loss, {x});
  CHECK(within(0.05, estimate.first_peak, real.first) == "");
  CHECK(within(0.05, estimate.peak, real.later) == "");
}
