// Training: the loop, its run folder and its checkpoints.
#pragma once
#include <set>
#include <string>

#include "model.h"

namespace retape::gpt {

/// nanoGPT's settings for a CPU.
struct TrainOptions {
  std::string data, data_format = "auto";  // text, tokens (with our header), u16 (ids without one), or auto
  std::string tokenizer = "char", vocab;   // its type(); what it is loaded from, empty to make it from the text
  Config model;
  int64_t batch = 12, accumulate = 1, steps = 2000;
  double lr = 1e-3, min_lr = 1e-4;
  int64_t warmup = 100;
  double beta1 = 0.9, beta2 = 0.99, weight_decay = 0.1, clip = 1;
  uint64_t seed = 1337;
  std::string amp = "none";     // mixed precision: none, bf16 or f16
  std::string device = "auto";  // as examples::device_of() takes it
  int threads = 0;
  int64_t memory_budget = 0;  // bytes; 0: no limit
  int64_t eval_every = 250, keep = 2, sample_tokens = 500;
  std::string out, resume, weights;
  bool quiet = false;
  std::set<std::string> given;  // flags that stood on the command line: only those may differ from a resumed run
};

/// Trains and writes config.json, metrics.csv, loss.svg, samples.txt and checkpoints into the run folder. Throws Error.
void train(const TrainOptions& options);

/// Writes the text `data` as a file of token ids, which may be larger than memory, and its tokenizer.json into the folder `out`.
/// Throws Error.
void tokenize(const TrainOptions& options);

}  // namespace retape::gpt
