// The Transformer of Vaswani et al. 2017: encoder and decoder with one table of token vectors, which is also the output layer.
#pragma once
#include <retape/nn/transformer.h>
#include <retape/retape.h>

#include <examples/common/recompute.h>

namespace retape::translate {

struct Config {
  int64_t vocab = 0;  // tokens of the joint vocabulary
  int64_t layers = 3, width = 256, heads = 4, feed_forward = 1024;
  double dropout = 0.1;
  std::string norm = "pre";  // pre: before each part, with one more at the end; post: behind each sum, as in the paper
  int64_t pad = 0;
  std::string recompute = "none";  // see examples::parse_recomputation()
};

struct Translator : nn::Module {
  Config config;
  examples::Recomputation recompute;
  nn::Embedding embedding;
  nn::SinusoidalPositionalEncoding positions;
  nn::Dropout dropout;
  nn::TransformerEncoder encoder;
  nn::TransformerDecoder decoder;
  explicit Translator(const Config& c);

  /// source (N, S) and target (N, T), i64, filled up with `pad`: the mean loss of target[:, 1:] given what stands before, over all tokens but
  /// pad, f32 without dims.
  Tensor loss(const Tensor& source, const Tensor& target, double label_smoothing);
  Tensor forward(const Tensor& source, const Tensor& target);  ///< logits (N, T, vocab)
  /// What the decoder attends to: (N, S, width).
  Tensor encode(const Tensor& source);
  /// How much each place of target (N, T) attends to each of source (N, S): (N, T, S) for every layer, means over its heads.
  std::vector<Tensor> attention(const Tensor& source, const Tensor& target);
  Tensor padding(const Tensor& ids) const;  ///< bool (N, S): true where there is no token
  /// Token vectors with their positions.
  Tensor embed(const Tensor& ids, int64_t first = 0);
  Tensor logits(const Tensor& hidden) const;
  Device device() const { return embedding.weight->device(); }
  RETAPE_FIELDS(embedding, positions, dropout, encoder, decoder)
};

}  // namespace retape::translate
