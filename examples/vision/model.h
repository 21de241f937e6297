// A ViT's flags.
#pragma once
#include <examples/common/recompute.h>
#include <examples/common/settings.h>
#include <retape/retape.h>

namespace retape::vision {

struct ModelOptions {
  int64_t patch = 4, dim = 96, depth = 6, heads = 4, mlp_dim = 0;
  double dropout = 0;
  std::string act = "gelu", pool = "mean", positions = "learned";
  double norm_eps = 1e-6;
  bool qkv_bias = true;
  int64_t channels = 0, model_size = 0, classes = 0;  // of the data
};
/// As flags, or without them as entries of config.json only. `classify`: with those of a classifier.
void declare(examples::Settings& settings, ModelOptions& options, bool flags, bool classify);
/// Throws Error, naming the flag.
nn::ViTConfig config_of(const ModelOptions& options);
/// The reverse.
void take_config(ModelOptions& options, const nn::ViTConfig& config);
/// Blocks as --recompute says.
nn::RunViTBlocks run_blocks(const std::string& recompute, int64_t depth);

}  // namespace retape::vision
