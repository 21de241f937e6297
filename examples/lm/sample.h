// Sampling from a trained model, and looking at its logits.
#pragma once
#include <cstdint>
#include <string>

namespace retape::lm {

struct SampleOptions {
  std::string from, prompt;
  int64_t tokens = 500;
  double temperature = 0.8;
  int64_t top_k = 200;
  uint64_t seed = 1337;
  std::string device = "auto";
  int threads = 0;
};

struct LogitsOptions {
  std::string from, weights, prompt, out;
  std::string device = "auto";
  int threads = 0;
};

/// Writes `ids` (i64, 1 x T) of the prompt and the model's `logits` (f32, 1 x T x vocabulary) to a safetensors file. Throws Error.
void logits(const LogitsOptions& options);

/// Prints the prompt and what the model makes of it. Throws Error.
void sample(const SampleOptions& options);

}  // namespace retape::lm
