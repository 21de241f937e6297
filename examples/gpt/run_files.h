// What a run keeps in its folder besides metrics and plots: settings and checkpoints.
#pragma once
#include <filesystem>

#include "train.h"

namespace retape::gpt {

/// A trained model and what it reads and writes, as `sample` needs it.
struct Trained {
  TrainOptions options;
  CharTokenizer tokenizer;
  Gpt model;
};

/// config.json holds every setting and the vocabulary.
std::string to_json(const TrainOptions& options, const CharTokenizer& tokenizer);
/// Throws Error, naming the file and what is wrong with it.
std::pair<TrainOptions, CharTokenizer> read_config(const std::filesystem::path& file);

/// Loads the model of a checkpoint, whose run folder holds config.json. Throws Error.
Trained load_model(const std::filesystem::path& checkpoint);

/// Where training stands: model.safetensors, optimizer.safetensors, and state.json with step, seconds, generator and loader.
struct Progression {
  int64_t step = 0;
  double seconds = 0;
};
void write_checkpoint(const std::filesystem::path& folder, const Progression& at, const Gpt& model, const AdamW& optimizer, const TokenDataset& data);
Progression read_checkpoint(const std::filesystem::path& folder, Gpt& model, AdamW& optimizer, TokenDataset& data);

}  // namespace retape::gpt
