#include "mixers.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

namespace retape::lm {
namespace {

using nn::AnySequenceMixer;

nn::CausalSelfAttentionOptions attention_options(const Config& c) {
  const auto position = c.positions == "rope" || (c.positions == "auto" && mixer_named(c.mixer).positions == "rope")
                            ? nn::AttentionPosition::rope
                        : c.positions == "alibi" ? nn::AttentionPosition::alibi
                        : c.positions == "t5"    ? nn::AttentionPosition::t5
                                                 : nn::AttentionPosition::none;
  return {.num_heads = c.heads, .num_kv_heads = c.kv_heads, .dropout = c.dropout, .position = position};
}

// A recurrent layer.
template <class Layer> struct Recurrent : nn::Module {
  using State = std::decay_t<decltype(std::declval<Layer&>()(Tensor()).second)>;
  Layer rnn;
  explicit Recurrent(const Config& c) : rnn(c.width, c.width, {.batch_first = true}) {}
  Tensor forward(const Tensor& x) const { return rnn(x).first; }
  Tensor step(const Tensor& x, State& state) const {
    const ModuleScope scope(*this);
    Tensor y;
    std::tie(y, state) = rnn(x, state);
    return y;
  }
  RETAPE_FIELDS(rnn)
};

}  // namespace

const std::vector<Mixer>& mixers() {
  static const std::vector<Mixer> all = {
      {.name = "attention",
       .what = "softmax attention",
       .positions = "learned",
       .flags = {"--heads", "--kv-heads"},
       .make = [](const Config& c, int64_t) { return AnySequenceMixer(nn::CausalSelfAttention(c.width, attention_options(c))); },
       .is_attention = true,
       .as_gpt2 = true},
      {.name = "window",
       .what = "softmax attention to the last --window positions",
       .positions = "rope",
       .flags = {"--heads", "--kv-heads", "--window"},
       .make =
           [](const Config& c, int64_t) {
             nn::CausalSelfAttentionOptions options = attention_options(c);
             options.window = c.window;
             return AnySequenceMixer(nn::CausalSelfAttention(c.width, options));
           },
       .is_attention = true,
       .as_gpt2 = true},
      {.name = "sparse",
       .what = "softmax attention to the last --window positions and every so many blocks before",
       .positions = "rope",
       .flags = {"--heads", "--kv-heads", "--window", "--chunk"},
       .make =
           [](const Config& c, int64_t) {
             nn::CausalSelfAttentionOptions options = attention_options(c);
             options.sparse = nn::sparse_patterns::strided(c.window, c.chunk);
             return AnySequenceMixer(nn::CausalSelfAttention(c.width, options));
           },
       .is_attention = true,
       .as_gpt2 = true},
      {.name = "linear",
       .what = "linear attention with elu + 1",
       .positions = "sinusoidal",
       .flags = {"--heads"},
       .make = [](const Config& c,
                  int64_t) { return AnySequenceMixer(nn::LinearAttention(c.width, {.num_heads = c.heads, .bias = false})); }},
      {.name = "performer",
       .what = "softmax attention by random features",
       .positions = "sinusoidal",
       .flags = {"--heads"},
       .make = [](const Config& c, int64_t) { return AnySequenceMixer(nn::Performer(c.width, {.num_heads = c.heads, .bias = false})); }},
      {.name = "efficient",
       .what = "softmax of queries and keys apart",
       .positions = "sinusoidal",
       .flags = {"--heads"},
       .make = [](const Config& c,
                  int64_t) { return AnySequenceMixer(nn::EfficientAttention(c.width, {.num_heads = c.heads, .bias = false})); }},
      {.name = "cosformer",
       .what = "linear attention that falls with the cosine of the distance",
       .flags = {"--heads"},
       .make =
           [](const Config& c, int64_t) {
             return AnySequenceMixer(nn::CosformerAttention(c.width, {.num_heads = c.heads, .max_length = c.block, .bias = false}));
           },
       .up_to_block = true},
      {.name = "gau",
       .what = "gated attention unit",
       .mlp = "none",
       .make = [](const Config& c, int64_t) { return AnySequenceMixer(nn::GatedAttentionUnit(c.width, {.bias = false})); }},
      {.name = "flash",
       .what = "gated attention unit in chunks",
       .mlp = "none",
       .flags = {"--chunk"},
       .make = [](const Config& c, int64_t) { return AnySequenceMixer(nn::FLASH(c.width, {.chunk_size = c.chunk, .bias = false})); }},
      {.name = "transnormer",
       .what = "softmax attention in chunks, in the upper half of the layers linear attention with a norm",
       .positions = "sinusoidal",
       .flags = {"--heads", "--chunk"},
       .make =
           [](const Config& c, int64_t layer) {
             const auto attention = layer < c.layers / 2 ? nn::TransNormerAttention::diag : nn::TransNormerAttention::norm;
             return nn::transnormer_attention(c.width,
                                              {.attention = attention, .num_heads = c.heads, .block_size = c.chunk, .bias = false});
           }},
      {.name = "retnet",
       .what = "retention",
       .flags = {"--heads"},
       .make = [](const Config& c, int64_t) { return AnySequenceMixer(nn::MultiScaleRetention(c.width, {.num_heads = c.heads})); }},
      {.name = "gla",
       .what = "gated linear attention",
       .flags = {"--heads"},
       .make = [](const Config& c, int64_t) { return AnySequenceMixer(nn::GatedLinearAttention(c.width, {.num_heads = c.heads})); }},
      {.name = "mamba",
       .what = "selective state spaces",
       .mlp = "none",
       .flags = {"--state"},
       .make = [](const Config& c, int64_t) { return AnySequenceMixer(nn::Mamba(c.width, {.d_state = c.state ? c.state : 16})); }},
      {.name = "mamba2",
       .what = "selective state spaces with a decay a head",
       .mlp = "none",
       .flags = {"--heads", "--state"},
       .make =
           [](const Config& c, int64_t) {
             return AnySequenceMixer(nn::Mamba2(c.width, {.d_state = c.state ? c.state : 64, .headdim = 2 * c.width / c.heads}));
           }},
      {.name = "rwkv",
       .what = "RWKV 4, with the MLP of its own",
       .mlp = "own",
       .make = [](const Config& c,
                  int64_t layer) { return AnySequenceMixer(nn::RWKV(c.width, {.layer_id = layer, .num_layers = c.layers})); },
       .make_mlp =
           [](const Config& c, int64_t layer) {
             return AnySequenceMixer(nn::RWKVFeedForward(c.width, {.layer_id = layer, .num_layers = c.layers}));
           }},
      {.name = "s4",
       .what = "structured state spaces, diagonal plus low rank",
       .mlp = "none",
       .flags = {"--state"},
       .make = [](const Config& c, int64_t) { return AnySequenceMixer(nn::S4(c.width, {.d_state = c.state ? c.state : 64})); }},
      {.name = "s4d",
       .what = "diagonal ones",
       .mlp = "none",
       .flags = {"--state"},
       .make = [](const Config& c, int64_t) { return AnySequenceMixer(nn::S4D(c.width, {.d_state = c.state ? c.state : 64})); }},
      {.name = "s5",
       .what = "one diagonal state for all channels",
       .flags = {"--state"},
       .make =
           [](const Config& c, int64_t) {
             const int64_t size = c.state ? c.state : c.width;
             return AnySequenceMixer(nn::S5(c.width, {.ssm_size = size, .blocks = size % 16 == 0 ? 8 : 1}));
           }},
      {.name = "lru",
       .what = "linear recurrent unit",
       .flags = {"--state"},
       .make = [](const Config& c, int64_t) { return AnySequenceMixer(nn::LRU(c.width, {.d_state = c.state ? c.state : c.width})); }},
      {.name = "mingru",
       .what = "minimal gated recurrent unit",
       .make = [](const Config& c, int64_t) { return AnySequenceMixer(nn::MinGRU(c.width)); }},
      {.name = "minlstm", .what = "minimal LSTM", .make = [](const Config& c, int64_t) { return AnySequenceMixer(nn::MinLSTM(c.width)); }},
      {.name = "lstm",
       .what = "long short-term memory",
       .make = [](const Config& c, int64_t) { return AnySequenceMixer(Recurrent<nn::LSTM>(c)); }},
      {.name = "gru",
       .what = "gated recurrent units",
       .make = [](const Config& c, int64_t) { return AnySequenceMixer(Recurrent<nn::GRU>(c)); }},
      {.name = "rnn",
       .what = "recurrent units with tanh",
       .make = [](const Config& c, int64_t) { return AnySequenceMixer(Recurrent<nn::RNN>(c)); }},
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
