#include "mixers.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

namespace retape::lm {
namespace {

using nn::AnySequenceMixer;

// nanoGPT's, with its names.
struct CausalSelfAttention : nn::Module {
  struct State {
    std::optional<nn::KVCache> cache;
  };
  int64_t heads, block;
  double dropout;
  nn::Linear c_attn, c_proj;
  nn::Dropout resid_dropout;
  explicit CausalSelfAttention(const Config& c)
      : heads(c.heads),
        block(c.block),
        dropout(c.dropout),
        c_attn(c.width, 3 * c.width, {.bias = false}),
        c_proj(c.width, c.width, {.bias = false}),
        resid_dropout(c.dropout) {}
  Tensor forward(const Tensor& x) const { return run(x, nullptr); }
  Tensor step(const Tensor& x, State& state) const {
    const ModuleScope scope(*this);
    if (!state.cache) state.cache.emplace(block);
    return run(x, &*state.cache);
  }
  RETAPE_FIELDS(c_attn, c_proj, resid_dropout)

 private:
  Tensor run(const Tensor& x, nn::KVCache* cache) const {
    const int64_t batch = x.size(0), length = x.size(1), width = x.size(2);
    std::vector<Tensor> qkv = split(c_attn(x), width, -1);
    for (Tensor& t : qkv) t = transpose(reshape(t, {batch, length, heads, width / heads}), 1, 2);  // (B, H, T, D), views all
    const Tensor y =
        cache ? cache->attend(qkv[0], qkv[1], qkv[2])
              : scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], {.is_causal = true, .dropout_p = is_training() ? dropout : 0});
    return resid_dropout(c_proj(reshape(transpose(y, 1, 2), {batch, length, width})));
  }
};

// A recurrent layer, behind which dropout stands.
template <class Layer> struct Recurrent : nn::Module {
  using State = std::decay_t<decltype(std::declval<Layer&>()(Tensor()).second)>;
  Layer rnn;
  nn::Dropout dropout;
  explicit Recurrent(const Config& c) : rnn(c.width, c.width, {.batch_first = true}), dropout(c.dropout) {}
  Tensor forward(const Tensor& x) const { return dropout(rnn(x).first); }
  Tensor step(const Tensor& x, State& state) const {
    const ModuleScope scope(*this);
    Tensor y;
    std::tie(y, state) = rnn(x, state);
    return y;
  }
  RETAPE_FIELDS(rnn, dropout)
};

}  // namespace

const std::vector<Mixer>& mixers() {
  static const std::vector<Mixer> all = {
      {"attention", "softmax attention of several heads", "learned", "gelu", {"--heads"},
       [](const Config& c) { return AnySequenceMixer(CausalSelfAttention(c)); }, true},
      {"lstm", "long short-term memory", "none", "gelu", {}, [](const Config& c) { return AnySequenceMixer(Recurrent<nn::LSTM>(c)); }},
      {"gru", "gated recurrent units", "none", "gelu", {}, [](const Config& c) { return AnySequenceMixer(Recurrent<nn::GRU>(c)); }},
      {"rnn", "recurrent units with tanh", "none", "gelu", {}, [](const Config& c) { return AnySequenceMixer(Recurrent<nn::RNN>(c)); }},
  };
  return all;
}

const Mixer& mixer_named(const std::string& name) {
  const auto found = std::find_if(mixers().begin(), mixers().end(), [&](const Mixer& m) { return m.name == name; });
  if (found != mixers().end()) return *found;
  std::vector<std::string> names;
  for (auto& m : mixers()) names.push_back(m.name);
  throw Error(fmt::format("--mixer {} is not valid; expected one of {}", name, fmt::join(names, ", ")));
}

}  // namespace retape::lm
