// Training: the loop, its run folder and its checkpoints.
#pragma once
#include <string>

#include <examples/common/run.h>

#include "model.h"
#include "text.h"

namespace retape::lm {

/// nanoGPT's settings for a CPU.
struct TrainOptions : examples::RunOptions, TextOptions {
  Config model;
  int64_t batch = 12, accumulate = 1, steps = 2000;
  double lr = 1e-3, min_lr = 1e-4;
  int64_t warmup = 100;
  double beta1 = 0.9, beta2 = 0.99, weight_decay = 0.1, clip = 1;
  int64_t eval_every = 250, sample_tokens = 500;
  std::string weights;
};
/// The flags of `train`, and what config.json holds.
void declare(examples::Settings& settings, TrainOptions& options);

/// Trains and writes config.json, metrics.csv, loss.svg, samples.txt, events and checkpoints into the run folder. Throws Error.
void train(TrainOptions& options, examples::Settings& settings);

}  // namespace retape::lm
