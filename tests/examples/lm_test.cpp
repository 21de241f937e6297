// Parts of the language models' trainer that its user does not see by themselves; the trainer as a whole is in lm_test.sh.
#include <examples/lm/mixers.h>
#include <examples/lm/ngram.h>

#include "../catch.h"

using namespace retape;
using namespace retape::testing;

TEST_CASE("n-gram probabilities are interpolated Kneser-Ney's", "[examples][lm]") {
  // 01 twice, 10 twice, 02 once: discounts 1 / (1 + 2 * 2) for pairs; every token follows one other, so that single tokens are even.
  const lm::NgramModel model({0, 1, 0, 1, 0, 2}, 2, 3);
  const int64_t zero = 0;
  CHECK(model.probability(&zero, 1, 1) == Approx((2 - 0.2 + 0.2 * 2 / 3) / 3));
  CHECK(model.probability(&zero, 1, 2) == Approx((1 - 0.2 + 0.2 * 2 / 3) / 3));
  CHECK(model.probability(&zero, 1, 0) == Approx(0.2 * 2 / 3 / 3));
  CHECK(model.probability(nullptr, 0, 1) == Approx(1. / 3));
  CHECK(model.loss({0, 1, 0}, 1) ==
        Approx(-(std::log((1.8 + 0.4 / 3) / 3) + std::log(model.probability(std::vector<int64_t>{1}.data(), 1, 0))) / 2));
  CHECK(model.size() == 6);
}

TEST_CASE("n-gram probabilities of all tokens add up to 1 behind any context", "[examples][lm]") {
  manual_seed(1);
  const auto tokens = randint(0, 5, {300}).to_vector<int64_t>();
  const lm::NgramModel model(tokens, 4, 7);  // two tokens are never seen
  for (const std::vector<int64_t>& context : std::vector<std::vector<int64_t>>{{}, {1}, {6}, {3, 6}, {6, 2, 3}, {0, 1, 2, 3, 4}}) {
    double sum = 0;
    for (int64_t token = 0; token < 7; ++token) {
      const double p = model.probability(context.data(), int64_t(context.size()), token);
      CHECK(p > 0);
      sum += p;
    }
    CHECK(sum == Approx(1));
  }
  CHECK_THAT(error_of([] { lm::NgramModel({0, 3}, 2, 3); }), ContainsSubstring("token 3 is not in a vocabulary of 3"));
  CHECK_THAT(error_of([] { lm::NgramModel({0}, 0, 3); }), ContainsSubstring("an order of 0"));
}

TEST_CASE("a layer whose states would not fade is reported by name", "[examples][lm]") {
  for (const char* name : {"attention", "s4d", "s5", "lru"}) {
    manual_seed(1);
    lm::Config config{.vocab = 5, .mixer = name, .layers = 2, .width = 16};
    nn::LanguageModel model = lm::make_model(config);
    CHECK(lm::unstable(model) == "");
    model.apply<nn::S5>([](nn::S5& m) {
      const NoGrad off;
      copy_into(full(m.Lambda_re->shape(), 1), m.Lambda_re.tensor());
    });
    CHECK((lm::unstable(model) == "") == (std::string(name) != "s5"));
    if (std::string(name) == "s5") CHECK_THAT(lm::unstable(model), ContainsSubstring("S5: a step multiplies a state by up to"));
  }
}

TEST_CASE("every mixer makes a model that goes on from its state", "[examples][lm]") {
  for (const lm::Mixer& mixer : lm::mixers()) {
    INFO(mixer.name);
    manual_seed(1);
    lm::Config config{.vocab = 11, .mixer = mixer.name, .block = 12, .layers = 2, .heads = 2, .window = 4, .width = 16, .chunk = 4};
    if (mixer.name == "sparse") config.window = 64, config.chunk = 64;
    nn::LanguageModel model = lm::make_model(config);
    model.eval();
    model.to(DType::f64);
    const NoGrad off;
    const Tensor ids = randint(0, 11, {2, 12}), whole = model(ids);
    nn::LanguageModel::State state;
    for (int64_t t = 0; t < 12; t += 3) {
      const Tensor last = model.step(narrow(ids, 1, t, 3), state);
      CHECK(sum(abs(last - select(whole, 1, t + 2))).item() <= 1e-8 * sum(abs(whole)).item());
    }
  }
}
