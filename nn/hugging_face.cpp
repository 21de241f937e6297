#include <retape/nn/hugging_face.h>

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include <algorithm>

#include <retape/autograd/tape.h>
#include <retape/autograd/views.h>
#include <retape/io/file.h>
#include <retape/io/safetensors.h>
#include <retape/nn/hugging_face_files.h>

namespace retape::nn {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using Config = detail::HuggingFaceConfig;
using Weights = detail::HuggingFaceWeights;

// ---- names ----------------------------------------------------------------------------------------------------------

using Renamed = std::vector<std::pair<std::string, std::string>>;  // our part of a name, theirs
const Renamed in_block = {{"norm1.", "layernorm_before."},
                          {"norm2.", "layernorm_after."},
                          {"attention.out_proj.", "attention.output.dense."},
                          {"fc1.", "intermediate.dense."},
                          {"fc2.", "output.dense."}};
const Renamed in_encoder = {{"patch_embed.", "vit.embeddings.patch_embeddings.projection."},
                            {"cls_token", "vit.embeddings.cls_token"},
                            {"pos_embed", "vit.embeddings.position_embeddings"},
                            {"norm.", "vit.layernorm."},
                            {"classifier.", "classifier."},
                            {"blocks.", "vit.encoder.layer."}};
const Renamed in_decoder = {{"embed.", "decoder.decoder_embed."},       {"mask_token", "decoder.mask_token"},
                            {"pos_embed", "decoder.decoder_pos_embed"}, {"norm.", "decoder.decoder_norm."},
                            {"pred.", "decoder.decoder_pred."},         {"blocks.", "decoder.decoder_layers."}};

std::string rename(const std::string& name, const Renamed& table) {
  for (auto& [ours, theirs] : table)
    if (name.starts_with(ours)) return theirs + name.substr(ours.size());
  throw Error(fmt::format("hugging_face: there is no other name for {}", name));
}

// What a parameter is called there; three names for the one matrix, or bias, of queries, keys and values.
std::vector<std::string> names_there(const std::string& name, bool mae) {
  const bool decoder = mae && name.starts_with("decoder.");
  std::string there = mae ? rename(name.substr(name.find('.') + 1), decoder ? in_decoder : in_encoder) : rename(name, in_encoder);
  const size_t block = name.find("blocks.");
  if (block == std::string::npos) return {there};
  const size_t digits = name.find('.', block) + 1, rest = name.find('.', digits) + 1;
  const std::string part = name.substr(rest), before = there.substr(0, there.size() - part.size());
  constexpr std::string_view in_proj = "attention.in_proj_";
  if (!part.starts_with(in_proj)) return {before + rename(part, in_block)};
  std::vector<std::string> all;
  for (const char* which : {"query.", "key.", "value."})
    all.push_back(before + "attention.attention." + which + part.substr(in_proj.size()));
  return all;
}

// Files of other versions lack the prefix of the encoder, or name the decoder's layers otherwise.
std::string canonical(std::string name) {
  const auto replace = [&](std::string_view from, std::string_view to) {
    if (name.starts_with(from)) name = std::string(to) + name.substr(from.size());
  };
  replace("embeddings.", "vit.embeddings."), replace("encoder.layer.", "vit.encoder.layer."), replace("layernorm.", "vit.layernorm.");
  replace("pooler.", "vit.pooler."), replace("decoder.decoder_encoder.layer.", "decoder.decoder_layers.");
  return name;
}

// ---- config.json ----------------------------------------------------------------------------------------------------

ViTConfig read_vit(const Config& from) {
  ViTConfig c;
  from.read("image_size", c.image_size), from.read("patch_size", c.patch_size), from.read("num_channels", c.num_channels);
  from.read("hidden_size", c.hidden_size), from.read("num_hidden_layers", c.num_hidden_layers);
  from.read("num_attention_heads", c.num_attention_heads), from.read("intermediate_size", c.intermediate_size);
  from.read("hidden_act", c.hidden_act), from.read("layer_norm_eps", c.layer_norm_eps), from.read("qkv_bias", c.qkv_bias);
  from.read("hidden_dropout_prob", c.hidden_dropout_prob), from.read("attention_probs_dropout_prob", c.attention_probs_dropout_prob);
  return c;
}
json written(const ViTConfig& c) {
  return {{"image_size", c.image_size},
          {"patch_size", c.patch_size},
          {"num_channels", c.num_channels},
          {"hidden_size", c.hidden_size},
          {"num_hidden_layers", c.num_hidden_layers},
          {"num_attention_heads", c.num_attention_heads},
          {"intermediate_size", c.intermediate_size},
          {"hidden_act", c.hidden_act},
          {"layer_norm_eps", c.layer_norm_eps},
          {"qkv_bias", c.qkv_bias},
          {"hidden_dropout_prob", c.hidden_dropout_prob},
          {"attention_probs_dropout_prob", c.attention_probs_dropout_prob},
          {"initializer_range", 0.02}};
}

// ---- weights --------------------------------------------------------------------------------------------------------

void load(const Weights& weights, Module& model, bool mae, const std::vector<std::string>& ignored) {
  weights.load(
      model, [&](const std::string& name) { return detail::HuggingFaceSource{names_there(name, mae)}; },
      [&](const std::string& name) {
        return std::any_of(ignored.begin(), ignored.end(), [&](const std::string& with) { return name.starts_with(with); });
      });
}

void expect_sizes(const Weights& weights, const ViTConfig& c, const std::string& layers) {
  weights.expect(fmt::format("{}{}.intermediate.dense.weight", layers, c.num_hidden_layers - 1), {c.intermediate_size, c.hidden_size});
}
void expect_encoder(const Weights& weights, const ViTConfig& c) {
  check(c);
  weights.expect("vit.embeddings.patch_embeddings.projection.weight", {c.hidden_size, c.num_channels, c.patch_size, c.patch_size});
  weights.expect("vit.embeddings.position_embeddings", {1, 1 + c.patches(), c.hidden_size});
  expect_sizes(weights, c, "vit.encoder.layer.");
}

void save(const Module& model, bool mae, const json& config, const fs::path& folder) {
  const NoGrad off;
  NamedTensors renamed;
  for (auto& [name, value] : model.state_dict()) {
    const Tensor here = to(value, Device::cpu());
    const auto names = names_there(name, mae);
    const int64_t part = here.size(0) / int64_t(names.size());
    for (size_t i = 0; i < names.size(); ++i)
      renamed.emplace_back(names[i], names.size() == 1 ? here : contiguous(narrow(here, 0, int64_t(i) * part, part)));
  }
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) throw Error(fmt::format("hugging_face: cannot create {}: {}", folder.string(), error.message()));
  save_safetensors(folder / "model.safetensors", renamed, {{"format", "pt"}});
  write_file_atomically(folder / "config.json", config.dump(2) + "\n");
}

}  // namespace

ViT load_vit(const fs::path& folder) {
  const Config config = Config::open(folder);
  const std::string type = config.model_type();
  if (type != "vit" && type != "vit_mae")
    throw Error(fmt::format("hugging_face: {} has model_type \"{}\"; expected vit or vit_mae", config.file(), type));
  ViTConfig c = read_vit(config);
  const Weights weights(folder, canonical);
  expect_encoder(weights, c);
  if (type == "vit_mae") {
    c.position_embedding = PositionEmbedding::sincos;
  } else if (const auto shape = weights.shape("classifier.weight"); !shape.empty()) {
    c.num_labels = shape[0];
  }
  ViT model(c);
  load(weights, model, false, {"vit.pooler.", "decoder."});
  return model;
}

MaskedAutoencoder load_vit_mae(const fs::path& folder) {
  const Config config = Config::open(folder);
  if (config.model_type() != "vit_mae")
    throw Error(fmt::format("hugging_face: {} has model_type \"{}\"; expected vit_mae", config.file(), config.model_type()));
  MAEConfig c{.encoder = read_vit(config)};
  c.encoder.position_embedding = PositionEmbedding::sincos;
  config.read("decoder_hidden_size", c.decoder_hidden_size), config.read("decoder_num_hidden_layers", c.decoder_num_hidden_layers);
  config.read("decoder_num_attention_heads", c.decoder_num_attention_heads);
  config.read("decoder_intermediate_size", c.decoder_intermediate_size);
  config.read("mask_ratio", c.mask_ratio), config.read("norm_pix_loss", c.norm_pix_loss);
  const Weights weights(folder, canonical);
  expect_encoder(weights, c.encoder);
  weights.expect("decoder.decoder_pos_embed", {1, 1 + c.encoder.patches(), c.decoder_hidden_size});
  expect_sizes(weights,
               {.hidden_size = c.decoder_hidden_size,
                .num_hidden_layers = c.decoder_num_hidden_layers,
                .intermediate_size = c.decoder_intermediate_size},
               "decoder.decoder_layers.");
  MaskedAutoencoder model(c);
  load(weights, model, true, {});
  return model;
}

void save_vit(const ViT& model, const fs::path& folder, const std::vector<std::string>& labels) {
  const ViTConfig& c = model.config;
  if (c.num_labels && c.pooling != Pooling::cls)
    throw Error(
        "save_vit: the classifier reads the mean of all patches, but Hugging Face's reads the class token; train it with Pooling::cls");
  if (!labels.empty() && int64_t(labels.size()) != c.num_labels)
    throw Error(fmt::format("save_vit: there are {} labels for {} classes", labels.size(), c.num_labels));
  json config = written(c);
  config["model_type"] = "vit";
  config["architectures"] = {c.num_labels ? "ViTForImageClassification" : "ViTModel"};
  for (int64_t i = 0; i < c.num_labels; ++i) {
    const std::string label = labels.empty() ? fmt::format("LABEL_{}", i) : labels[size_t(i)];
    config["id2label"][std::to_string(i)] = label, config["label2id"][label] = i;
  }
  save(model, false, config, folder);
}
void save_vit_mae(const MaskedAutoencoder& model, const fs::path& folder) {
  const MAEConfig& c = model.config;
  json config = written(c.encoder);
  config["model_type"] = "vit_mae";
  config["architectures"] = {"ViTMAEForPreTraining"};
  config["decoder_hidden_size"] = c.decoder_hidden_size, config["decoder_num_hidden_layers"] = c.decoder_num_hidden_layers;
  config["decoder_num_attention_heads"] = c.decoder_num_attention_heads;
  config["decoder_intermediate_size"] = c.decoder_intermediate_size;
  config["mask_ratio"] = c.mask_ratio, config["norm_pix_loss"] = c.norm_pix_loss;
  save(model, true, config, folder);
}

}  // namespace retape::nn
