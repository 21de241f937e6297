// Works that are timed on Retape and on PyTorch in turn, in one run: on a noisy machine only such ratios mean something.
#pragma once
#include <examples/gpt/model.h>

namespace retape {

/// nanoGPT's CPU settings; vocabulary as in its character data set.
struct StepSettings {
  int64_t vocab = 65, layers = 4, heads = 4, width = 128, block = 64, batch = 12;
};

/// One training step of a GPT on random tokens: forward, backward, clip, AdamW.
class GptStep {
 public:
  explicit GptStep(const StepSettings& settings);
  void run();

 private:
  gpt::Gpt model_;
  AdamW optimizer_;
  Tensor ids_, targets_;
};

/// Times Retape and the PyTorch of this Python in turn and prints a table. Returns the exit status: 1 if a row misses its goal.
int compare_with_peer(const char* python);

}  // namespace retape
