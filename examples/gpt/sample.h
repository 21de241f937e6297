// Sampling from a trained model.
#pragma once
#include <cstdint>
#include <string>

namespace retape::gpt {

struct SampleOptions {
  std::string from, prompt;
  int64_t tokens = 500;
  double temperature = 0.8;
  int64_t top_k = 200;
  uint64_t seed = 1337;
  int threads = 0;
};

/// Prints the prompt and what the model makes of it. Throws Error.
void sample(const SampleOptions& options);

}  // namespace retape::gpt
