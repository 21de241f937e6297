// A GPT as in nanoGPT: learned positions, pre-norm blocks, a head tied to the token embedding. Field names follow nanoGPT, so
// that weight files go both ways.
#pragma once
#include <retape/retape.h>

#include <examples/common/recompute.h>

namespace retape::gpt {

struct Config {
  int64_t vocab = 0;  // tokens in the vocabulary
  int64_t block = 64;
  int64_t layers = 4;
  int64_t heads = 4;
  int64_t width = 128;
  double dropout = 0;
  std::string recompute = "none";  // see examples::parse_recomputation()
};
/// Throws Error, naming the flag, unless every size is positive, heads divide width, 0 <= dropout < 1 and recompute can be parsed.
void check(const Config& config);

struct CausalSelfAttention : nn::Module {
  int64_t heads;
  double dropout;
  nn::Linear c_attn, c_proj;
  nn::Dropout resid_dropout;
  explicit CausalSelfAttention(const Config& c);
  /// (B, T, width) -> the same. With a cache x holds the positions behind those that it has seen.
  Tensor forward(const Tensor& x, nn::KVCache* cache = nullptr);
  RETAPE_FIELDS(c_attn, c_proj, resid_dropout)
};

struct Mlp : nn::Module {
  nn::Linear c_fc, c_proj;
  nn::Dropout dropout;
  explicit Mlp(const Config& c);
  Tensor forward(const Tensor& x);
  RETAPE_FIELDS(c_fc, c_proj, dropout)
};

struct Block : nn::Module {
  nn::LayerNorm ln_1;
  CausalSelfAttention attn;
  nn::LayerNorm ln_2;
  Mlp mlp;
  explicit Block(const Config& c);
  Tensor forward(const Tensor& x, nn::KVCache* cache = nullptr);
  RETAPE_FIELDS(ln_1, attn, ln_2, mlp)
};

struct Transformer : nn::Module {
  examples::Recomputation recompute;
  nn::Embedding wte, wpe;
  nn::Dropout drop;
  std::vector<Block> h;
  nn::LayerNorm ln_f;
  explicit Transformer(const Config& c);
  /// (B, T) i64 -> (B, T, width). caches: none, or one a layer.
  Tensor forward(const Tensor& ids, std::vector<nn::KVCache>* caches = nullptr);
  RETAPE_FIELDS(wte, wpe, drop, h, ln_f)
};

struct Gpt : nn::Module {
  Config config;
  Transformer transformer;
  nn::Linear lm_head;
  explicit Gpt(const Config& c);
  Device device() const;              // of the weights
  Tensor forward(const Tensor& ids);  // (B, T) i64 -> logits (B, T, vocab); throws Error if T is larger than block
  /// Mean cross-entropy of predicting targets (B, T) from ids (B, T).
  Tensor loss(const Tensor& ids, const Tensor& targets);
  /// `count` more tokens after `prompt` (at least one token), each from the last `block` tokens before it. temperature 0 takes the
  /// likeliest; top_k 0 keeps all.
  std::vector<int64_t> generate(std::vector<int64_t> prompt, int64_t count, double temperature, int64_t top_k, Generator& generator);
  RETAPE_FIELDS(transformer, lm_head)
};

}  // namespace retape::gpt
