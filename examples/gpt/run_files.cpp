#include "run_files.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include <retape/io/file.h>

namespace retape::gpt {
namespace fs = std::filesystem;
using nlohmann::json;

namespace {

json parse(const fs::path& file) {
  try {
    return json::parse(read_file(file));
  } catch (const json::exception&) {
    throw Error(fmt::format("{} is no JSON; the run folder is damaged", file.string()));
  }
}
template <class T> T get(const json& j, const char* key, const fs::path& file) {
  try {
    return j.at(key).get<T>();
  } catch (const json::exception&) {
    throw Error(fmt::format("{}: \"{}\" is missing or of the wrong type", file.string(), key));
  }
}

}  // namespace

void write_config(const fs::path& run, const TrainOptions& o) {
  const json j = {
      {"data", fs::absolute(o.data).string()},
      {"data_format", o.data_format},
      {"tokenizer", o.tokenizer},
      {"weights", o.weights},
      {"vocab", o.model.vocab},
      {"block", o.model.block},
      {"layers", o.model.layers},
      {"heads", o.model.heads},
      {"width", o.model.width},
      {"dropout", o.model.dropout},
      {"batch", o.batch},
      {"accumulate", o.accumulate},
      {"steps", o.steps},
      {"lr", o.lr},
      {"min_lr", o.min_lr},
      {"warmup", o.warmup},
      {"beta1", o.beta1},
      {"beta2", o.beta2},
      {"weight_decay", o.weight_decay},
      {"clip", o.clip},
      {"seed", o.seed},
      {"amp", o.amp},
      {"device", o.device},
      {"eval_every", o.eval_every},
      {"recompute", o.model.recompute},
      {"memory_budget", o.memory_budget},
      {"keep", o.keep},
      {"sample_tokens", o.sample_tokens},
  };
  write_file_atomically(run / "config.json", j.dump(2) + "\n");
}

TrainOptions read_config(const fs::path& run) {
  const fs::path file = run / "config.json";
  const json j = parse(file);
  TrainOptions o;
  o.data = get<std::string>(j, "data", file), o.data_format = get<std::string>(j, "data_format", file);
  o.tokenizer = get<std::string>(j, "tokenizer", file), o.weights = get<std::string>(j, "weights", file);
  o.model = {.vocab = get<int64_t>(j, "vocab", file),
             .block = get<int64_t>(j, "block", file),
             .layers = get<int64_t>(j, "layers", file),
             .heads = get<int64_t>(j, "heads", file),
             .width = get<int64_t>(j, "width", file),
             .dropout = get<double>(j, "dropout", file),
             .recompute = get<std::string>(j, "recompute", file)};
  check(o.model);
  o.batch = get<int64_t>(j, "batch", file), o.accumulate = get<int64_t>(j, "accumulate", file), o.steps = get<int64_t>(j, "steps", file);
  o.lr = get<double>(j, "lr", file), o.min_lr = get<double>(j, "min_lr", file), o.warmup = get<int64_t>(j, "warmup", file);
  o.beta1 = get<double>(j, "beta1", file), o.beta2 = get<double>(j, "beta2", file), o.weight_decay = get<double>(j, "weight_decay", file);
  o.clip = get<double>(j, "clip", file), o.seed = get<uint64_t>(j, "seed", file), o.eval_every = get<int64_t>(j, "eval_every", file);
  o.memory_budget = get<int64_t>(j, "memory_budget", file);
  if (j.contains("sample_tokens")) o.sample_tokens = get<int64_t>(j, "sample_tokens", file);
  if (j.contains("keep")) o.keep = get<int64_t>(j, "keep", file);
  o.amp = get<std::string>(j, "amp", file);
  if (j.contains("device")) o.device = get<std::string>(j, "device", file);
  return o;
}

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

Trained load_model(const fs::path& checkpoint) {
  TrainOptions options = read_config(checkpoint.parent_path());
  auto tokenizer = read_tokenizer(checkpoint.parent_path(), options.model);
  Gpt model(options.model);
  model.load_state_dict(SafeTensors::open(checkpoint / "model.safetensors").tensors());
  return {std::move(options), std::move(tokenizer), std::move(model)};
}

void write_checkpoint(const fs::path& folder, const Progression& at, const Gpt& model, const AdamW& optimizer, const GradScaler& scaler,
                      const TokenDataset& data) {
  save_safetensors(folder / "model.safetensors", model.state_dict());
  save_safetensors(folder / "optimizer.safetensors", optimizer.state_dict());
  const RandomState generator = default_generator().state(), loader = data.state();
  json j = {{"step", at.step},
            {"seconds", at.seconds},
            {"generator", {generator.seed, generator.offset}},
            {"loader", {loader.seed, loader.offset}}};
  for (auto& [name, value] : scaler.state_dict()) j["scaler"][name] = value.item();
  write_file_atomically(folder / "state.json", j.dump(2) + "\n");
}

Progression read_checkpoint(const fs::path& folder, Gpt& model, AdamW& optimizer, GradScaler& scaler, TokenDataset& data) {
  const fs::path file = folder / "state.json";
  const json j = parse(file);
  const Progression at{get<int64_t>(j, "step", file), get<double>(j, "seconds", file)};
  NamedTensors scaling;
  if (scaler.is_enabled())
    for (auto& [name, value] : get<std::map<std::string, double>>(j, "scaler", file))
      scaling.emplace_back(name, full({}, value, {DType::f64}));
  const auto generator = get<std::array<uint64_t, 2>>(j, "generator", file), loader = get<std::array<uint64_t, 2>>(j, "loader", file);
  model.load_state_dict(SafeTensors::open(folder / "model.safetensors").tensors());
  scaler.load_state_dict(scaling);
  optimizer.load_state_dict(SafeTensors::open(folder / "optimizer.safetensors").tensors());
  default_generator().set_state({generator[0], generator[1]});
  data.set_state({loader[0], loader[1]});
  return at;
}

}  // namespace retape::gpt
