// Language models: one backbone, any sequence mixer.
#pragma once
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <retape/core/random.h>
#include <retape/nn/dropout.h>
#include <retape/nn/embedding.h>
#include <retape/nn/linear.h>
#include <retape/nn/position.h>
#include <retape/nn/sequence_mixer.h>

namespace retape::nn {

/// Where tokens get to know their place, if the mixers do not see to it.
enum class LanguageModelPositions : uint8_t {
  none,
  learned,     ///< a vector for each place, added to the token's
  sinusoidal,  ///< sinusoidal_positions(), added to the token's vector times sqrt(hidden_size) (Vaswani et al. 2017)
};
enum class LanguageModelNorm : uint8_t { layer_norm, rms_norm };
enum class LanguageModelMlp : uint8_t {
  none,       ///< blocks are mixers only
  gelu,       ///< two layers
  gelu_tanh,  ///< the same with the approximation by tanh, GPT-2's
  swiglu,     ///< three layers with a gate, Llama's
};

struct LanguageModelConfig {
  int64_t vocab_size = 0, hidden_size = 0, num_layers = 0;
  LanguageModelPositions positions = LanguageModelPositions::none;
  int64_t max_positions = 0;  ///< a sequence may not be longer; 0: it may be of any length, but for learned positions
  LanguageModelNorm norm = LanguageModelNorm::layer_norm;
  double norm_eps = 1e-5;
  LanguageModelMlp mlp = LanguageModelMlp::gelu;
  int64_t mlp_size = 0;  ///< features inside it; 0: 4 hidden_size, or for swiglu 8/3 of it, rounded up to a multiple of 8
  bool bias = false;     ///< of layer norms and the MLP
  double dropout = 0;    ///< of embeddings and of what mixers and MLPs add, while training
  bool tie_word_embeddings = true;
  std::string mixer_name = "mixer";  ///< what the mixer is called in the names of parameters
};
/// Throws Error for sizes that are not positive, and dropout outside of [0, 1).
void check(const LanguageModelConfig& config);

struct FeedForwardOptions {
  bool bias = true;
  bool tanh = false;  ///< gelu by tanh
};
/// c_proj(gelu(c_fc(x))) for x (..., dim), through hidden_dim. The names are GPT-2's.
struct FeedForward : Module {
  Linear c_fc, c_proj;
  bool tanh;
  FeedForward(int64_t dim, int64_t hidden_dim, FeedForwardOptions options = {});
  Tensor forward(const Tensor& x) const;
  RETAPE_FIELDS(c_fc, c_proj)
};

/// What makes the mixer of each layer.
using MakeMixer = std::function<AnySequenceMixer(int64_t layer)>;

/// x + dropout(mixer(ln_1(x))), then x + dropout(mlp(ln_2(x))) unless there is no MLP. A SequenceMixer itself.
struct LanguageModelBlock : Module {
  struct State {
    AnySequenceMixer::State mixer, mlp;
  };
  std::string mixer_name;
  AnyModule ln_1;
  AnySequenceMixer mixer;
  std::optional<AnyModule> ln_2, mlp;
  std::optional<AnySequenceMixer> mixing_mlp;  // in the place of mlp, and under its name
  Dropout dropout;
  /// `mixing_mlp`: an MLP that mixes positions, too, in the place of the one of the configuration.
  LanguageModelBlock(const LanguageModelConfig& config, AnySequenceMixer mixer, std::optional<AnySequenceMixer> mixing_mlp = {});
  Tensor forward(const Tensor& x) const;
  Tensor step(const Tensor& x, State& state) const;
  void fields(Visitor& v) override;
  RETAPE_MODULE_BODY
};
/// Runs blocks in some other way than one after the other, such as with checkpoints. Empty: one after the other.
using RunLanguageModelBlocks = std::function<Tensor(std::vector<LanguageModelBlock>& blocks, const Tensor& x)>;

/// Embeddings, blocks, and the last norm. The names are nanoGPT's.
struct LanguageModelTrunk : Module {
  Embedding wte;
  std::optional<LearnedPositionalEmbedding> wpe;           // learned positions,
  std::optional<SinusoidalPositionalEncoding> sinusoidal;  // or those
  Dropout drop;
  std::vector<LanguageModelBlock> h;
  AnyModule ln_f;
  RunLanguageModelBlocks run_blocks;
  LanguageModelTrunk(const LanguageModelConfig& config, const MakeMixer& mixer, const MakeMixer& mixing_mlp);
  /// ids (B, T): (B, T, hidden_size).
  Tensor forward(const Tensor& ids);
  RETAPE_FIELDS(wte, wpe, sinusoidal, drop, h, ln_f)

 private:
  friend struct LanguageModel;
  int64_t max_positions_;
  Tensor embed(const Tensor& ids, int64_t first) const;
};

struct SampleTokensOptions {
  double temperature = 1;  ///< of the distribution; 0: always the likeliest token
  int64_t top_k = 0;       ///< draw among the likeliest k only; 0: among all
  int64_t vocab_size = 0;  ///< draw among the first so many tokens only, where a model knows more than a tokenizer; 0: among all
};
/// Predicts the next token of ids. Matrices outside of the mixers start normal with standard deviation 0.02, those at the end of an MLP with
/// 0.02 / sqrt(2 num_layers) (Radford et al. 2019); mixers start as they were made.
struct LanguageModel : Module {
  /// What has been read, for generating.
  struct State {
    std::vector<LanguageModelBlock::State> layers;
    int64_t length = 0;  ///< tokens
  };
  LanguageModelConfig config;
  LanguageModelTrunk transformer;
  Linear lm_head;

  /// `mixing_mlp`, if given, makes the MLPs: those that mix positions, too, as RWKVFeedForward does. Throws Error as check() does.
  LanguageModel(const LanguageModelConfig& config, const MakeMixer& mixer, const MakeMixer& mixing_mlp = {});
  Device device() const { return transformer.wte.weight->device(); }
  /// ids (B, T), i64: logits (B, T, vocab_size). Throws Error if T is larger than max_positions.
  Tensor forward(const Tensor& ids);
  /// Mean cross-entropy, in nats a token, of predicting targets (B, T) from ids (B, T).
  Tensor loss(const Tensor& ids, const Tensor& targets);
  /// Reads the next T >= 1 tokens (B, T) of each sequence: logits (B, vocab_size) of what comes behind them. A State made by default stands before
  /// the first token. Nothing is dropped out.
  Tensor step(const Tensor& ids, State& state);
  /// `count` more tokens after `prompt` (at least one). Each is computed from the state that the tokens before have left; with max_positions only
  /// while all fit: later each from the last max_positions tokens. Throws Error for an empty prompt and options that make no sense.
  std::vector<int64_t> generate(std::vector<int64_t> prompt, int64_t count, const SampleTokensOptions& options = {},
                                Generator& generator = default_generator());
  RETAPE_FIELDS(transformer, lm_head)
};

}  // namespace retape::nn
