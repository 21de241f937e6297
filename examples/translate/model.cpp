#include "model.h"

#include <fmt/format.h>

#include <cmath>

namespace retape::translate {
namespace {

nn::TransformerLayerOptions layer_options(const Config& c) {
  return {.dim_feedforward = c.feed_forward, .dropout = c.dropout, .batch_first = true, .norm_first = c.norm == "pre"};
}
// x through layers, each `run` as --recompute says.
template <class Layers, class Run> Tensor through(Layers& layers, const examples::Recomputation& recompute, Tensor x, const Run& run) {
  struct Block {
    typename Layers::value_type* layer;
    const Run* run;
    Tensor operator()(const Tensor& x) const { return (*run)(*layer, x); }
  };
  std::vector<Block> blocks;
  for (auto& layer : layers) blocks.push_back({&layer, &run});
  return examples::run_blocks(blocks, recompute, x);
}

}  // namespace

Translator::Translator(const Config& c)
    : config(c),
      recompute(examples::parse_recomputation(c.recompute, c.layers)),
      embedding(c.vocab, c.width, {.padding_idx = c.pad}),
      positions(c.width, {.scale = std::sqrt(double(c.width))}),
      dropout(c.dropout),
      encoder(c.width, c.heads, c.layers, layer_options(c), c.norm == "pre"),
      decoder(c.width, c.heads, c.layers, layer_options(c), c.norm == "pre") {
  for (auto& [name, weight] : named_parameters())
    if (weight.dim() >= 2) nn::init::xavier_uniform(weight);
  nn::init::normal(embedding.weight, 0, 1 / std::sqrt(double(c.width)));
  const NoGrad off;
  nn::init::zeros(select(embedding.weight, 0, c.pad));
}

Tensor Translator::padding(const Tensor& ids) const { return eq(ids, double(config.pad)); }

Tensor Translator::embed(const Tensor& ids, int64_t first) { return dropout(positions(embedding(ids), first)); }
Tensor Translator::logits(const Tensor& hidden) const { return linear(hidden, embedding.weight); }

Tensor Translator::encode(const Tensor& source) {
  const Tensor masked = padding(source);
  const Tensor x = through(encoder.layers, recompute, embed(source), [&](auto& layer, const Tensor& h) {
    return layer(h, nn::MultiheadAttentionInputs{.key_padding_mask = masked});
  });
  return encoder.norm ? (*encoder.norm)(x) : x;
}

Tensor Translator::forward(const Tensor& source, const Tensor& target) {
  const Tensor memory = encode(source), masked = padding(source);
  // Pads follow a sentence, so that with a causal mask no token sees one.
  const Tensor x = through(decoder.layers, recompute, embed(target), [&](auto& layer, const Tensor& h) {
    return layer(h, memory, nn::MultiheadAttentionInputs{.is_causal = true}, nn::MultiheadAttentionInputs{.key_padding_mask = masked});
  });
  return logits(decoder.norm ? (*decoder.norm)(x) : x);
}

std::vector<Tensor> Translator::attention(const Tensor& source, const Tensor& target) {
  std::vector<Tensor> weights;
  decoder(embed(target), encode(source), nn::MultiheadAttentionInputs{.is_causal = true},
          nn::MultiheadAttentionInputs{.key_padding_mask = padding(source)}, &weights);
  return weights;
}

Tensor Translator::loss(const Tensor& source, const Tensor& target, double label_smoothing) {
  const int64_t length = target.size(1) - 1;
  const Tensor y = (*this)(source, narrow(target, 1, 0, length));
  return cross_entropy(reshape(y, {-1, config.vocab}), reshape(narrow(target, 1, 1, length), {-1}),
                       {.ignore_index = config.pad, .label_smoothing = label_smoothing});
}

}  // namespace retape::translate
