// What a run keeps in its folder besides metrics and plots: settings and checkpoints.
#pragma once
#include <filesystem>

#include "train.h"

namespace retape::gpt {

/// A trained model and what it reads and writes, as `sample` needs it.
struct Trained {
  TrainOptions options;
  std::shared_ptr<const Tokenizer> tokenizer;
  Gpt model;
};

/// config.json holds every setting. Throws Error if it cannot be written.
void write_config(const std::filesystem::path& run, const TrainOptions& options);
/// Throws Error, naming the file and what is wrong with it.
TrainOptions read_config(const std::filesystem::path& run);
/// The vocabulary, tokenizer.json.
std::shared_ptr<const Tokenizer> read_tokenizer(const std::filesystem::path& run, const Config& model);

/// What text starts from where no prompt is given: a line break, or the first token of a vocabulary that has none.
std::vector<int64_t> start_of_text(const Tokenizer& tokenizer);

/// Loads the model of a checkpoint, whose run folder holds config.json. Throws Error.
Trained load_model(const std::filesystem::path& checkpoint);

/// Where training stands: model.safetensors, optimizer.safetensors, and state.json with step, seconds, generator, loader and, for f16, the loss
/// scaler.
struct Progression {
  int64_t step = 0;
  double seconds = 0;
};
void write_checkpoint(const std::filesystem::path& folder, const Progression& at, const Gpt& model, const AdamW& optimizer,
                      const GradScaler& scaler, const TokenDataset& data);
Progression read_checkpoint(const std::filesystem::path& folder, Gpt& model, AdamW& optimizer, GradScaler& scaler, TokenDataset& data);

}  // namespace retape::gpt
