// word2vec: word vectors from any text, questions to them, and how good they are.
//
//     word2vec train --data text.txt --out runs/words
//     word2vec query --from runs/words --nearest king
//     word2vec query --from runs/words --analogy man king woman
//     word2vec evaluate --from runs/words --sets word2vec-eval
#include <cmath>

#include <CLI/CLI.hpp>

#include <examples/common/cli.h>
#include <retape/core/error.h>
#include <retape/io/file.h>

#include "evaluate.h"
#include "map.h"
#include "train.h"

using namespace retape;

namespace {

constexpr auto from_help = "run folder, checkpoint, or vectors in word2vec's format (.txt or .bin)";

void print(const std::vector<word2vec::Neighbour>& found) {
  for (auto& [word, similarity] : found) fmt::print("{:.4f}  {}\n", similarity, word);
}

std::function<void()> query_verb(CLI::App& app) {
  struct Options {
    std::string from, nearest;
    std::vector<std::string> analogy;
    int64_t count = 10;
  };
  auto o = std::make_shared<Options>();
  app.add_option("--from", o->from, from_help)->required();
  auto* nearest = app.add_option("--nearest", o->nearest, "a word: those most similar to it, with the cosine");
  app.add_option("--analogy", o->analogy, "three words A B C: what is to C as B is to A")
      ->expected(3)
      ->excludes(nearest)
      ->type_name("A B C");
  app.add_option("--count", o->count, "how many words")->check(CLI::PositiveNumber);
  return [o] {
    if (o->nearest.empty() && o->analogy.empty()) throw Error("what to ask is missing: give --nearest WORD or --analogy A B C");
    const auto vectors = word2vec::WordVectors::load(o->from);
    if (o->analogy.empty()) return print(vectors.nearest(o->nearest, o->count));
    print(vectors.analogy(o->analogy[0], o->analogy[1], o->analogy[2], o->count));
  };
}

std::function<void()> evaluate_verb(CLI::App& app) {
  struct Options {
    std::string from, sets;
  };
  auto o = std::make_shared<Options>();
  app.add_option("--from", o->from, from_help)->required();
  app.add_option("--sets", o->sets,
                 "folder of question files: analogies (`: section`, then lines of four words) and pairs (two words, a number)")
      ->required();
  return [o] {
    const auto vectors = word2vec::WordVectors::load(o->from);
    std::vector<std::string> skipped;
    const auto results = word2vec::evaluate(vectors, o->sets, &skipped);
    fmt::print("{:<50} {:>13}  {}\n", "questions", "known", "score");
    for (auto& r : results)
      fmt::print("{:<50} {:>6}/{:<6}  {}\n", r.name, r.used, r.total,
                 std::isnan(r.score) ? "-"
                 : r.analogies       ? fmt::format("accuracy {:.1f}%", 100 * r.score)
                                     : fmt::format("Spearman {:.4f}", r.score));
    for (auto& name : skipped) fmt::print(stderr, "{} holds neither analogies nor pairs; skipped\n", name);
  };
}

std::function<void()> map_verb(CLI::App& app) {
  struct Options {
    std::string from, out = "map.svg";
    int64_t first = 100, words = 300;
  };
  auto o = std::make_shared<Options>();
  app.add_option("--from", o->from, from_help)->required();
  app.add_option("--out", o->out, "SVG file to write");
  app.add_option("--first", o->first, "how many of the most frequent words to leave out")->check(CLI::NonNegativeNumber);
  app.add_option("--words", o->words, "how many words to draw")->check(CLI::Range(3, 5000));
  return [o] { write_file_atomically(o->out, word2vec::map_svg(word2vec::WordVectors::load(o->from), o->first, o->words, o->from)); };
}

}  // namespace

int main(int argc, char** argv) {
  using word2vec::TrainOptions;
  return examples::run_program(
      argc, argv, "word2vec", "word vectors from any text",
      {{"train", "trains word vectors on a text", examples::verb<TrainOptions, word2vec::declare, word2vec::train>},
       {"query", "finds similar words, and what completes an analogy", query_verb},
       {"evaluate", "compares vectors with what people say: analogies and pairs of words", evaluate_verb},
       {"map", "draws words on a plane, similar ones near each other", map_verb}});
}
