// Models as Hugging Face's transformers saves them: a folder with config.json and model.safetensors.
#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include <retape/nn/mae.h>

namespace retape::nn {

/// A ViT of model_type "vit", under the names of ViTForImageClassification or ViTModel (its pooler is left out), or the encoder of a model
/// of model_type "vit_mae". Weights of half types become f32. Throws Error, naming the file and what it is about, if a file is missing or
/// damaged, for another model, for weights that are missing, too many or of another shape than config.json says.
ViT load_vit(const std::filesystem::path& folder);
/// A model of model_type "vit_mae", under the names of ViTMAEForPreTraining. Otherwise as load_vit().
MaskedAutoencoder load_vit_mae(const std::filesystem::path& folder);

/// Writes such a folder, which is created if it is not there; `labels` name the classes. Throws Error for a classifier behind mean pooling,
/// which Hugging Face's model does not have, for a number of labels that does not fit, and if writing fails.
void save_vit(const ViT& model, const std::filesystem::path& folder, const std::vector<std::string>& labels = {});
void save_vit_mae(const MaskedAutoencoder& model, const std::filesystem::path& folder);

}  // namespace retape::nn
