#include <retape/nn/contrastive_loss.h>

#include <fmt/format.h>

#include <cmath>

#include <retape/autograd/matmul.h>
#include <retape/autograd/rearrange.h>
#include <retape/autograd/reduce.h>
#include <retape/autograd/unary.h>
#include <retape/autograd/views.h>
#include <retape/nn/distance.h>
#include <retape/nn/init.h>
#include <retape/nn/reduction.h>

namespace retape {
namespace {

using detail::check_pair;
using detail::in_full_precision;
using detail::reduced;
using nn::normalize;

Tensor own_class(int64_t n, Device device) { return arange(double(n), {DType::i64, device}); }
void check_features(const char* name, const Tensor& image, const Tensor& text) {
  check_pair(name, image, text, "image_features", "text_features");
  if (image.dim() != 2) throw Error(fmt::format("{}: features have shape {}; they must be (N, D)", name, image.shape().str()));
}

}  // namespace

Tensor info_nce_loss(const Tensor& query, const Tensor& positive_keys, const Tensor& negative_keys, InfoNCEOptions options) {
  constexpr auto name = "info_nce_loss";
  check_pair(name, query, positive_keys, "query", "positive_keys");
  if (query.dim() != 2) throw Error(fmt::format("{}: query has shape {}; it must be (N, D)", name, query.shape().str()));
  if (!(options.temperature > 0))
    throw Error(fmt::format("{}: temperature {} is not valid; it must be above 0", name, options.temperature));
  const int64_t n = query.shape()[0], width = query.shape()[1];
  const Tensor q = normalize(query, 2, -1) / options.temperature, keys = normalize(positive_keys, 2, -1);
  if (!negative_keys) return cross_entropy(matmul(q, transpose(keys)), own_class(n, query.device()), {.reduction = options.reduction});
  detail::check_floating(name, negative_keys, "negative_keys");
  const bool own = negative_keys.dim() == 3;
  if ((own ? negative_keys.shape()[0] != n : negative_keys.dim() != 2) || negative_keys.shape()[-1] != width)
    throw Error(fmt::format("{}: negative_keys of shape {} do not fit query of shape {}; they must be (M, {}) or ({}, M, {})", name,
                            negative_keys.shape().str(), query.shape().str(), width, n, width));
  const Tensor others = normalize(negative_keys, 2, -1);
  const Tensor wrong = own ? squeeze(matmul(unsqueeze(q, 1), transpose(others)), 1) : matmul(q, transpose(others));
  return cross_entropy(cat({sum(q * keys, {1}, true), wrong}, 1), zeros({n}, {DType::i64, query.device()}),
                       {.reduction = options.reduction});
}

Tensor nce_loss(const Tensor& scores, const Tensor& noise_scores, const Tensor& log_q, const Tensor& noise_log_q, Reduction reduction) {
  constexpr auto name = "nce_loss";
  check_pair(name, scores, log_q, "scores", "log_q");
  check_pair(name, noise_scores, noise_log_q, "noise_scores", "noise_log_q");
  if (scores.dim() != 1 || noise_scores.dim() != 2 || noise_scores.shape()[0] != scores.shape()[0] || noise_scores.shape()[1] == 0)
    throw Error(fmt::format("{}: scores of shape {} and noise_scores of shape {} do not fit; they must be (N) and (N, k)", name,
                            scores.shape().str(), noise_scores.shape().str()));
  return in_full_precision(
      [&](const Tensor& s, const Tensor& noise, const Tensor& q, const Tensor& noise_q) {
        const double k = std::log(double(noise_scores.shape()[1]));
        return reduced(name, softplus(q + k - s) + sum(softplus(noise - noise_q - k), {1}), reduction);
      },
      scores, noise_scores, log_q, noise_log_q);
}

Tensor clip_loss(const Tensor& image_features, const Tensor& text_features, const Operand& logit_scale) {
  check_features("clip_loss", image_features, text_features);
  const Tensor logits = mul(matmul(image_features, transpose(text_features)), logit_scale);
  const Tensor target = own_class(logits.shape()[0], logits.device());
  return (cross_entropy(logits, target) + cross_entropy(transpose(logits), target)) * 0.5;
}
Tensor siglip_loss(const Tensor& image_features, const Tensor& text_features, const Operand& logit_scale, const Operand& logit_bias) {
  check_features("siglip_loss", image_features, text_features);
  const Tensor logits = add(mul(matmul(image_features, transpose(text_features)), logit_scale), logit_bias);
  const Tensor at = own_class(logits.shape()[0], logits.device());
  return sum(softplus(where(eq(unsqueeze(at, 1), at), neg(logits), logits))) / double(logits.shape()[0]);
}

namespace nn {
namespace {
Parameter scalar(double value) {
  Parameter p = empty_parameter({});
  init::constant(p, value);
  return p;
}
}  // namespace

CLIPLoss::CLIPLoss() : logit_scale(scalar(std::log(1 / 0.07))) {}
Tensor CLIPLoss::forward(const Tensor& image_features, const Tensor& text_features) const {
  return clip_loss(normalize(image_features, 2, -1), normalize(text_features, 2, -1), exp(minimum(logit_scale, std::log(100.0))));
}
SigLIPLoss::SigLIPLoss() : logit_scale(scalar(std::log(10.0))), logit_bias(scalar(-10)) {}
Tensor SigLIPLoss::forward(const Tensor& image_features, const Tensor& text_features) const {
  return siglip_loss(normalize(image_features, 2, -1), normalize(text_features, 2, -1), exp(logit_scale), logit_bias);
}

}  // namespace nn
}  // namespace retape
