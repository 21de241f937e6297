#include <retape/nn/mae.h>

#include <fmt/format.h>

#include <cmath>

#include <retape/autograd/binary.h>
#include <retape/autograd/index.h>
#include <retape/autograd/rearrange.h>
#include <retape/autograd/reduce.h>
#include <retape/autograd/sort.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/unary.h>
#include <retape/autograd/views.h>
#include <retape/nn/init.h>

namespace retape {
namespace {

int64_t visible(int64_t patches, double mask_ratio) {
  const bool valid = mask_ratio >= 0 && mask_ratio < 1;
  const auto count = valid ? int64_t(double(patches) * (1 - mask_ratio)) : 0;
  if (count < 1)
    throw Error(fmt::format("mask_ratio {} of {} patches is not valid; it must be at least 0 and leave one patch", mask_ratio, patches));
  return count;
}

}  // namespace

PatchMask mask_patches(const Tensor& noise, double mask_ratio) {
  if (noise.dim() != 2) throw Error(fmt::format("mask_patches: noise has shape {}; expected (B, N)", noise.shape().str()));
  const NoGrad off;
  const int64_t patches = noise.size(1), keep = visible(patches, mask_ratio);
  const Tensor order = argsort(noise, 1);
  const Tensor places = expand(unsqueeze(arange(patches, order.options()), 0), order.shape());
  PatchMask mask;
  mask.ids_keep = contiguous(narrow(order, 1, 0, keep));
  mask.ids_restore = scatter(zeros_like(order), 1, order, places);
  mask.hidden = ge(mask.ids_restore, keep);
  return mask;
}
PatchMask random_masking(int64_t batch, int64_t patches, double mask_ratio, Device device, Generator& generator) {
  return mask_patches(rand({batch, patches}, {.device = device}, generator), mask_ratio);
}

namespace nn {
namespace {

ViTConfig decoder_config(const MAEConfig& c) {
  ViTConfig d = c.encoder;
  d.hidden_size = c.decoder_hidden_size, d.num_hidden_layers = c.decoder_num_hidden_layers;
  d.num_attention_heads = c.decoder_num_attention_heads, d.intermediate_size = c.decoder_intermediate_size;
  check(d);
  return d;
}

}  // namespace

MAEDecoder::MAEDecoder(const MAEConfig& c)
    : embed(c.encoder.hidden_size, c.decoder_hidden_size),
      mask_token(empty_parameter({1, 1, c.decoder_hidden_size})),
      pos_embed(empty_parameter({1, 1 + c.encoder.patches(), c.decoder_hidden_size})),
      norm(c.decoder_hidden_size, {.eps = c.encoder.layer_norm_eps}),
      pred(c.decoder_hidden_size, c.encoder.patch_size * c.encoder.patch_size * c.encoder.num_channels) {
  init::normal(mask_token, 0, 0.02);
  const int64_t side = c.encoder.image_size / c.encoder.patch_size;
  copy_into(sincos_positions(side, side, c.decoder_hidden_size), pos_embed.tensor().detach());
  pos_embed = Parameter(pos_embed, false);
  for (const Linear* layer : {&embed, &pred}) init::xavier_uniform(layer->weight), init::zeros(layer->bias);
  const ViTConfig d = decoder_config(c);
  for (int64_t i = 0; i < d.num_hidden_layers; ++i) blocks.emplace_back(d);
}

Tensor MAEDecoder::forward(const Tensor& encoded, const PatchMask& mask) {
  const Tensor x = embed(encoded);
  const int64_t batch = x.size(0), seen = x.size(1), dim = x.size(2), patches = mask.ids_restore.size(1);
  // All tokens and, as one more row, the mask token; then each place takes its row.
  const Tensor table = cat({reshape(x, {batch * seen, dim}), reshape(mask_token, {1, dim})});
  const Tensor first = unsqueeze(arange(0, double(batch * seen), double(seen), mask.ids_restore.options()), 1);
  const Tensor ids = cat({first, where(mask.hidden, batch * seen, mask.ids_restore + first + 1)}, 1);
  Tensor h = reshape(index_select(table, 0, reshape(ids, {-1})), {batch, 1 + patches, dim}) + pos_embed;
  if (run_blocks) h = run_blocks(blocks, h);
  else
    for (auto& block : blocks) h = block(h);
  return narrow(pred(norm(h)), 1, 1, patches);
}

MaskedAutoencoder::MaskedAutoencoder(const MAEConfig& c) : config(c), encoder(c.encoder), decoder(c) {
  if (c.encoder.num_labels)
    throw Error(
        fmt::format("MaskedAutoencoder: the encoder has num_labels {}; it classifies nothing, so it must be 0", c.encoder.num_labels));
  visible(c.encoder.patches(), c.mask_ratio);
}

Tensor MaskedAutoencoder::target(const Tensor& images) const {
  const NoGrad off;
  const Tensor patches = patchify(images, config.encoder.patch_size);
  if (!config.norm_pix_loss) return patches;
  return (patches - mean(patches, {-1}, true)) / sqrt(var(patches, {-1}, 1, true) + 1e-6);
}

MAEOutput MaskedAutoencoder::forward(const Tensor& images, const PatchMask& mask) {
  const Shape& s = images.shape();
  const ViTConfig& c = config.encoder;
  if (images.dim() != 4 || s[1] != c.num_channels || s[2] != c.image_size || s[3] != c.image_size)
    throw Error(fmt::format("MaskedAutoencoder: images of shape {} do not fit; expected (B, {}, {}, {})", s.str(), c.num_channels,
                            c.image_size, c.image_size));
  const bool all = mask.ids_keep.size(1) == c.patches();
  const Tensor pred = decoder(encoder.encode(patchify(images, c.patch_size), mask.ids_keep), mask);
  const Tensor losses = mean(square(pred - target(images)), {-1});
  if (all) return {mean(losses), pred};
  const Tensor weights = cast(mask.hidden, losses.dtype());
  return {sum(losses * weights) / double(mask.hidden.numel() - mask.ids_keep.numel()), pred};
}
Tensor MaskedAutoencoder::loss(const Tensor& images) {
  return forward(images, random_masking(images.size(0), config.encoder.patches(), config.mask_ratio, images.device())).loss;
}

}  // namespace nn
}  // namespace retape
