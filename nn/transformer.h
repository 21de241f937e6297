// The layers of the Transformer (Vaswani et al. 2017), encoder and decoder.
#pragma once
#include <optional>
#include <vector>

#include <retape/nn/attention.h>
#include <retape/nn/dropout.h>
#include <retape/nn/kv_cache.h>
#include <retape/nn/layer_norm.h>
#include <retape/nn/linear.h>
#include <retape/nn/position.h>

namespace retape::nn {

enum class TransformerActivation : uint8_t { relu, gelu };

/// Names and defaults of torch.nn.TransformerEncoderLayer and DecoderLayer.
struct TransformerLayerOptions {
  int64_t dim_feedforward = 2048;
  double dropout = 0.1;
  TransformerActivation activation = TransformerActivation::relu;
  double layer_norm_eps = 1e-5;
  bool batch_first = false;
  bool norm_first = false;  ///< norms before attention and feed-forward instead of behind the sums ("pre-norm")
  bool bias = true;
};

/// Self-attention and a feed-forward network, each with a residual connection and a norm. torch: nn.TransformerEncoderLayer, with its
/// parameter names.
struct TransformerEncoderLayer : Module {
  TransformerLayerOptions options;
  MultiheadAttention self_attn;
  Linear linear1, linear2;
  LayerNorm norm1, norm2;
  Dropout dropout;
  TransformerEncoderLayer(int64_t d_model, int64_t nhead, TransformerLayerOptions options = {});
  /// src (S, N, d_model), or N first with batch_first. Masks as MultiheadAttention takes them: attn_mask, key_padding_mask, is_causal.
  Tensor forward(const Tensor& src, const MultiheadAttentionInputs& masks = {}) const;
  RETAPE_FIELDS(self_attn, linear1, linear2, norm1, norm2, dropout)
};

/// What a decoder layer keeps while it generates position by position.
struct TransformerDecoderCache {
  KVCache self;
  MultiheadAttention::Memory memory;
};

/// Masked self-attention, attention to the encoder's result, and a feed-forward network. torch: nn.TransformerDecoderLayer, with its
/// parameter names.
struct TransformerDecoderLayer : Module {
  TransformerLayerOptions options;
  MultiheadAttention self_attn, multihead_attn;
  Linear linear1, linear2;
  LayerNorm norm1, norm2, norm3;
  Dropout dropout;
  TransformerDecoderLayer(int64_t d_model, int64_t nhead, TransformerLayerOptions options = {});
  /// tgt (T, N, d_model), memory (S, N, d_model), or N first with batch_first. `weights`, if given, gets the attention to memory,
  /// (N, T, S), the mean over heads.
  Tensor forward(const Tensor& tgt, const Tensor& memory, const MultiheadAttentionInputs& tgt_masks = {},
                 const MultiheadAttentionInputs& memory_masks = {}, Tensor* weights = nullptr) const;
  /// A cache for at most `capacity` positions with this memory (N, S, d_model). batch_first only.
  TransformerDecoderCache cache(const Tensor& memory, int64_t capacity) const;
  /// The next positions of tgt (N, T, d_model), which see all before: what forward() with is_causal gives for them, without dropout.
  /// memory_key_padding_mask (M, S), bool: true leaves a key out. Under NoGrad, in eval mode. N may be a multiple of memory's rows, as
  /// MultiheadAttention::attend() says.
  Tensor step(const Tensor& tgt, TransformerDecoderCache& cache, const Tensor& memory_key_padding_mask = {}) const;
  RETAPE_FIELDS(self_attn, multihead_attn, linear1, linear2, norm1, norm2, norm3, dropout)
};

/// Layers one after the other, and a norm behind the last one if `norm` is set, as pre-norm wants. torch: nn.TransformerEncoder.
struct TransformerEncoder : Module {
  std::vector<TransformerEncoderLayer> layers;
  std::optional<LayerNorm> norm;
  TransformerEncoder(int64_t d_model, int64_t nhead, int64_t num_layers, TransformerLayerOptions options = {}, bool norm = false);
  Tensor forward(const Tensor& src, const MultiheadAttentionInputs& masks = {}) const;
  RETAPE_FIELDS(layers, norm)
};
/// torch: nn.TransformerDecoder.
struct TransformerDecoder : Module {
  std::vector<TransformerDecoderLayer> layers;
  std::optional<LayerNorm> norm;
  TransformerDecoder(int64_t d_model, int64_t nhead, int64_t num_layers, TransformerLayerOptions options = {}, bool norm = false);
  /// `weights`, if given, gets each layer's attention to memory.
  Tensor forward(const Tensor& tgt, const Tensor& memory, const MultiheadAttentionInputs& tgt_masks = {},
                 const MultiheadAttentionInputs& memory_masks = {}, std::vector<Tensor>* weights = nullptr) const;
  std::vector<TransformerDecoderCache> caches(const Tensor& memory, int64_t capacity) const;
  Tensor step(const Tensor& tgt, std::vector<TransformerDecoderCache>& caches, const Tensor& memory_key_padding_mask = {}) const;
  RETAPE_FIELDS(layers, norm)
};

struct TransformerOptions : TransformerLayerOptions {
  int64_t num_encoder_layers = 6, num_decoder_layers = 6;
};
/// Encoder and decoder, each with a norm behind its last layer; matrices start xavier_uniform. torch: nn.Transformer, with its parameter names.
struct Transformer : Module {
  TransformerEncoder encoder;
  TransformerDecoder decoder;
  explicit Transformer(int64_t d_model = 512, int64_t nhead = 8, const TransformerOptions& options = {});
  /// src (S, N, d_model), tgt (T, N, d_model), or N first with batch_first: the shape of tgt. memory_masks are those of the attention from tgt to src.
  Tensor forward(const Tensor& src, const Tensor& tgt, const MultiheadAttentionInputs& src_masks = {},
                 const MultiheadAttentionInputs& tgt_masks = {}, const MultiheadAttentionInputs& memory_masks = {}) const;
  RETAPE_FIELDS(encoder, decoder)
};

}  // namespace retape::nn
