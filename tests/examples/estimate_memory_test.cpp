// What a training step will take, against what it takes.
#include <examples/lm/model.h>

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

void check_gpt(const lm::Config& config, int64_t batch, int accumulate = 1) {
  const auto make = [&] { return lm::make_model(config); };
  const int64_t before = memory_stats().live;
  const Tensor ids = random_ids(config.vocab, batch, config.block), targets = random_ids(config.vocab, batch, config.block);
  const int64_t inputs = memory_stats().live - before;
  Measured real = measured(
      make, [&](nn::LanguageModel& m) { return m.loss(ids, targets); }, accumulate);
  real.first += inputs, real.later += inputs;
  const auto estimate = estimate_memory(make(), &nn::LanguageModel::loss, {ids, targets}, {.accumulate = accumulate});
  CHECK(within(0.05, estimate.first_peak, real.first) == "");
  CHECK(within(0.05, estimate.peak, real.later) == "");
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

namespace {

struct Layer : nn::Module {
  nn::Linear up, down;
  explicit Layer(int64_t width) : up(width, 4 * width), down(4 * width, width) {}
  Tensor forward(const Tensor& x) { return x + down(gelu(up(x))); }
  RETAPE_FIELDS(up, down)
};
struct Stack : nn::Module {
  std::vector<Layer> layers;
  bool checkpoints;
  Stack(int64_t width, int64_t depth, bool checkpoints) : checkpoints(checkpoints) {
    for (int64_t i = 0; i < depth; ++i) layers.emplace_back(width);
  }
  Tensor forward(Tensor x) {
    for (auto& layer : layers) x = checkpoints ? checkpoint([&](const Tensor& y) { return layer(y); }, x) : layer(x);
    return x;
  }
  RETAPE_FIELDS(layers)
};

}  // namespace

TEST_CASE("estimate_memory follows checkpoints and dtypes", "[examples][memory]") {
  const auto loss = [](Stack& m, const Tensor& x) { return mean(square(cast(m(x), DType::f32))); };
  const auto [checkpoints, dtype] = GENERATE(
      table<bool, DType>({{false, DType::f32}, {true, DType::f32}, {false, DType::f64}, {false, DType::bf16}, {true, DType::f16}}));
  INFO(name_of(dtype) << (checkpoints ? " with checkpoints" : ""));
  const auto make = [&, on = checkpoints, type = dtype] {
    Stack m(64, 6, on);
    m.to(type);
    return m;
  };
  empty_cache();
  const int64_t before = memory_stats().live;
  const Tensor x = cast(rand({512, 64}), dtype);
  const int64_t input = memory_stats().live - before;
  const Measured real = measured(make, [&](Stack& m) { return loss(m, x); });
  const auto estimate = estimate_memory(make(), loss, {x});
  CHECK(estimate.inputs == input);
  CHECK(within(0.05, estimate.first_peak, real.first + input) == "");
  CHECK(within(0.05, estimate.peak, real.later + input) == "");
}

TEST_CASE("estimate_memory leaves model and random numbers alone, and says what is what", "[examples][memory]") {
  nn::Sequential model(nn::Linear(256, 512), nn::Dropout(0.5), nn::Linear(512, 256));
  const auto before = memory_stats(Device::meta());
  const auto generator = default_generator().state();
  const Tensor x = rand({64, 256}), weight = clone(model.parameters()[0]);
  const auto random = default_generator().state();
  const auto e = estimate_memory(model, x, {.optimizer_states = 1});
  CHECK(default_generator().state().offset == random.offset);
  CHECK(random.offset != generator.offset);
  CHECK(memory_stats(Device::meta()).live == before.live);
  CHECK(!model.parameters()[0].grad());
  CHECK(testing::same_bits(model.parameters()[0], weight));
  const int64_t parameters = 4 * (2 * 256 * 512 + 512 + 256);
  CHECK(e.parameters == parameters);
  CHECK(e.gradients == parameters);
  CHECK(e.optimizer_state == parameters);
  CHECK(e.inputs == 64 * 256 * 4);
  CHECK(e.peak >= e.parameters + e.inputs + e.activations + e.optimizer_state);
  CHECK(estimate_memory(model, x).optimizer_state == 2 * parameters);
  model.freeze();
  CHECK_THROWS_WITH(estimate_memory(model, x), ContainsSubstring("no history"));
  CHECK_THROWS_WITH(estimate_memory(model, x, {.optimizer_states = -1}), ContainsSubstring("-1 optimizer states"));
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
