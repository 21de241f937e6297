#include "model.h"

#include <fmt/format.h>

#include <cmath>

#include <examples/common/recompute.h>

#include "mixers.h"

namespace retape::lm {
namespace {

std::string mlp_of(const Config& c) { return c.mlp == "auto" ? mixer_named(c.mixer).mlp : c.mlp; }
nn::LanguageModelConfig config_of(const Config& c) {
  const Mixer& mixer = mixer_named(c.mixer);
  const std::string positions = c.positions == "auto" ? mixer.positions : c.positions, mlp = mlp_of(c);
  return {.vocab_size = c.vocab,
          .hidden_size = c.width,
          .num_layers = c.layers,
          .positions = positions == "learned"      ? nn::LanguageModelPositions::learned
                       : positions == "sinusoidal" ? nn::LanguageModelPositions::sinusoidal
                                                   : nn::LanguageModelPositions::none,
          .max_positions = positions == "learned" || mixer.up_to_block ? c.block : 0,
          .mlp = mlp == "gelu"     ? nn::LanguageModelMlp::gelu
                 : mlp == "swiglu" ? nn::LanguageModelMlp::swiglu
                                   : nn::LanguageModelMlp::none,
          .dropout = c.dropout,
          .mixer_name = c.mixer == "attention" ? "attn" : "mixer"};  // nanoGPT's name
}

}  // namespace

void check(const Config& c) {
  if (!c.hugging_face.empty()) return;
  const Mixer& mixer = mixer_named(c.mixer);
  if (!mixer.is_attention && (c.positions == "rope" || c.positions == "alibi" || c.positions == "t5"))
    throw Error(fmt::format("--positions {} is for attention; --mixer {} has none", c.positions, c.mixer));
  if (c.kv_heads && c.heads % c.kv_heads) throw Error(fmt::format("--heads {} is no multiple of --kv-heads {}", c.heads, c.kv_heads));
  if (mixer.has("--heads") && c.width % c.heads) throw Error(fmt::format("--width {} is no multiple of --heads {}", c.width, c.heads));
  if (mlp_of(c) == "own" && !mixer.make_mlp) throw Error(fmt::format("--mlp own is not for --mixer {}, which has none", c.mixer));
}

nn::LanguageModel make_model(const Config& c) {
  check(c);
  if (!c.hugging_face.empty()) return nn::make_language_model(c.hugging_face);
  const Mixer& mixer = mixer_named(c.mixer);
  nn::MakeMixer mixing_mlp;
  if (mlp_of(c) == "own") mixing_mlp = [&](int64_t layer) { return mixer.make_mlp(c, layer); };
  nn::LanguageModel model(
      config_of(c), [&](int64_t layer) { return mixer.make(c, layer); }, mixing_mlp);
  if (mixer.as_gpt2)
    for (auto& block : model.transformer.h)
      for (auto& [name, weight] : block.mixer.module().named_parameters())
        if (weight.dim() == 2) nn::init::normal(weight, 0, name == "c_proj.weight" ? 0.02 / std::sqrt(2.0 * double(c.layers)) : 0.02);
  return model;
}

std::string unstable(nn::LanguageModel& model) {
  try {
    model.apply<nn::S4D>([](auto& m) { m.check_stable(); });
    model.apply<nn::S5>([](auto& m) { m.check_stable(); });
    model.apply<nn::LRU>([](auto& m) { m.check_stable(); });
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

void recompute(nn::LanguageModel& model, const std::string& how) {
  model.transformer.run_blocks = [parts = examples::parse_recomputation(how, model.config.num_layers)](auto& blocks, const Tensor& x) {
    return examples::run_blocks(blocks, parts, x);
  };
}

}  // namespace retape::lm
