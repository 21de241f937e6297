// translate: the Transformer of 2017, from two files of sentences to translations.
//
//     translate train --source train.en --target train.de --out runs/en-de
//     translate translate --from runs/en-de --input text.en
//     translate evaluate --from runs/en-de --source test.en --target test.de
//     translate attention --from runs/en-de --sentence "A man reads." --out attention.svg
#include <omp.h>
#include <CLI/CLI.hpp>

#include <chrono>
#include <iostream>

#include <examples/common/cli.h>
#include <retape/io/file.h>

#include "data.h"
#include "search.h"
#include "train.h"

using namespace retape;

namespace {

struct SearchFlags {
  std::string from, device = "auto";
  int64_t beam = 4, tokens = 4096;
  double length_penalty = 0.6;
  int threads = 0;
};
void add_search(CLI::App& app, SearchFlags& o) {
  app.add_option("--from", o.from, "run folder (its averaged weights, if it is done) or checkpoint")->required();
  app.add_option("--beam", o.beam, "hypotheses that are kept; 1: greedy")->check(CLI::Range(1, 1000));
  app.add_option("--length-penalty", o.length_penalty, "0 prefers short translations, larger ones longer")->check(CLI::NonNegativeNumber);
  app.add_option("--tokens", o.tokens, "places of the sources that are translated at once")->check(CLI::PositiveNumber);
  app.add_option("--device", o.device, examples::device_help);
  app.add_option("--threads", o.threads, "threads; 0 takes all cores")->check(CLI::NonNegativeNumber);
}
translate::Trained load(const SearchFlags& o) {
  if (o.threads > 0) omp_set_num_threads(o.threads);
  const Device device = examples::device_of(o.device);
  translate::Trained trained = translate::load(o.from);
  trained.model.to(device);
  return trained;
}

std::function<void()> translate_verb(CLI::App& app) {
  struct Options : SearchFlags {
    std::string input, out;
  };
  auto o = std::make_shared<Options>();
  add_search(app, *o);
  app.add_option("--input", o->input, "text file with a sentence a line; standard input if not given");
  app.add_option("--out", o->out, "file to write; standard output if not given");
  return [o] {
    auto trained = load(*o);
    std::vector<std::string> lines;
    if (!o->input.empty()) lines = translate::read_lines(o->input);
    else
      for (std::string line; std::getline(std::cin, line);) lines.push_back(line);
    std::string text;
    for (auto& line : translate::translate(trained.model, trained.tokenizer, lines, o->beam, o->length_penalty, o->tokens))
      text += line + "\n";
    if (o->out.empty()) fmt::print("{}", text);
    else write_file_atomically(o->out, text);
  };
}

std::function<void()> evaluate_verb(CLI::App& app) {
  struct Options : SearchFlags {
    std::string source, out;
    std::vector<std::string> target;
  };
  auto o = std::make_shared<Options>();
  add_search(app, *o);
  app.add_option("--source", o->source, "text file with a sentence a line")->required();
  app.add_option("--target", o->target, "their translations; several files for several references")->required();
  app.add_option("--out", o->out, "file for the translations");
  return [o] {
    auto trained = load(*o);
    const auto lines = translate::read_lines(o->source);
    std::vector<std::vector<std::string>> references;
    for (auto& file : o->target) {
      references.push_back(translate::read_lines(file));
      if (references.back().size() != lines.size())
        throw Error(fmt::format("{} has {} lines, {} has {}; line by line they must be translations of each other", o->source, lines.size(),
                                file, references.back().size()));
    }
    const auto start = std::chrono::steady_clock::now();
    const auto found = translate::translate(trained.model, trained.tokenizer, lines, o->beam, o->length_penalty, o->tokens);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (!o->out.empty()) write_file_atomically(o->out, fmt::format("{}\n", fmt::join(found, "\n")));
    const Bleu bleu = corpus_bleu(found, references);
    fmt::print("{}\n{}\n{} sentences in {:.1f} s\n", bleu.str(), bleu.signature(), lines.size(), seconds);
  };
}

std::function<void()> attention_verb(CLI::App& app) {
  struct Options {
    std::string from, sentence, translation, out = "attention.svg";
    int64_t layer = 0;
  };
  auto o = std::make_shared<Options>();
  app.add_option("--from", o->from, "run folder or checkpoint")->required();
  app.add_option("--sentence", o->sentence, "what is translated")->required();
  app.add_option("--translation", o->translation, "its translation; if not given, the one that is found");
  app.add_option("--layer", o->layer, "of the decoder, from 1; 0: the mean of all")->check(CLI::NonNegativeNumber);
  app.add_option("--out", o->out, "file to write");
  return [o] {
    auto trained = translate::load(o->from);
    const auto map = translate::attention_map(trained, o->sentence, o->translation, o->layer);
    write_file_atomically(o->out, map.svg);
    fmt::print("{}\n", map.translation);
  };
}

}  // namespace

int main(int argc, char** argv) {
  using translate::TrainOptions;
  return examples::run_program(
      argc, argv, "translate", "translation with the Transformer of 2017",
      {{"train", "trains on two files of sentences", examples::verb<TrainOptions, translate::declare, translate::train>},
       {"translate", "translates lines", translate_verb},
       {"evaluate", "translates lines and compares them with others' translations (BLEU)", evaluate_verb},
       {"attention", "draws what a translation attends to in its source", attention_verb}});
}
