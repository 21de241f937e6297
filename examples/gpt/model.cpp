#include "model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace retape::gpt {

void check(const Config& c) {
  auto positive = [](const char* flag, int64_t value) {
    if (value <= 0) throw Error(fmt::format("{} {} is not valid; it must be positive", flag, value));
  };
  positive("vocabulary", c.vocab), positive("--block", c.block), positive("--layers", c.layers), positive("--heads", c.heads),
      positive("--width", c.width);
  if (c.width % c.heads) throw Error(fmt::format("--width {} is no multiple of --heads {}", c.width, c.heads));
  if (!(c.dropout >= 0 && c.dropout < 1)) throw Error(fmt::format("--dropout {} is not valid; expected 0 <= dropout < 1", c.dropout));
  examples::parse_recomputation(c.recompute, c.layers);
}

CausalSelfAttention::CausalSelfAttention(const Config& c)
    : heads(c.heads),
      dropout(c.dropout),
      c_attn(c.width, 3 * c.width, {.bias = false}),
      c_proj(c.width, c.width, {.bias = false}),
      resid_dropout(c.dropout) {}
Tensor CausalSelfAttention::forward(const Tensor& x, nn::KVCache* cache) {
  const int64_t batch = x.size(0), length = x.size(1), width = x.size(2);
  std::vector<Tensor> qkv = split(c_attn(x), width, -1);
  for (Tensor& t : qkv) t = transpose(reshape(t, {batch, length, heads, width / heads}), 1, 2);  // (B, H, T, D), views all
  const Tensor y =
      cache ? cache->attend(qkv[0], qkv[1], qkv[2])
            : scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], {.is_causal = true, .dropout_p = is_training() ? dropout : 0});
  return resid_dropout(c_proj(reshape(transpose(y, 1, 2), {batch, length, width})));
}

Mlp::Mlp(const Config& c)
    : c_fc(c.width, 4 * c.width, {.bias = false}), c_proj(4 * c.width, c.width, {.bias = false}), dropout(c.dropout) {}
Tensor Mlp::forward(const Tensor& x) { return dropout(c_proj(gelu(c_fc(x)))); }

Block::Block(const Config& c) : ln_1(c.width, {.bias = false}), attn(c), ln_2(c.width, {.bias = false}), mlp(c) {}
Tensor Block::forward(const Tensor& x, nn::KVCache* cache) {
  const Tensor h = x + attn(ln_1(x), cache);
  return h + mlp(ln_2(h));
}

Transformer::Transformer(const Config& c)
    : recompute(examples::parse_recomputation(c.recompute, c.layers)),
      wte(c.vocab, c.width),
      wpe(c.block, c.width),
      drop(c.dropout),
      ln_f(c.width, {.bias = false}) {
  for (int64_t i = 0; i < c.layers; ++i) h.emplace_back(c);
}
Tensor Transformer::forward(const Tensor& ids, std::vector<nn::KVCache>* caches) {
  const int64_t first = caches ? caches->front().length() : 0, length = ids.size(1), block = wpe.weight->size(0);
  if (first + length > block) throw Error(fmt::format("gpt: {} tokens do not fit a block of {}", first + length, block));
  Tensor x = drop(wte(ids) + narrow(wpe.weight, 0, first, length));
  if (caches) {
    for (size_t i = 0; i < h.size(); ++i) x = h[i](x, &(*caches)[i]);
  } else {
    x = examples::run_blocks(h, recompute, x);
  }
  return ln_f(x);
}

Gpt::Gpt(const Config& c) : config(c), transformer((check(c), c)), lm_head(c.width, c.vocab, {.bias = false}) {
  // Radford et al. 2019: small weights, and smaller ones where 2 * layers branches add up into the residual stream.
  for (auto& [name, weight] : named_parameters()) {
    if (weight.dim() < 2) continue;
    const bool residual = name.ends_with("c_proj.weight");
    nn::init::normal(weight, 0, residual ? 0.02 / std::sqrt(2.0 * double(c.layers)) : 0.02);
  }
  lm_head.weight = transformer.wte.weight;
}
Device Gpt::device() const { return transformer.wte.weight->device(); }
Tensor Gpt::forward(const Tensor& ids) { return lm_head(transformer(ids)); }
Tensor Gpt::loss(const Tensor& ids, const Tensor& targets) {
  const Tensor logits = (*this)(ids);
  return cross_entropy(reshape(logits, {-1, logits.size(-1)}), reshape(targets, {-1}));
}

namespace {

// Draws from softmax(logits / temperature), or from its top_k likeliest.
int64_t sample(std::vector<double> logits, double temperature, int64_t top_k, Generator& generator) {
  const int64_t likeliest = std::max_element(logits.begin(), logits.end()) - logits.begin();
  if (temperature == 0) return likeliest;
  double least = -INFINITY;
  if (top_k > 0 && top_k < int64_t(logits.size())) {
    std::vector<double> sorted = logits;
    std::nth_element(sorted.begin(), sorted.begin() + (top_k - 1), sorted.end(), std::greater<>());
    least = sorted[size_t(top_k - 1)];
  }
  const double top = logits[size_t(likeliest)];
  double total = 0;
  for (double& v : logits) total += v = v >= least ? std::exp((v - top) / temperature) : 0;
  double left = rand({}, {DType::f64}, generator).item() * total;
  for (size_t k = 0; k < logits.size(); ++k)
    if ((left -= logits[k]) < 0) return int64_t(k);
  return likeliest;  // rounding has left nothing
}

}  // namespace

std::vector<int64_t> Gpt::generate(std::vector<int64_t> tokens, int64_t count, double temperature, int64_t top_k, Generator& generator) {
  const NoGrad off;
  const size_t prompt = tokens.size();
  const auto latest = [&](int64_t n) { return retape::to(tensor(std::vector<int64_t>(tokens.end() - n, tokens.end()), {1, n}), device()); };
  // While all tokens fit the block their keys and values stay valid. Later every position moves with each token.
  std::vector<nn::KVCache> caches(transformer.h.size(), nn::KVCache(config.block));
  for (int64_t i = 0; i < count; ++i) {
    const int64_t length = int64_t(tokens.size());
    const Tensor hidden = length <= config.block ? transformer(latest(length - caches.front().length()), &caches)
                                                 : transformer(latest(config.block), nullptr);
    tokens.push_back(sample(lm_head(select(hidden, 1, -1)).to_vector<double>(), temperature, top_k, generator));
  }
  return {tokens.begin() + int64_t(prompt), tokens.end()};
}

}  // namespace retape::gpt
