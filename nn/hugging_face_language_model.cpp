// GPT-2, Llama and Mamba as transformers saves them.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include <retape/nn/causal_self_attention.h>
#include <retape/nn/hugging_face.h>
#include <retape/nn/hugging_face_files.h>
#include <retape/nn/mamba.h>

namespace retape::nn {
namespace {

using Config = detail::HuggingFaceConfig;
using Source = detail::HuggingFaceSource;
using Weights = detail::HuggingFaceWeights;

template <class T> T value_of(const Config& from, const char* key, T otherwise) {
  from.read(key, otherwise);
  return otherwise;
}
int64_t size_of(const Config& from, const char* key, int64_t otherwise) {
  const int64_t value = value_of(from, key, otherwise);
  if (value < 1 || value > (int64_t{1} << 31))
    throw Error(fmt::format("hugging_face: {}: \"{}\" is {}; it must be positive, and at most 2^31", from.file(), key, value));
  return value;
}
void require(const Config& from, const char* key, bool value) {
  if (value_of(from, key, value) != value)
    throw Error(fmt::format("hugging_face: {}: \"{}\" is {}; only {} can be read", from.file(), key, !value, value));
}
[[noreturn]] void unknown(const Config& from, const std::string& key, const std::string& value, const char* expected) {
  throw Error(fmt::format("hugging_face: {}: \"{}\" is \"{}\"; expected {}", from.file(), key, value, expected));
}

// "transformer.h.3.ln_1.weight" is 3 and "ln_1.weight".
std::optional<std::pair<std::string, std::string>> in_layer(const std::string& name) {
  constexpr std::string_view before = "transformer.h.";
  if (!name.starts_with(before)) return {};
  const size_t dot = name.find('.', before.size());
  return std::pair{name.substr(before.size(), dot - before.size()), name.substr(dot + 1)};
}

// A number in config.json, and what the weights say about it.
struct Size {
  const char* key;
  int64_t in_config;
  const char* weight;
  size_t dim;
  int64_t of_each = 1;  // so many rows, or columns, for each
};

/// What the three kinds of models differ in.
struct Kind {
  const char* type;
  LanguageModel (*make)(const Config& config);
  Source (*source)(const std::string& name);
  std::vector<Size> (*sizes)(const Config& config);
  const char* layers;         // what stands before the number of a layer
  const char* number_key;     // what says how many layers there are
  Weights::Rename canonical;  // or null
};

// ---- GPT-2 ----------------------------------------------------------------------------------------------------------

LanguageModel make_gpt2(const Config& from) {
  require(from, "scale_attn_weights", true), require(from, "scale_attn_by_inverse_layer_idx", false);
  require(from, "add_cross_attention", false);
  const std::string act = value_of<std::string>(from, "activation_function", "gelu_new");
  if (act != "gelu" && act != "gelu_new" && act != "gelu_pytorch_tanh")
    unknown(from, "activation_function", act, "gelu, gelu_new or gelu_pytorch_tanh");
  const int64_t width = size_of(from, "n_embd", 768), heads = size_of(from, "n_head", 12);
  const double attention_dropout = value_of(from, "attn_pdrop", 0.1);
  LanguageModel model({.vocab_size = size_of(from, "vocab_size", 50257),
                       .hidden_size = width,
                       .num_layers = size_of(from, "n_layer", 12),
                       .positions = LanguageModelPositions::learned,
                       .max_positions = size_of(from, "n_positions", 1024),
                       .norm_eps = value_of(from, "layer_norm_epsilon", 1e-5),
                       .mlp = act == "gelu" ? LanguageModelMlp::gelu : LanguageModelMlp::gelu_tanh,
                       .mlp_size = size_of(from, "n_inner", 4 * width),
                       .bias = true,
                       .dropout = value_of(from, "resid_pdrop", 0.1),
                       .tie_word_embeddings = value_of(from, "tie_word_embeddings", true),
                       .mixer_name = "attn"},
                      [&](int64_t) {
                        return AnySequenceMixer(CausalSelfAttention(
                            width, {.num_heads = heads, .bias = true, .dropout = attention_dropout, .position = AttentionPosition::none}));
                      });
  model.transformer.drop.p = value_of(from, "embd_pdrop", 0.1);
  return model;
}
Source source_gpt2(const std::string& name) {  // matrices of its Conv1D are (in, out)
  const auto at = in_layer(name);
  return {{name}, at && (at->second.starts_with("attn.") || at->second.starts_with("mlp."))};
}
std::vector<Size> sizes_gpt2(const Config& from) {
  const int64_t width = size_of(from, "n_embd", 768);
  return {{"vocab_size", size_of(from, "vocab_size", 50257), "transformer.wte.weight", 0},
          {"n_embd", width, "transformer.wte.weight", 1},
          {"n_positions", size_of(from, "n_positions", 1024), "transformer.wpe.weight", 0},
          {"n_inner", size_of(from, "n_inner", 4 * width), "transformer.h.0.mlp.c_fc.weight", 1}};
}
std::string canonical_gpt2(std::string name) {  // GPT2Model's names lack the first part
  return name.starts_with("transformer.") || name.starts_with("lm_head.") ? name : "transformer." + name;
}

// ---- Llama ----------------------------------------------------------------------------------------------------------

RotaryEmbeddingOptions rope_of(const Config& from) {
  // Version 5 of transformers has one object for what version 4 has in two places.
  const Config now = from.at("rope_parameters"), before = from.at("rope_scaling");
  RotaryEmbeddingOptions rope;
  rope.base = value_of(from, "rope_theta", rope.base);
  now.read("rope_theta", rope.base);
  std::string type = "default";
  for (const Config* in : {&before, &now}) in->read("type", type), in->read("rope_type", type);
  RopeScaling& s = rope.scaling;
  if (type == "linear") s.type = RopeScalingType::linear;
  else if (type == "dynamic") s.type = RopeScalingType::dynamic;
  else if (type == "yarn") s.type = RopeScalingType::yarn;
  else if (type == "llama3") s.type = RopeScalingType::llama3;
  else if (type != "default") unknown(from, "rope_type", type, "default, linear, dynamic, yarn or llama3");
  if (s.type != RopeScalingType::none) s.original_max_position_embeddings = size_of(from, "max_position_embeddings", 2048);
  for (const Config* in : {&before, &now}) {
    in->read("factor", s.factor), in->read("low_freq_factor", s.low_freq_factor), in->read("high_freq_factor", s.high_freq_factor);
    in->read("beta_fast", s.beta_fast), in->read("beta_slow", s.beta_slow), in->read("truncate", s.truncate);
    in->read("mscale", s.mscale), in->read("mscale_all_dim", s.mscale_all_dim);
    if (double factor; in->read("attention_factor", factor)) s.attention_factor = factor;
    if (s.type != RopeScalingType::dynamic) in->read("original_max_position_embeddings", s.original_max_position_embeddings);
  }
  return rope;
}
struct LlamaHeads {
  int64_t heads, kv_heads, head_dim;
};
LlamaHeads heads_of(const Config& from) {
  const int64_t heads = size_of(from, "num_attention_heads", 32), width = size_of(from, "hidden_size", 4096);
  return {heads, size_of(from, "num_key_value_heads", heads), size_of(from, "head_dim", std::max<int64_t>(1, width / heads))};
}
LanguageModel make_llama(const Config& from) {
  const std::string act = value_of<std::string>(from, "hidden_act", "silu");
  if (act != "silu") unknown(from, "hidden_act", act, "silu");
  const LlamaHeads h = heads_of(from);
  const int64_t width = size_of(from, "hidden_size", 4096);
  const bool attention_bias = value_of(from, "attention_bias", false);
  const double attention_dropout = value_of(from, "attention_dropout", 0.0);
  const RotaryEmbeddingOptions rope = rope_of(from);
  return LanguageModel({.vocab_size = size_of(from, "vocab_size", 32000),
                        .hidden_size = width,
                        .num_layers = size_of(from, "num_hidden_layers", 32),
                        .norm = LanguageModelNorm::rms_norm,
                        .norm_eps = value_of(from, "rms_norm_eps", 1e-6),
                        .mlp = LanguageModelMlp::swiglu,
                        .mlp_size = size_of(from, "intermediate_size", 11008),
                        .bias = value_of(from, "mlp_bias", false),
                        .tie_word_embeddings = value_of(from, "tie_word_embeddings", false),
                        .mixer_name = "attn"},
                       [&](int64_t) {
                         return AnySequenceMixer(CausalSelfAttention(width, {.num_heads = h.heads,
                                                                             .num_kv_heads = h.kv_heads,
                                                                             .head_dim = h.head_dim,
                                                                             .bias = attention_bias,
                                                                             .dropout = attention_dropout,
                                                                             .position = AttentionPosition::rope,
                                                                             .rope = rope}));
                       });
}
Source source_llama(const std::string& name) {
  const auto at = in_layer(name);
  if (!at)
    return {{name == "transformer.wte.weight"    ? "model.embed_tokens.weight"
             : name == "transformer.ln_f.weight" ? "model.norm.weight"
                                                 : name}};
  const std::string layer = fmt::format("model.layers.{}.", at->first);
  const std::string& part = at->second;
  const std::string end = part.substr(part.rfind('.'));  // .weight or .bias
  if (part.starts_with("attn.c_attn."))
    return {{layer + "self_attn.q_proj" + end, layer + "self_attn.k_proj" + end, layer + "self_attn.v_proj" + end}};
  if (part.starts_with("attn.c_proj.")) return {{layer + "self_attn.o_proj" + end}};
  if (part.starts_with("ln_1.")) return {{layer + "input_layernorm" + end}};
  if (part.starts_with("ln_2.")) return {{layer + "post_attention_layernorm" + end}};
  return {{layer + part}};
}
std::vector<Size> sizes_llama(const Config& from) {
  const LlamaHeads h = heads_of(from);
  return {{"vocab_size", size_of(from, "vocab_size", 32000), "model.embed_tokens.weight", 0},
          {"hidden_size", size_of(from, "hidden_size", 4096), "model.embed_tokens.weight", 1},
          {"intermediate_size", size_of(from, "intermediate_size", 11008), "model.layers.0.mlp.gate_proj.weight", 0},
          {"num_attention_heads", h.heads, "model.layers.0.self_attn.q_proj.weight", 0, h.head_dim},
          {"num_key_value_heads", h.kv_heads, "model.layers.0.self_attn.k_proj.weight", 0, h.head_dim}};
}

// ---- Mamba ----------------------------------------------------------------------------------------------------------

int64_t rank_of(const Config& from) {
  const int64_t automatic = (size_of(from, "hidden_size", 768) + 15) / 16;
  if (!from.is_text("time_step_rank")) return size_of(from, "time_step_rank", automatic);
  if (const auto text = value_of<std::string>(from, "time_step_rank", ""); text != "auto")
    unknown(from, "time_step_rank", text, "a number or auto");
  return automatic;
}
LanguageModel make_mamba(const Config& from) {
  const std::string act = value_of<std::string>(from, "hidden_act", "silu");
  if (act != "silu") unknown(from, "hidden_act", act, "silu");
  const int64_t width = size_of(from, "hidden_size", 768), expand = size_of(from, "expand", 2);
  if (const int64_t inner = size_of(from, "intermediate_size", expand * width); inner != expand * width)
    throw Error(fmt::format("hugging_face: {}: \"intermediate_size\" is {}, but \"expand\" times \"hidden_size\" is {}", from.file(), inner,
                            expand * width));
  const MambaOptions options{.d_state = size_of(from, "state_size", 16),
                             .d_conv = size_of(from, "conv_kernel", 4),
                             .expand = expand,
                             .dt_rank = rank_of(from),
                             .dt_min = value_of(from, "time_step_min", 0.001),
                             .dt_max = value_of(from, "time_step_max", 0.1),
                             .dt_scale = value_of(from, "time_step_scale", 1.0),
                             .dt_init_floor = value_of(from, "time_step_floor", 1e-4),
                             .conv_bias = value_of(from, "use_conv_bias", true),
                             .bias = value_of(from, "use_bias", false)};
  return LanguageModel({.vocab_size = size_of(from, "vocab_size", 50280),
                        .hidden_size = width,
                        .num_layers = size_of(from, "num_hidden_layers", 32),
                        .norm = LanguageModelNorm::rms_norm,
                        .norm_eps = value_of(from, "layer_norm_epsilon", 1e-5),
                        .mlp = LanguageModelMlp::none,
                        .tie_word_embeddings = value_of(from, "tie_word_embeddings", true)},
                       [&](int64_t) { return AnySequenceMixer(Mamba(width, options)); });
}
Source source_mamba(const std::string& name) {
  const auto at = in_layer(name);
  if (!at)
    return {{name == "transformer.wte.weight"    ? "backbone.embeddings.weight"
             : name == "transformer.ln_f.weight" ? "backbone.norm_f.weight"
                                                 : name}};
  return {{fmt::format("backbone.layers.{}.{}", at->first, at->second == "ln_1.weight" ? "norm.weight" : at->second)}};
}
std::vector<Size> sizes_mamba(const Config& from) {
  const int64_t width = size_of(from, "hidden_size", 768);
  return {{"vocab_size", size_of(from, "vocab_size", 50280), "backbone.embeddings.weight", 0},
          {"hidden_size", width, "backbone.embeddings.weight", 1},
          {"expand", size_of(from, "expand", 2), "backbone.layers.0.mixer.in_proj.weight", 0, 2 * width},
          {"state_size", size_of(from, "state_size", 16), "backbone.layers.0.mixer.A_log", 1},
          {"conv_kernel", size_of(from, "conv_kernel", 4), "backbone.layers.0.mixer.conv1d.weight", 2},
          {"time_step_rank", rank_of(from), "backbone.layers.0.mixer.dt_proj.weight", 1}};
}
std::string canonical_mamba(std::string name) {  // mamba_ssm's files
  return name == "backbone.embedding.weight" ? "backbone.embeddings.weight" : name;
}

const Kind kinds[] = {{"gpt2", make_gpt2, source_gpt2, sizes_gpt2, "transformer.h.", "n_layer", canonical_gpt2},
                      {"llama", make_llama, source_llama, sizes_llama, "model.layers.", "num_hidden_layers", nullptr},
                      {"mamba", make_mamba, source_mamba, sizes_mamba, "backbone.layers.", "num_hidden_layers", canonical_mamba}};

const Kind& kind_of(const Config& config) {
  const std::string type = config.model_type();
  for (const Kind& kind : kinds)
    if (type == kind.type) return kind;
  throw Error(fmt::format("hugging_face: {} has model_type \"{}\"; expected gpt2, llama or mamba", config.file(), type));
}

// Before a model is made of the sizes in config.json: the weights have them.
void check_sizes(const Config& config, const Kind& kind, const Weights& weights) {
  std::vector<std::string> wrong;
  for (const Size& s : kind.sizes(config)) {
    const auto shape = weights.shape(s.weight);
    if (shape.empty()) throw Error(fmt::format("hugging_face: {} has no {}", weights.file(), s.weight));
    const int64_t there = s.dim < shape.size() ? shape[s.dim] : 0;
    if (there != s.in_config * s.of_each)
      wrong.push_back(fmt::format("\"{}\" is {}, but {} of shape [{}] says {}", s.key, s.in_config, s.weight, fmt::join(shape, ", "),
                                  there % s.of_each ? fmt::format("{} / {}", there, s.of_each) : std::to_string(there / s.of_each)));
  }
  int64_t layers = 0;
  for (auto& name : weights.names())
    if (name.starts_with(kind.layers)) layers = std::max<int64_t>(layers, std::atoll(name.c_str() + std::string(kind.layers).size()) + 1);
  if (const int64_t number = size_of(config, kind.number_key, layers); number != layers)
    wrong.push_back(fmt::format("\"{}\" is {}, but there are weights of {} layers", kind.number_key, number, layers));
  if (!wrong.empty())
    throw Error(fmt::format("hugging_face: {} does not fit {}: {}", config.file(), weights.file(), fmt::join(wrong, "; ")));
}

}  // namespace

LanguageModel make_language_model(const std::string& config_json, const std::string& file) {
  const Config config = Config::parse(config_json, file);
  return kind_of(config).make(config);
}

LanguageModel load_language_model(const std::filesystem::path& folder) {
  const Config config = Config::open(folder);
  const Kind& kind = kind_of(config);
  const Weights weights(folder, kind.canonical);
  check_sizes(config, kind, weights);
  LanguageModel model = kind.make(config);
  const bool tied = model.config.tie_word_embeddings;
  weights.load(
      model, [&](const std::string& name) { return kind.source(tied && name == "lm_head.weight" ? "transformer.wte.weight" : name); },
      [&](const std::string& name) {
        return (tied && name == "lm_head.weight") || name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias") ||
               name.ends_with("rotary_emb.inv_freq");
      });
  return model;
}

}  // namespace retape::nn
