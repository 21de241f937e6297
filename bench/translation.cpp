#include "translation.h"

#include <fmt/format.h>

#include <memory>

#include <examples/translate/search.h>

#include "timing.h"

namespace retape::bench {
namespace {

const translate::Config config{.vocab = 8000, .layers = 3, .width = 256, .heads = 4, .feed_forward = 1024};

std::string numbers(int64_t sentences, int64_t source, int64_t target) {
  return fmt::format("{} {} {} {} {} {} {} {}", config.vocab, config.layers, config.width, config.heads, config.feed_forward, sentences,
                     source, target);
}
// Words only: no token that ends a sentence or fills it up.
Tensor words(int64_t sentences, int64_t length) { return randint(4, config.vocab, {sentences, length}); }

}  // namespace

Work translation_step() {
  constexpr int64_t sentences = 256, length = 16;  // 4096 tokens of each language
  struct Step {
    translate::Translator model{config};
    Adam optimizer{model.parameters(), {.lr = 1e-4, .betas = {0.9, 0.98}, .eps = 1e-9}};
    Tensor source = words(sentences, length), target = words(sentences, length + 1);
    void run() {
      optimizer.zero_grad();
      backward(model.loss(source, target, 0.1));
      optimizer.step();
    }
  };
  const auto width = double(config.width);
  // Multiplications of the linear layers for a token of the source, and of the target.
  const double encoder = double(config.layers) * (4 * width * width + 2 * width * double(config.feed_forward));
  const double decoder =
      double(config.layers) * (8 * width * width + 2 * width * double(config.feed_forward)) + width * double(config.vocab);
  return {.name = "translation step, 3 + 3 layers, width 256, 4096 tokens",
          .peer = "translation " + numbers(sentences, length, length),
          .at_least = 1.4,
          .make = []() -> bench::Step { return [step = std::make_shared<Step>()] { step->run(); }; },
          .roof = Roof::fma,
          .amount = 6.0 * double(sentences * length) * (encoder + decoder)};
}

Work beam_decoding() {
  constexpr int64_t sentences = 250, source_length = 16, target_length = 24, beam = 4;
  return {.name = "beam-4 decoding, 250 sentences of 16 tokens to 24 each",
          .peer = "beam_decoding " + numbers(sentences, source_length, target_length),
          .make = []() -> Step {
            auto model = std::make_shared<translate::Translator>(config);
            model->eval();
            const Tensor source = words(sentences, source_length);
            // </s> is a token of no hypothesis, so that all go on to the end.
            return [=] {
              do_not_optimize(translate::beam_search(*model, source, {.beam = beam, .max_length = target_length, .end = -1}).size());
            };
          }};
}

}  // namespace retape::bench
