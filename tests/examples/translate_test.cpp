// The translation trainer's parts: sentences and batches, the model, beam search.
#include "../catch.h"
#include "../temporary.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include <examples/translate/data.h>
#include <examples/translate/search.h>
#include <retape/data/bpe_trainer.h>
#include <retape/io/file.h>

using namespace retape;
using namespace retape::testing;
using namespace retape::translate;

namespace {

// Pairs of n sentences of 1 to 9 tokens.
Pairs some_pairs(int64_t n) {
  Pairs pairs;
  for (int64_t i = 0; i < n; ++i) {
    pairs.source.emplace_back(size_t(1 + i % 9), i + 10);
    pairs.target.emplace_back(size_t(2 + i * 7 % 8), i + 10);
  }
  return pairs;
}

// Tokens: 0 pad, 1 <s>, 2 </s>, and three words.
Config tiny() { return {.vocab = 6, .layers = 2, .width = 8, .heads = 2, .feed_forward = 12, .dropout = 0.1}; }
Translator translator(Config config = tiny(), uint64_t seed = 3) {
  manual_seed(seed);
  Translator model(config);
  const NoGrad off;
  for (auto& p : model.parameters()) copy_into(p * 2, p);  // probabilities that differ
  model.eval();
  return model;
}
const Tensor sources = tensor<int64_t>({3, 4, 5, 2, 5, 2, 0, 0}, {2, 4});

// log p of a translation, from one run of the whole decoder.
double log_probability(Translator& model, const Tensor& source, std::vector<int64_t> ids, bool ends) {
  const NoGrad off;
  if (ends) ids.push_back(2);
  std::vector<int64_t> target{1};
  target.insert(target.end(), ids.begin(), ids.end());
  const Tensor y = log_softmax(model(source, tensor(target, {1, int64_t(target.size())})), -1);
  double total = 0;
  for (size_t i = 0; i < ids.size(); ++i) total += select(select(select(y, 0, 0), 0, int64_t(i)), 0, ids[i]).item();
  return total;
}

}  // namespace

TEST_CASE("lines come from plain and compressed files, and must be UTF-8 and as many", "[translate]") {
  const TemporaryFolder folder;
  const auto a = folder.path / "a.txt", b = folder.path / "b.txt";
  write_file_atomically(a, "Ein Hund.\r\n\nzwei");
  CHECK(read_lines(a) == std::vector<std::string>{"Ein Hund.", "", "zwei"});
  write_file_atomically(b, std::string("\x1f\x8b\x08\0\0\0\0\0\x02\x03K\xe4J\xe2\x02\0\x97*W\x18\x04\0\0\0", 24));  // gzip of "a\nb\n"
  CHECK(read_lines(b) == std::vector<std::string>{"a", "b"});
  CHECK(error_of([&] { read_sentences(a, b); }).find("a.txt has 3 lines, ") != std::string::npos);
  write_file_atomically(b,
                        "eins\nzw\xff"
                        "ei\n");
  CHECK(error_of([&] { read_lines(b); }).find("line 2 is not UTF-8: byte 0xff at position 2") != std::string::npos);
  write_file_atomically(b, "");
  CHECK(error_of([&] { read_sentences(b, b); }).find("are empty") != std::string::npos);
  Sentences s;
  for (int i = 0; i < 45; ++i) s.source.push_back(std::to_string(i)), s.target.push_back("t" + std::to_string(i));
  const Sentences valid = take_validation(s);
  CHECK((valid.source == std::vector<std::string>{"19", "39"} && valid.target == std::vector<std::string>{"t19", "t39"} && s.size() == 43));
  CHECK(error_of([&] {
          Sentences few = valid;
          take_validation(few);
        }).find("2 pairs of sentences are too few") != std::string::npos);
}

TEST_CASE("sentences become ids between <s> and </s>; long and empty ones are left out", "[translate]") {
  BpeTrainer trainer({.vocab_size = 300, .special_tokens = {"<pad>", "<s>", "</s>"}});
  const Sentences s{{"a dog", "", "a dog and another dog and a third dog and so on and so on", "dog"}, {"ein Hund", "x", "y", "Hund"}};
  for (auto& line : s.source) trainer.add_text(line);
  const BpeTokenizer tokenizer = trainer.train();
  const Pairs pairs = encode(s, tokenizer, 12, "test");
  REQUIRE((pairs.size() == 2 && pairs.left_out == 2));
  auto source = tokenizer.encode("a dog"), target = tokenizer.encode("ein Hund");
  source.push_back(2), target.push_back(2), target.insert(target.begin(), 1);
  CHECK((pairs.source[0] == source && pairs.target[0] == target));
  const PairBatch batch = make_batch(pairs, {1, 0}, 0);
  CHECK(batch.tokens == int64_t(pairs.source[0].size() + pairs.target[0].size() + pairs.source[1].size() + pairs.target[1].size()));
  auto padded = pairs.source[1];
  padded.resize(pairs.source[0].size(), 0);
  CHECK(select(batch.source, 0, 0).to_vector<int64_t>() == padded);
  CHECK(select(batch.target, 0, 1).to_vector<int64_t>() == pairs.target[0]);
  CHECK(error_of([&] { encode(s, tokenizer, 1, "test"); }).find("of 4 test pairs of sentences none has 1 to 1 tokens") !=
        std::string::npos);
}

TEST_CASE("an epoch's batches hold every pair once, few pads, and depend on the seed alone", "[translate]") {
  const Pairs pairs = some_pairs(500);
  const TokenBatches batches(pairs, 60, 7);
  std::map<int64_t, std::vector<std::vector<int64_t>>> epochs;
  for (int64_t i = 0; batches.epoch(i) < 3; ++i) epochs[batches.epoch(i)].push_back(batches.batch(i));
  for (auto& [number, epoch] : epochs) {
    std::multiset<int64_t> rows;
    int64_t places = 0, tokens = 0;
    std::vector<size_t> lengths;
    for (auto& batch : epoch) {
      size_t longest = 0;
      for (const int64_t r : batch) {
        rows.insert(r);
        longest = std::max({longest, pairs.source[size_t(r)].size(), pairs.target[size_t(r)].size()});
        tokens += int64_t(pairs.target[size_t(r)].size());
      }
      CHECK(longest * batch.size() <= 60);
      places += int64_t(longest * batch.size());
      lengths.push_back(longest);
    }
    CHECK(rows.size() == 500);
    CHECK(std::set<int64_t>(rows.begin(), rows.end()).size() == 500);
    CHECK(double(tokens) / double(places) > 0.7);
    CHECK(!std::is_sorted(lengths.begin(), lengths.end()));
  }
  CHECK(epochs[0] != epochs[1]);
  const TokenBatches again(pairs, 60, 7), other(pairs, 60, 8);
  const auto late = int64_t(epochs[0].size() + 3);  // asked for first, and out of order
  CHECK(again.batch(late) == epochs[1][3]);
  CHECK(again.batch(2) == epochs[0][2]);
  CHECK(other.batch(2) != epochs[0][2]);
  CHECK(error_of([&] { TokenBatches(pairs, 8, 7); }).find("a sentence of 9 tokens does not fit a batch of 8") != std::string::npos);
}

TEST_CASE("pads change nothing in the translator, and its loss is the mean over tokens", "[translate]") {
  for (const std::string norm : {"pre", "post"}) {
    Config config = tiny();
    config.norm = norm;
    auto model = translator(config);
    CHECK(bool(model.encoder.norm) == (norm == "pre"));
    const Tensor targets = tensor<int64_t>({1, 3, 4, 2, 1, 5, 2, 0}, {2, 4});
    const Tensor short_source = tensor<int64_t>({5, 2}, {1, 2}), short_target = tensor<int64_t>({1, 5, 2}, {1, 3});
    const Tensor both = model(sources, targets), one = model(short_source, short_target);
    CHECK(difference(narrow(narrow(both, 0, 1, 1), 1, 0, 3), one, DType::f32) <= 1);
    // Five tokens are to be found: three of the first target, two of the second.
    const Tensor first = model.loss(narrow(sources, 0, 0, 1), narrow(targets, 0, 0, 1), 0),
                 second = model.loss(short_source, short_target, 0);
    CHECK(model.loss(sources, targets, 0).item() == Approx((3 * first.item() + 2 * second.item()) / 5).epsilon(1e-5));
    CHECK(-log_probability(model, short_source, {5}, true) / 2 == Approx(second.item()).epsilon(1e-5));
    CHECK(model.loss(sources, targets, 0.1).item() != Approx(model.loss(sources, targets, 0).item()));
  }
  CHECK(sum(abs(select(translator().embedding.weight, 0, 0))).item() == 0);
}

TEST_CASE("recomputation changes no bit of a translator's gradients", "[translate]") {
  const Tensor targets = tensor<int64_t>({1, 3, 4, 2, 1, 5, 2, 0}, {2, 4});
  std::vector<Tensor> expected;
  for (const std::string way : {"none", "every:1", "sqrt", "pointwise"}) {
    Config config = tiny();
    config.recompute = way;
    auto model = translator(config);
    model.train();
    manual_seed(5);
    backward(model.loss(sources, targets, 0.1));
    std::vector<Tensor> grads;
    for (auto& p : model.parameters()) grads.push_back(p.grad());
    if (expected.empty()) expected = grads;
    for (size_t i = 0; i < grads.size(); ++i) CHECK(same_bits(grads[i], expected[i]));
  }
}

TEST_CASE("a wide beam finds the best of all translations, and scores are what they say", "[translate]") {
  auto model = translator();
  const int64_t longest = 3;
  for (const double penalty : {0.0, 0.6, 2.0}) {
    const auto found = beam_search(model, sources, {.beam = 60, .length_penalty = penalty, .max_length = longest});
    REQUIRE(found.size() == 2);
    for (int64_t i : {0, 1}) {
      const Tensor source = i ? tensor<int64_t>({5, 2}, {1, 2}) : narrow(sources, 0, 0, 1);
      // All of them: up to two words and </s>, or three words.
      std::vector<Hypothesis> all;
      const std::function<void(std::vector<int64_t>)> grow = [&](std::vector<int64_t> ids) {
        const bool full = int64_t(ids.size()) == longest;
        const double p = log_probability(model, source, ids, !full);
        all.push_back({ids, p / std::pow((5 + double(ids.size() + (full ? 0 : 1))) / 6, penalty), p});
        for (int64_t word = 3; word < 6 && !full; ++word) {
          auto longer = ids;
          longer.push_back(word);
          grow(std::move(longer));
        }
      };
      grow({});
      std::sort(all.begin(), all.end(), [](auto& a, auto& b) { return a.score > b.score; });
      auto& hypotheses = found[size_t(i)];
      REQUIRE(hypotheses.size() == all.size());  // 1 + 3 + 9 + 27
      for (size_t k = 0; k < 5; ++k) {
        CHECK(hypotheses[k].ids == all[k].ids);
        CHECK(hypotheses[k].score == Approx(all[k].score).epsilon(1e-4));
        CHECK(hypotheses[k].log_probability == Approx(all[k].log_probability).epsilon(1e-4));
      }
    }
  }
}

TEST_CASE("a beam of one takes the likeliest token each time; the beam and the company of others change nothing else", "[translate]") {
  auto model = translator();
  const NoGrad off;
  const auto greedy = beam_search(model, sources, {.beam = 1, .max_length = 6});
  std::vector<int64_t> ids;
  for (bool ended = false; !ended && ids.size() < 6;) {
    std::vector<int64_t> target{1};
    target.insert(target.end(), ids.begin(), ids.end());
    const Tensor y =
        select(select(model(narrow(sources, 0, 0, 1), tensor(target, {1, int64_t(target.size())})), 0, 0), 0, int64_t(ids.size()));
    const int64_t token = 2 + argmax(narrow(y, 0, 2, 4)).item<int64_t>();
    ended = token == 2;
    if (!ended) ids.push_back(token);
  }
  CHECK(greedy[0].front().ids == ids);
  const auto together = beam_search(model, sources, {.beam = 3, .max_length = 8});
  const auto alone = beam_search(model, tensor<int64_t>({5, 2}, {1, 2}), {.beam = 3, .max_length = 8});
  REQUIRE(together[1].size() == alone[0].size());
  for (size_t k = 0; k < alone[0].size(); ++k) {
    CHECK(together[1][k].ids == alone[0][k].ids);
    CHECK(together[1][k].score == Approx(alone[0][k].score).epsilon(1e-4));
  }
  nn::init::constant(model.embedding.weight, std::nan(""));
  CHECK(error_of([&] { beam_search(model, sources); }).find("are not numbers (nan)") != std::string::npos);
}
