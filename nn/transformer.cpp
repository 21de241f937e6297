#include <retape/nn/transformer.h>

#include <fmt/format.h>

#include <cmath>

#include <retape/autograd/binary.h>
#include <retape/autograd/unary.h>
#include <retape/nn/init.h>

namespace retape::nn {
namespace {

LayerNormOptions norm_options(const TransformerLayerOptions& o) { return {.eps = o.layer_norm_eps, .bias = o.bias}; }
MultiheadAttentionOptions attention_options(const TransformerLayerOptions& o) {
  return {.dropout = o.dropout, .bias = o.bias, .batch_first = o.batch_first};
}
Tensor activate(const Tensor& x, TransformerActivation activation) { return activation == TransformerActivation::relu ? relu(x) : gelu(x); }
MultiheadAttentionInputs without_weights(MultiheadAttentionInputs masks) {
  masks.need_weights = false;
  return masks;
}

}  // namespace

// ---- encoder ----------------------------------------------------------------------------------------------------------

TransformerEncoderLayer::TransformerEncoderLayer(int64_t d_model, int64_t nhead, TransformerLayerOptions o)
    : options(o),
      self_attn(d_model, nhead, attention_options(o)),
      linear1(d_model, o.dim_feedforward, {.bias = o.bias}),
      linear2(o.dim_feedforward, d_model, {.bias = o.bias}),
      norm1(d_model, norm_options(o)),
      norm2(d_model, norm_options(o)),
      dropout(o.dropout) {}

Tensor TransformerEncoderLayer::forward(const Tensor& src, const MultiheadAttentionInputs& masks) const {
  const auto attention = [&](const Tensor& x) { return dropout(self_attn(x, x, x, without_weights(masks)).output); };
  const auto feed_forward = [&](const Tensor& x) { return dropout(linear2(dropout(activate(linear1(x), options.activation)))); };
  if (options.norm_first) {
    const Tensor x = src + attention(norm1(src));
    return x + feed_forward(norm2(x));
  }
  const Tensor x = norm1(src + attention(src));
  return norm2(x + feed_forward(x));
}

TransformerEncoder::TransformerEncoder(int64_t d_model, int64_t nhead, int64_t num_layers, TransformerLayerOptions o, bool with_norm) {
  for (int64_t i = 0; i < num_layers; ++i) layers.emplace_back(d_model, nhead, o);
  if (with_norm) norm.emplace(d_model, norm_options(o));
}
Tensor TransformerEncoder::forward(const Tensor& src, const MultiheadAttentionInputs& masks) const {
  Tensor x = src;
  for (auto& layer : layers) x = layer(x, masks);
  return norm ? (*norm)(x) : x;
}

// ---- decoder ----------------------------------------------------------------------------------------------------------

TransformerDecoderLayer::TransformerDecoderLayer(int64_t d_model, int64_t nhead, TransformerLayerOptions o)
    : options(o),
      self_attn(d_model, nhead, attention_options(o)),
      multihead_attn(d_model, nhead, attention_options(o)),
      linear1(d_model, o.dim_feedforward, {.bias = o.bias}),
      linear2(o.dim_feedforward, d_model, {.bias = o.bias}),
      norm1(d_model, norm_options(o)),
      norm2(d_model, norm_options(o)),
      norm3(d_model, norm_options(o)),
      dropout(o.dropout) {}

namespace {

// The layer's three parts around the two attentions.
template <class Self, class Cross>
Tensor decode(const TransformerDecoderLayer& layer, const Tensor& tgt, const Self& self_attention, const Cross& cross_attention) {
  const auto feed_forward = [&](const Tensor& x) {
    return layer.dropout(layer.linear2(layer.dropout(activate(layer.linear1(x), layer.options.activation))));
  };
  if (layer.options.norm_first) {
    Tensor x = tgt + layer.dropout(self_attention(layer.norm1(tgt)));
    x = x + layer.dropout(cross_attention(layer.norm2(x)));
    return x + feed_forward(layer.norm3(x));
  }
  Tensor x = layer.norm1(tgt + layer.dropout(self_attention(tgt)));
  x = layer.norm2(x + layer.dropout(cross_attention(x)));
  return layer.norm3(x + feed_forward(x));
}

}  // namespace

Tensor TransformerDecoderLayer::forward(const Tensor& tgt, const Tensor& memory, const MultiheadAttentionInputs& tgt_masks,
                                        const MultiheadAttentionInputs& memory_masks, Tensor* weights) const {
  return decode(
      *this, tgt, [&](const Tensor& x) { return self_attn(x, x, x, without_weights(tgt_masks)).output; },
      [&](const Tensor& x) {
        MultiheadAttentionInputs masks = memory_masks;
        masks.need_weights = weights != nullptr;
        const auto result = multihead_attn(x, memory, memory, masks);
        if (weights) *weights = result.weights;
        return result.output;
      });
}

TransformerDecoderCache TransformerDecoderLayer::cache(const Tensor& memory, int64_t capacity) const {
  return {KVCache(capacity), multihead_attn.remember(memory)};
}
Tensor TransformerDecoderLayer::step(const Tensor& tgt, TransformerDecoderCache& cache, const Tensor& memory_key_padding_mask) const {
  const ModuleScope scope(*this);
  return decode(
      *this, tgt, [&](const Tensor& x) { return self_attn.step(x, cache.self); },
      [&](const Tensor& x) { return multihead_attn.attend(x, cache.memory, memory_key_padding_mask); });
}

TransformerDecoder::TransformerDecoder(int64_t d_model, int64_t nhead, int64_t num_layers, TransformerLayerOptions o, bool with_norm) {
  for (int64_t i = 0; i < num_layers; ++i) layers.emplace_back(d_model, nhead, o);
  if (with_norm) norm.emplace(d_model, norm_options(o));
}
Tensor TransformerDecoder::forward(const Tensor& tgt, const Tensor& memory, const MultiheadAttentionInputs& tgt_masks,
                                   const MultiheadAttentionInputs& memory_masks, std::vector<Tensor>* weights) const {
  Tensor x = tgt;
  if (weights) weights->assign(layers.size(), {});
  for (size_t i = 0; i < layers.size(); ++i) x = layers[i](x, memory, tgt_masks, memory_masks, weights ? &(*weights)[i] : nullptr);
  return norm ? (*norm)(x) : x;
}
std::vector<TransformerDecoderCache> TransformerDecoder::caches(const Tensor& memory, int64_t capacity) const {
  std::vector<TransformerDecoderCache> made;
  for (auto& layer : layers) made.push_back(layer.cache(memory, capacity));
  return made;
}
Tensor TransformerDecoder::step(const Tensor& tgt, std::vector<TransformerDecoderCache>& caches,
                                const Tensor& memory_key_padding_mask) const {
  if (caches.size() != layers.size())
    throw Error(fmt::format("TransformerDecoder: {} caches for {} layers; make them with caches()", caches.size(), layers.size()));
  const ModuleScope scope(*this);
  Tensor x = tgt;
  for (size_t i = 0; i < layers.size(); ++i) x = layers[i].step(x, caches[i], memory_key_padding_mask);
  return norm ? (*norm)(x) : x;
}

Transformer::Transformer(int64_t d_model, int64_t nhead, const TransformerOptions& o)
    : encoder(d_model, nhead, o.num_encoder_layers, o, true), decoder(d_model, nhead, o.num_decoder_layers, o, true) {
  for (const Tensor& p : parameters())
    if (p.dim() > 1) init::xavier_uniform(p);
}
Tensor Transformer::forward(const Tensor& src, const Tensor& tgt, const MultiheadAttentionInputs& src_masks,
                            const MultiheadAttentionInputs& tgt_masks, const MultiheadAttentionInputs& memory_masks) const {
  return decoder(tgt, encoder(src, src_masks), tgt_masks, memory_masks);
}

}  // namespace retape::nn
