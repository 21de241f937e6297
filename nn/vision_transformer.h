// Vision transformers (Dosovitskiy et al. 2021): an image is a sequence of patches behind a class token.
#pragma once
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <retape/nn/attention.h>
#include <retape/nn/dropout.h>
#include <retape/nn/layer_norm.h>
#include <retape/nn/linear.h>
#include <retape/nn/position.h>

namespace retape {

/// Images (B, C, H, W) as patches (B, H / p * W / p, p * p * C): row after row of patches, each row after row of pixels, a pixel's channels
/// together. Throws Error unless p divides H and W. Hugging Face: ViTMAEForPreTraining.patchify.
Tensor patchify(const Tensor& images, int64_t patch_size);
/// The reverse, for patches (B, N, p * p * channels) of images that are `height` high. Throws Error if the sizes do not fit.
Tensor unpatchify(const Tensor& patches, int64_t patch_size, int64_t channels, int64_t height);

namespace nn {

enum class PositionEmbedding : uint8_t {
  learned,  ///< starts normal with standard deviation 0.02
  sincos,   ///< sincos_positions(), a parameter that wants no gradient
};
enum class Pooling : uint8_t {
  cls,   ///< the class token
  mean,  ///< the mean of all patches
};

/// Hugging Face's ViTConfig, with its names and defaults but for what is said.
struct ViTConfig {
  int64_t image_size = 224, patch_size = 16, num_channels = 3;
  int64_t hidden_size = 768, num_hidden_layers = 12, num_attention_heads = 12, intermediate_size = 3072;
  std::string hidden_act = "gelu";  ///< gelu; gelu_pytorch_tanh or gelu_new (the same); relu; silu
  double hidden_dropout_prob = 0;   ///< of the embeddings and of what each half of a block adds
  double attention_probs_dropout_prob = 0;
  double layer_norm_eps = 1e-12;
  bool qkv_bias = true;
  int64_t num_labels = 0;                                             ///< classes; 0: no classifier, logits are the features
  PositionEmbedding position_embedding = PositionEmbedding::learned;  ///< not Hugging Face's
  Pooling pooling = Pooling::cls;                                     ///< what is classified; not Hugging Face's

  int64_t patches() const { return image_size / patch_size * (image_size / patch_size); }
  bool operator==(const ViTConfig&) const = default;
};
/// Throws Error, naming the field and both values, for sizes below 1 or that do not divide, and for a hidden_act that is not known.
void check(const ViTConfig& config);

/// A projection of patches, as patchify() gives them, (..., p * p * C) to (..., dim). The weight (dim, C, p, p) is that of the convolution
/// which it amounts to; it starts xavier_uniform over all its inputs, as MAE's, and the bias at 0. timm: PatchEmbed.
struct PatchEmbed : Module {
  Parameter weight, bias;
  PatchEmbed(int64_t patch_size, int64_t channels, int64_t dim);
  Tensor forward(const Tensor& patches) const;
  RETAPE_FIELDS(weight, bias)
};

/// x + attention(norm1(x)), then x + fc2(act(fc1(norm2(x)))).
struct ViTBlock : Module {
  std::string hidden_act;
  LayerNorm norm1;
  MultiheadAttention attention;
  LayerNorm norm2;
  Linear fc1, fc2;
  Dropout dropout;
  /// Takes sizes, activation and dropout from the configuration.
  explicit ViTBlock(const ViTConfig& config);
  Tensor forward(const Tensor& x) const;  ///< (B, T, hidden_size) to the same
  RETAPE_FIELDS(norm1, attention, norm2, fc1, fc2, dropout)

 private:
  Tensor mlp(const Tensor& x) const;
};
/// Runs blocks in some other way than one after the other, such as with checkpoints. Empty: one after the other.
using RunViTBlocks = std::function<Tensor(std::vector<ViTBlock>& blocks, const Tensor& x)>;

/// Matrices start xavier_uniform and the class token normal with standard deviation 0.02, as in MAE; biases and the classifier start at 0.
/// Hugging Face: ViTForImageClassification; nn/hugging_face.h reads its files.
struct ViT : Module {
  ViTConfig config;
  RunViTBlocks run_blocks;
  PatchEmbed patch_embed;
  Parameter cls_token;  // (1, 1, hidden_size)
  Parameter pos_embed;  // (1, 1 + patches, hidden_size)
  Dropout dropout;
  std::vector<ViTBlock> blocks;
  LayerNorm norm;
  std::optional<Linear> classifier;

  /// Throws Error as check() does.
  explicit ViT(const ViTConfig& config);
  /// images (B, C, S, S), floating: logits (B, num_labels), or features() without a classifier. Throws Error for other sizes.
  Tensor forward(const Tensor& images);
  /// What is classified: (B, hidden_size).
  Tensor features(const Tensor& images);
  /// Class token and patches after the last norm. patches (B, N, p * p * C), as patchify() gives them. With ids_keep, i64 (B, V), only those
  /// patches are projected and encoded, in this order: (B, 1 + V, hidden_size).
  Tensor encode(const Tensor& patches, const Tensor& ids_keep = {});
  RETAPE_FIELDS(patch_embed, cls_token, pos_embed, dropout, blocks, norm, classifier)
};

}  // namespace nn
}  // namespace retape
