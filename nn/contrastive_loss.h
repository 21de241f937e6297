// Losses that tell a matching pair from others: of a batch, or of samples of noise.
#pragma once
#include <retape/nn/loss.h>

namespace retape {

struct InfoNCEOptions {
  double temperature = 0.1;
  Reduction reduction = Reduction::mean;
};
/// Cross-entropy of which key belongs to a query, by cosine / temperature: query i's is positive_keys[i], and the others are all other positive keys
/// or, where they are given, negative_keys: (M, D) for all queries or (N, M, D) with its own for each. query and positive_keys (N, D). Throws Error
/// unless shapes fit and temperature is above 0. van den Oord et al. 2018.
Tensor info_nce_loss(const Tensor& query, const Tensor& positive_keys, const Tensor& negative_keys = {}, InfoNCEOptions options = {});

/// Noise contrastive estimation: -log P(data) of each score and -log P(noise) of its k noise scores, where P(data) = sigmoid(score - log(k q)). Scores are
/// logarithms of unnormalised probabilities. scores (N), noise_scores (N, k), and of each the logarithm of its probability q as noise. Gutmann &
/// Hyvarinen 2010.
Tensor nce_loss(const Tensor& scores, const Tensor& noise_scores, const Tensor& log_q, const Tensor& noise_log_q,
                Reduction reduction = Reduction::mean);

/// The mean of the cross-entropies of images among texts and of texts among images, with logits logit_scale image_features text_features^T. Features
/// (N, D), which the caller normalizes; logit_scale is a factor, not its logarithm. Radford et al. 2021.
Tensor clip_loss(const Tensor& image_features, const Tensor& text_features, const Operand& logit_scale);
/// Each pair by itself: -sum over j of log sigmoid(z (logit_scale x_i y_j + logit_bias)), z = 1 for i = j, else -1; the mean over i. Features (N, D), which the
/// caller normalizes. Zhai et al. 2023.
Tensor siglip_loss(const Tensor& image_features, const Tensor& text_features, const Operand& logit_scale, const Operand& logit_bias);

namespace nn {

struct InfoNCE : Module {
  InfoNCEOptions options;
  explicit InfoNCE(InfoNCEOptions options = {}) : options(options) {}
  Tensor forward(const Tensor& query, const Tensor& positive_keys, const Tensor& negative_keys = {}) const {
    return info_nce_loss(query, positive_keys, negative_keys, options);
  }
  RETAPE_FIELDS()
};
struct NCELoss : Module {
  Reduction reduction;
  explicit NCELoss(LossOptions options = {}) : reduction(options.reduction) {}
  Tensor forward(const Tensor& scores, const Tensor& noise_scores, const Tensor& log_q, const Tensor& noise_log_q) const {
    return nce_loss(scores, noise_scores, log_q, noise_log_q, reduction);
  }
  RETAPE_FIELDS()
};
/// clip_loss() of normalized features with a trained scale: logit_scale is its logarithm, which starts at log(1 / 0.07) and counts as log(100) at most.
struct CLIPLoss : Module {
  Parameter logit_scale;
  CLIPLoss();
  Tensor forward(const Tensor& image_features, const Tensor& text_features) const;
  RETAPE_FIELDS(logit_scale)
};
/// siglip_loss() of normalized features with a trained scale, by its logarithm that starts at log(10), and a bias that starts at -10.
struct SigLIPLoss : Module {
  Parameter logit_scale, logit_bias;
  SigLIPLoss();
  Tensor forward(const Tensor& image_features, const Tensor& text_features) const;
  RETAPE_FIELDS(logit_scale, logit_bias)
};

}  // namespace nn
}  // namespace retape
