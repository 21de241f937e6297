// Training word vectors: the loop, its run folder and its checkpoints.
#pragma once
#include <string>

#include <examples/common/run.h>

#include "corpus.h"

namespace retape::word2vec {

/// word2vec's settings.
struct TrainOptions : examples::RunOptions {
  std::string data;
  CorpusOptions corpus;
  std::string model = "skipgram", loss = "ns", path = "fast", optimizer = "sgd";
  int64_t dim = 100, window = 5, negative = 5, epochs = 5;
  double sample = 1e-3, lr = 0;  // lr 0: 0.025, or 0.05 for cbow
  int64_t batch = 0;             // windows; 0: 1 on the fast path's CPU, else 256
  int64_t step_words = 10'000, save_every = 500, map_words = 300;
};
void declare(examples::Settings& settings, TrainOptions& options);

/// Trains and writes config.json, vocab.txt, metrics.csv, loss.svg, events, checkpoints and, at the end, vectors.txt, vectors.bin,
/// vectors.safetensors and map.svg into the run folder. Throws Error.
void train(TrainOptions& options, examples::Settings& settings);

}  // namespace retape::word2vec
