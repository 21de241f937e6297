#include "run_files.h"

#include <fmt/format.h>

#include <examples/common/run_folder.h>

namespace retape::lm {
namespace fs = std::filesystem;

std::shared_ptr<const Tokenizer> read_tokenizer(const fs::path& run, const Config& model) {
  auto tokenizer = load_tokenizer(run / "tokenizer.json");
  if (tokenizer->size() != model.vocab)
    throw Error(fmt::format("{}: tokenizer.json has {} tokens, but config.json says {}; the run folder is damaged", run.string(),
                            tokenizer->size(), model.vocab));
  return tokenizer;
}

std::vector<int64_t> start_of_text(const Tokenizer& tokenizer) {
  try {
    return tokenizer.encode("\n");
  } catch (const Error&) {
    return {0};
  }
}

Trained load_model(const fs::path& from) {
  if (fs::exists(from / "config.json") && examples::read_json(from / "config.json").contains("model_type")) {
    auto tokenizer = load_tokenizer(from / "tokenizer.json");
    nn::LanguageModel model = nn::load_language_model(from);
    if (model.config.vocab_size < tokenizer->size())
      throw Error(fmt::format("{}: tokenizer.json has {} tokens, but the model knows {}", from.string(), tokenizer->size(),
                              model.config.vocab_size));
    return {std::move(tokenizer), std::move(model)};
  }
  const fs::path checkpoint = examples::find_checkpoint(from).path;
  const fs::path run = fs::absolute(checkpoint).parent_path();
  TrainOptions options;
  examples::Settings settings;
  declare(settings, options);
  examples::read_config(run, settings);
  check(options.model);
  auto tokenizer = read_tokenizer(run, options.model);
  nn::LanguageModel model = make_model(options.model);
  model.load_state_dict(SafeTensors::open(checkpoint / "model.safetensors").tensors());
  return {std::move(tokenizer), std::move(model)};
}

}  // namespace retape::lm
