// Training a translator: the loop, its run folder and its checkpoints.
#pragma once
#include <string>

#include <examples/common/run.h>

#include "model.h"

namespace retape::translate {

struct TrainOptions : examples::RunOptions {
  std::string source, target, source_valid, target_valid, bpe = "byte_level";
  Config model{.layers = 4, .width = 128, .heads = 4, .feed_forward = 256, .dropout = 0.3};
  int64_t vocab_size = 8000, max_length = 128;
  int64_t tokens = 4096, steps = 5000, warmup = 1000;
  double lr_factor = 1.5, label_smoothing = 0.1, beta1 = 0.9, beta2 = 0.98, clip = 0;
  int64_t eval_every = 250, average = 5, workers = 1;
};
void declare(examples::Settings& settings, TrainOptions& options);

/// Trains and writes config.json, tokenizer.json, metrics.csv, loss.svg, bleu.svg, events, checkpoints and, at the end, averaged.safetensors
/// into the run folder. Throws Error.
void train(TrainOptions& options, examples::Settings& settings);

/// A trained model and its vocabulary, from a run, whose averaged weights are taken if it is done, or from a checkpoint. Throws Error.
struct Trained {
  TrainOptions options;
  BpeTokenizer tokenizer;
  Translator model;
};
Trained load(const std::filesystem::path& from);

/// Translates lines with beam search, as many at once as have about `tokens` places.
std::vector<std::string> translate(Translator& model, const BpeTokenizer& tokenizer, const std::vector<std::string>& lines, int64_t beam,
                                   double length_penalty, int64_t tokens = 4096);

/// What each token of a translation attends to in its source, as SVG: of layer `layer` from 1, or of all layers' mean if that is 0. An
/// empty translation is one that beam search finds; it is given back. Throws Error.
struct AttentionMap {
  std::string translation, svg;
};
AttentionMap attention_map(Trained& trained, const std::string& sentence, std::string translation, int64_t layer);

}  // namespace retape::translate
