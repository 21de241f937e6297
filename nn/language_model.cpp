#include <retape/nn/language_model.h>

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include <retape/autograd/ops.h>
#include <retape/autograd/tape.h>
#include <retape/nn/gated.h>
#include <retape/nn/init.h>
#include <retape/nn/layer_norm.h>
#include <retape/nn/rms_norm.h>

namespace retape::nn {

void check(const LanguageModelConfig& c) {
  const auto positive = [](const char* what, int64_t value) {
    if (value <= 0) throw Error(fmt::format("LanguageModel: {} {} is not valid; it must be positive", what, value));
  };
  positive("vocab_size", c.vocab_size), positive("hidden_size", c.hidden_size), positive("num_layers", c.num_layers);
  if (c.positions == LanguageModelPositions::learned || c.max_positions < 0) positive("max_positions", c.max_positions);
  if (c.mlp_size < 0) throw Error(fmt::format("LanguageModel: mlp_size {} is not valid; it must be positive, or 0", c.mlp_size));
  if (!(c.dropout >= 0 && c.dropout < 1))
    throw Error(fmt::format("LanguageModel: dropout {} is not valid; it must be at least 0 and below 1", c.dropout));
}

namespace {

AnyModule make_norm(const LanguageModelConfig& c) {
  if (c.norm == LanguageModelNorm::rms_norm) return RMSNorm(c.hidden_size, {.eps = c.norm_eps});
  return LayerNorm(c.hidden_size, {.eps = c.norm_eps, .bias = c.bias});
}
AnyModule make_mlp(const LanguageModelConfig& c) {
  if (c.mlp == LanguageModelMlp::swiglu)
    return SwiGLU(c.hidden_size, c.mlp_size ? c.mlp_size : (c.hidden_size * 8 / 3 + 7) / 8 * 8, {.bias = c.bias});
  return FeedForward(c.hidden_size, c.mlp_size ? c.mlp_size : 4 * c.hidden_size,
                     {.bias = c.bias, .tanh = c.mlp == LanguageModelMlp::gelu_tanh});
}

}  // namespace

FeedForward::FeedForward(int64_t dim, int64_t hidden_dim, FeedForwardOptions o)
    : c_fc(dim, hidden_dim, {.bias = o.bias}), c_proj(hidden_dim, dim, {.bias = o.bias}), tanh(o.tanh) {}
Tensor FeedForward::forward(const Tensor& x) const {
  const Tensor hidden = c_fc(x);
  return c_proj(tanh ? gelu_tanh(hidden) : gelu(hidden));
}

LanguageModelBlock::LanguageModelBlock(const LanguageModelConfig& c, AnySequenceMixer m, std::optional<AnySequenceMixer> mixing)
    : mixer_name(c.mixer_name), ln_1(make_norm(c)), mixer(std::move(m)), mixing_mlp(std::move(mixing)), dropout(c.dropout) {
  if (!mixing_mlp && c.mlp == LanguageModelMlp::none) return;
  ln_2.emplace(make_norm(c));
  if (!mixing_mlp) mlp.emplace(make_mlp(c));
}
Tensor LanguageModelBlock::forward(const Tensor& x) const {
  const Tensor h = x + dropout(mixer(ln_1(x)));
  if (!ln_2) return h;
  const Tensor normed = (*ln_2)(h);
  return h + dropout(mixing_mlp ? (*mixing_mlp)(normed) : (*mlp)(normed));
}
Tensor LanguageModelBlock::step(const Tensor& x, State& state) const {
  const ModuleScope scope(*this);
  const Tensor h = x + mixer.step(ln_1(x), state.mixer);
  if (!ln_2) return h;
  const Tensor normed = (*ln_2)(h);
  return h + (mixing_mlp ? mixing_mlp->step(normed, state.mlp) : (*mlp)(normed));
}
void LanguageModelBlock::fields(Visitor& v) {
  detail::visit_field(v, "ln_1", ln_1), detail::visit_field(v, mixer_name, mixer);
  detail::visit_field(v, "ln_2", ln_2), detail::visit_field(v, "mlp", mlp), detail::visit_field(v, "mlp", mixing_mlp);
  detail::visit_field(v, "dropout", dropout);
}

LanguageModelTrunk::LanguageModelTrunk(const LanguageModelConfig& c, const MakeMixer& mixer, const MakeMixer& mixing_mlp)
    : wte(c.vocab_size, c.hidden_size), drop(c.dropout), ln_f(make_norm(c)), max_positions_(c.max_positions) {
  if (c.positions == LanguageModelPositions::learned)
    wpe.emplace(c.hidden_size, LearnedPositionalEmbeddingOptions{.max_length = c.max_positions});
  if (c.positions == LanguageModelPositions::sinusoidal)
    sinusoidal.emplace(c.hidden_size, SinusoidalPositionalEncodingOptions{.scale = std::sqrt(double(c.hidden_size))});
  h.reserve(size_t(c.num_layers));
  for (int64_t i = 0; i < c.num_layers; ++i) h.emplace_back(c, mixer(i), mixing_mlp ? std::optional(mixing_mlp(i)) : std::nullopt);
}
// Of tokens at positions first, first + 1, ...
Tensor LanguageModelTrunk::embed(const Tensor& ids, int64_t first) const {
  if (!ids || ids.dim() != 2)
    throw Error(fmt::format("LanguageModel: ids {}, expected 2 dims, (batch, positions)", ids ? ids.shape().str() : "undefined"));
  const int64_t length = ids.size(1);
  if (max_positions_ > 0 && first + length > max_positions_)
    throw Error(fmt::format("LanguageModel: {} tokens do not fit the {} positions that it knows", first + length, max_positions_));
  const Tensor x = wte(ids);
  return drop(wpe ? (*wpe)(x, first) : sinusoidal ? (*sinusoidal)(x, first) : x);
}
Tensor LanguageModelTrunk::forward(const Tensor& ids) {
  Tensor x = embed(ids, 0);
  if (run_blocks) x = run_blocks(h, x);
  else
    for (auto& block : h) x = block(x);
  return ln_f(x);
}

LanguageModel::LanguageModel(const LanguageModelConfig& c, const MakeMixer& mixer, const MakeMixer& mixing_mlp)
    : config((check(c), c)), transformer(c, mixer, mixing_mlp), lm_head(c.hidden_size, c.vocab_size, {.bias = false}) {
  const double residual = 0.02 / std::sqrt(2.0 * double(c.num_layers));
  init::normal(transformer.wte.weight, 0, 0.02);
  for (auto& block : transformer.h)
    if (block.mlp)
      for (auto& [name, weight] : block.mlp->module().named_parameters())
        if (weight.dim() == 2) init::normal(weight, 0, name == "c_proj.weight" || name == "down_proj.weight" ? residual : 0.02);
  if (c.tie_word_embeddings) lm_head.weight = transformer.wte.weight;
  else init::normal(lm_head.weight, 0, 0.02);
}
Tensor LanguageModel::forward(const Tensor& ids) { return lm_head(transformer(ids)); }
Tensor LanguageModel::loss(const Tensor& ids, const Tensor& targets) {
  const Tensor logits = (*this)(ids);
  return cross_entropy(reshape(logits, {-1, logits.size(-1)}), reshape(targets, {-1}));
}
Tensor LanguageModel::step(const Tensor& ids, State& state) {
  const ModuleScope scope(*this);
  if (ids && ids.dim() == 2 && ids.size(1) == 0)
    throw Error(fmt::format("LanguageModel: step() got ids {}; it needs a token", ids.shape().str()));
  auto& [layers, length] = state;
  if (!layers.empty() && layers.size() != transformer.h.size())
    throw Error(fmt::format("LanguageModel: step() got a state of {} layers, expected {}", layers.size(), transformer.h.size()));
  std::optional<ModeScope> still;
  if (is_training()) still.emplace(*this, false);
  Tensor x = transformer.embed(ids, length);
  layers.resize(transformer.h.size());
  for (size_t i = 0; i < layers.size(); ++i) x = transformer.h[i].step(x, layers[i]);
  length += ids.size(1);
  return lm_head(transformer.ln_f(select(x, 1, -1)));
}

namespace {

int64_t sample(std::vector<double> logits, const SampleTokensOptions& o, Generator& generator) {
  const int64_t likeliest = std::max_element(logits.begin(), logits.end()) - logits.begin();
  if (o.temperature == 0) return likeliest;
  double least = -INFINITY;
  if (o.top_k > 0 && o.top_k < int64_t(logits.size())) {
    std::vector<double> sorted = logits;
    std::nth_element(sorted.begin(), sorted.begin() + (o.top_k - 1), sorted.end(), std::greater<>());
    least = sorted[size_t(o.top_k - 1)];
  }
  const double top = logits[size_t(likeliest)];
  double total = 0;
  for (double& v : logits) total += v = v >= least ? std::exp((v - top) / o.temperature) : 0;
  double left = rand({}, {DType::f64}, generator).item() * total;
  for (size_t k = 0; k < logits.size(); ++k)
    if ((left -= logits[k]) < 0) return int64_t(k);
  return likeliest;  // rounding has left nothing
}

}  // namespace

std::vector<int64_t> LanguageModel::generate(std::vector<int64_t> tokens, int64_t count, const SampleTokensOptions& o,
                                             Generator& generator) {
  if (tokens.empty()) throw Error("LanguageModel: generate() got an empty prompt; it needs a token to begin with");
  if (count < 0 || !(o.temperature >= 0) || o.top_k < 0)
    throw Error(fmt::format("LanguageModel: generate() got count {}, temperature {}, top_k {}; none may be negative", count, o.temperature,
                            o.top_k));
  if (o.vocab_size < 0 || o.vocab_size > config.vocab_size)
    throw Error(fmt::format("LanguageModel: generate() got vocab_size {}, but the model's is {}; it may be no larger", o.vocab_size,
                            config.vocab_size));
  const NoGrad off;
  const int64_t prompt = int64_t(tokens.size());
  const int64_t most = config.max_positions > 0 ? config.max_positions : INT64_MAX;
  const auto latest = [&](int64_t n) { return retape::to(tensor(std::vector<int64_t>(tokens.end() - n, tokens.end()), {1, n}), device()); };
  State state;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t length = int64_t(tokens.size());
    if (length > most) state = {};  // the position of every token moves
    std::vector<double> logits = step(latest(std::min(length, most) - state.length), state).to_vector<double>();
    if (o.vocab_size > 0) logits.resize(size_t(o.vocab_size));
    tokens.push_back(sample(std::move(logits), o, generator));
  }
  return {tokens.begin() + prompt, tokens.end()};
}

}  // namespace retape::nn
