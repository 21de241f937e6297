// Masked autoencoders (He et al. 2022): most patches of an image are hidden, a ViT encodes the others, and a small decoder paints what is
// missing.
#pragma once
#include <retape/core/random.h>
#include <retape/nn/vision_transformer.h>

namespace retape {

/// Which patches of each image are hidden. V = floor(N (1 - mask_ratio)) of N are visible.
struct PatchMask {
  Tensor ids_keep;     ///< i64 (B, V): the visible patches, in random order
  Tensor ids_restore;  ///< i64 (B, N): where each patch stands in that order, the hidden ones behind; a permutation of 0 ... N-1
  Tensor hidden;       ///< bool (B, N)
};
/// The patches of the smallest noise (B, N) stay visible. Throws Error unless 0 <= mask_ratio < 1 leaves one.
PatchMask mask_patches(const Tensor& noise, double mask_ratio);
/// The same with noise that is drawn uniformly from the generator. Hugging Face: random_masking.
PatchMask random_masking(int64_t batch, int64_t patches, double mask_ratio, Device device = {}, Generator& generator = default_generator());

namespace nn {

/// Hugging Face's ViTMAEConfig, with its names and defaults.
struct MAEConfig {
  ViTConfig encoder = {.position_embedding = PositionEmbedding::sincos};  ///< its num_labels is 0
  int64_t decoder_hidden_size = 512, decoder_num_hidden_layers = 8, decoder_num_attention_heads = 16, decoder_intermediate_size = 2048;
  double mask_ratio = 0.75;
  bool norm_pix_loss = false;  ///< predict each patch less its mean, over its standard deviation
};

/// Puts a learned token where patches are missing, and predicts pixels of all patches.
struct MAEDecoder : Module {
  RunViTBlocks run_blocks;
  Linear embed;
  Parameter mask_token;  // (1, 1, decoder_hidden_size)
  Parameter pos_embed;   // (1, 1 + patches, decoder_hidden_size): sincos_positions(), without a gradient
  std::vector<ViTBlock> blocks;
  LayerNorm norm;
  Linear pred;
  explicit MAEDecoder(const MAEConfig& config);
  /// encoded (B, 1 + V, hidden_size), as ViT::encode() gives them for mask.ids_keep: (B, N, p * p * C).
  Tensor forward(const Tensor& encoded, const PatchMask& mask);
  RETAPE_FIELDS(embed, mask_token, pos_embed, blocks, norm, pred)
};

struct MAEOutput {
  Tensor loss;  ///< without dims
  Tensor pred;  ///< (B, N, p * p * C), of the kind that patchify() gives; with norm_pix_loss each patch is normalised
};
/// Only visible patches reach the encoder; mask tokens are in the decoder alone.
/// Hugging Face: ViTMAEForPreTraining; nn/hugging_face.h reads its files.
struct MaskedAutoencoder : Module {
  MAEConfig config;
  ViT encoder;
  MAEDecoder decoder;
  /// Throws Error for an encoder with num_labels, sizes as check() does, and a mask_ratio that leaves no patch.
  explicit MaskedAutoencoder(const MAEConfig& config);
  /// images (B, C, S, S). The loss is the mean squared error over all pixels of hidden patches; with mask_ratio 0 over all patches.
  MAEOutput forward(const Tensor& images, const PatchMask& mask);
  /// The same with random_masking() from the default generator; only the loss.
  Tensor loss(const Tensor& images);
  /// What is to be predicted, (B, N, p * p * C): patchify(), normalised with norm_pix_loss.
  Tensor target(const Tensor& images) const;
  RETAPE_FIELDS(encoder, decoder)
};

}  // namespace nn
}  // namespace retape
