// Models as Hugging Face's transformers saves them: a folder with config.json and model.safetensors.
#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include <retape/nn/language_model.h>
#include <retape/nn/mae.h>

namespace retape::nn {

/// A ViT of model_type "vit", under the names of ViTForImageClassification or ViTModel (its pooler is left out), or the encoder of a model
/// of model_type "vit_mae". Weights of half types become f32. Throws Error, naming the file and what it is about, if a file is missing or
/// damaged, for another model, for weights that are missing, too many or of another shape than config.json says.
ViT load_vit(const std::filesystem::path& folder);
/// A model of model_type "vit_mae", under the names of ViTMAEForPreTraining. Otherwise as load_vit().
MaskedAutoencoder load_vit_mae(const std::filesystem::path& folder);

/// A language model of model_type "gpt2", "llama" or "mamba", under the names of GPT2LMHeadModel, LlamaForCausalLM or MambaForCausalLM, from model.safetensors or
/// the files that model.safetensors.index.json names. Weights of half types become f32. Throws Error as load_vit() does; where sizes in config.json and
/// in the weights differ, it names every such key with both.
LanguageModel load_language_model(const std::filesystem::path& folder);
/// The model that the text of such a config.json describes, untrained; `file` is its name in messages. Throws Error for what such a model does not have.
LanguageModel make_language_model(const std::string& config_json, const std::string& file = "config.json");

/// Writes a folder of a ViT or a MaskedAutoencoder, which is created if it is not there; `labels` name the classes. Throws Error for a classifier behind mean pooling,
/// which Hugging Face's model does not have, for a number of labels that does not fit, and if writing fails.
void save_vit(const ViT& model, const std::filesystem::path& folder, const std::vector<std::string>& labels = {});
void save_vit_mae(const MaskedAutoencoder& model, const std::filesystem::path& folder);

}  // namespace retape::nn
