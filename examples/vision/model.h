// What tells classes apart, and its flags.
#pragma once
#include <string>
#include <variant>
#include <vector>

#include <examples/common/recompute.h>
#include <examples/common/settings.h>
#include <retape/retape.h>

namespace retape::vision {

struct ModelOptions {
  std::string kind = "vit";  // or resnet18, of which only what the data says can be chosen
  int64_t patch = 4, dim = 96, depth = 6, heads = 4, mlp_dim = 0;
  double dropout = 0;
  std::string act = "gelu", pool = "mean", positions = "learned";
  double norm_eps = 1e-6;
  bool qkv_bias = true;
  int64_t channels = 0, model_size = 0, classes = 0;  // of the data
  std::vector<std::string> of_vit = {};               // the flags that only a ViT has
};
/// As flags, or without them as entries of config.json only. `classify`: with those of a classifier.
void declare(examples::Settings& settings, ModelOptions& options, bool flags, bool classify);
/// Throws Error for a flag of a ViT on the command line if --model says another.
void check_flags(const examples::Settings& settings, const ModelOptions& options);
/// Of a ViT. Throws Error, naming the flag.
nn::ViTConfig config_of(const ModelOptions& options);
/// The reverse.
void take_config(ModelOptions& options, const nn::ViTConfig& config);

/// Images (B, C, S, S) to logits (B, classes).
class Classifier {
 public:
  /// A new one. Throws Error as config_of() does.
  explicit Classifier(const ModelOptions& options);
  explicit Classifier(nn::ViT vit) : net_(std::move(vit)) {}
  Tensor operator()(const Tensor& images);
  nn::Module& module();
  nn::ViT* vit() { return std::get_if<nn::ViT>(&net_); }  // null if it is another
  /// Runs blocks as --recompute says. Throws Error for what that may not be.
  void recompute(const std::string& how);

 private:
  std::variant<nn::ViT, nn::ResNet> net_;
};
/// Blocks of a ViT as --recompute says.
nn::RunViTBlocks run_blocks(const std::string& recompute, int64_t depth);

}  // namespace retape::vision
