// What a run's folder gives back: its vocabulary and its model.
#pragma once
#include <filesystem>

#include "train.h"

namespace retape::lm {

/// A trained model and what it reads and writes, as `sample` needs it.
struct Trained {
  std::shared_ptr<const Tokenizer> tokenizer;
  nn::LanguageModel model;
};
/// Loads the model of a run, of one of its checkpoints, or of a folder as transformers saves GPT-2, Llama and Mamba, with tokenizer.json. Throws Error.
Trained load_model(const std::filesystem::path& from);

/// The vocabulary, tokenizer.json.
std::shared_ptr<const Tokenizer> read_tokenizer(const std::filesystem::path& run, const Config& model);

/// What text starts from where no prompt is given: a line break, or the first token of a vocabulary that has none.
std::vector<int64_t> start_of_text(const Tokenizer& tokenizer);

}  // namespace retape::lm
