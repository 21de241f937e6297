// Where things are, as vectors that are added to a sequence. Rotations are in rope.h, attention that sees distances in relative_attention.h.
#pragma once
#include <functional>
#include <memory>

#include <retape/nn/sequence_mixer.h>

namespace retape {

/// Fixed positions of a grid of height x width patches, (1, 1 + height * width, dim), f32: the sines and cosines of the column in the first
/// half of dim, of the row in the second, and zeros for the class token in front, unless there is none. Throws Error unless 4 divides dim. As in MAE
/// (He et al. 2022).
Tensor sincos_positions(int64_t height, int64_t width, int64_t dim, bool class_token = true);

namespace nn {

/// Positions as Vaswani et al. 2017 mark them, (length, dim): sin(p / 10000^(2i / dim)) in features 2i, the cosine in 2i + 1, for
/// positions p = first, first + 1, ...
Tensor sinusoidal_positions(int64_t length, int64_t dim, int64_t first = 0, Options options = {});

namespace detail {
/// Rows of a table by position, made as they are needed and kept. Several threads may ask at once; copies share what is kept.
class PositionTable {
 public:
  using Make = std::function<Tensor(int64_t length, Options options)>;
  explicit PositionTable(Make make);
  /// (length, ...), in f64 for f64, else in f32.
  Tensor rows(int64_t first, int64_t length, Options options) const;

 private:
  struct Kept;
  std::shared_ptr<Kept> kept_;
};
}  // namespace detail

struct SinusoidalPositionalEncodingOptions {
  double scale = 1;  ///< of x; the root of embed_dim in Vaswani et al. 2017
};
/// scale x + sinusoidal_positions(), for x (B, T, embed_dim). Has no parameters and no saved state.
struct SinusoidalPositionalEncoding : Module {
  int64_t embed_dim;
  double scale;
  struct State {
    int64_t position = 0;  ///< the next one
  };
  explicit SinusoidalPositionalEncoding(int64_t embed_dim, SinusoidalPositionalEncodingOptions options = {});
  /// `start` is the position of x's first element.
  Tensor forward(const Tensor& x, int64_t start = 0) const;
  Tensor step(const Tensor& x, State& state) const;
  RETAPE_FIELDS()

 private:
  detail::PositionTable table_;
};

struct LearnedPositionalEmbeddingOptions {
  int64_t max_length = 1024;
  double std = 0.02;  ///< of the normal numbers that weight starts with
};
/// x + weight[t], for x (B, T, embed_dim). Throws Error for positions from max_length on. As in BERT and GPT-2 (wpe).
struct LearnedPositionalEmbedding : Module {
  Parameter weight;  // (max_length, embed_dim)
  struct State {
    int64_t position = 0;
  };
  explicit LearnedPositionalEmbedding(int64_t embed_dim, LearnedPositionalEmbeddingOptions options = {});
  Tensor forward(const Tensor& x, int64_t start = 0) const;
  Tensor step(const Tensor& x, State& state) const;
  RETAPE_FIELDS(weight)
};

static_assert(SequenceMixer<SinusoidalPositionalEncoding> && SequenceMixer<LearnedPositionalEmbedding>);

}  // namespace nn
}  // namespace retape
