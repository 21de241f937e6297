// Attention in linear time: features of queries and keys instead of scores of all pairs, so that a sum over the past is all that a position needs of it.
// q_proj, k_proj, v_proj and o_proj are (embed_dim, embed_dim). What is between them is computed in f32 for half types and under autocast.
#pragma once
#include <optional>

#include <retape/core/random.h>
#include <retape/nn/heads.h>
#include <retape/nn/sequence_mixer.h>

namespace retape::nn {

enum class FeatureMap : uint8_t {
  elu_plus_one,  ///< elu(x) + 1: D features; Katharopoulos et al. 2020
  relu,          ///< max(x, 0): D features; Cai et al. 2023 (EfficientViT)
  dpfp,          ///< r_i r_(i-1) for r = relu([x, -x]), whose indices go round: 2 D features; Schlag et al. 2021 with nu = 1
  taylor,  ///< 1, x D^(-1/4) and all products x_i x_j / sqrt(2 D): 1 + D + D^2 features, whose products are those of 1 + s + s^2 / 2 for the scores
           ///< s = q k / sqrt(D) of softmax attention; Arora et al. 2024 (Based)
};
/// The features of x (..., D).
Tensor feature_map(FeatureMap map, const Tensor& x);

struct LinearAttentionOptions {
  int64_t num_heads = 8;
  FeatureMap feature_map = FeatureMap::elu_plus_one;
  double eps = 1e-6;  ///< is added to the normaliser
  bool bias = true;
  bool causal = true;
};
/// y_t = sum over s <= t of (phi(q_t) phi(k_s)) v_s / (sum over s <= t of phi(q_t) phi(k_s) + eps). x (B, T, embed_dim) to the same. Katharopoulos et al. 2020
/// (arXiv 2006.16236); fast-transformers: CausalLinearAttention, LinearAttention.
struct LinearAttention : HeadProjections {
  FeatureMap map;
  double eps;
  struct State {
    Tensor sums;  ///< (B, H, features, D + 1): of phi(k) v and, last, of phi(k)
  };
  explicit LinearAttention(int64_t embed_dim, LinearAttentionOptions options = {});
  Tensor forward(const Tensor& x) const;
  Tensor step(const Tensor& x, State& state) const;
  RETAPE_MODULE_BODY

 private:
  Tensor attend(const Tensor& x, State& state) const;
};

enum class FavorKernel : uint8_t {
  softmax,  ///< positive random features, whose products are those of softmax attention on average
  relu,     ///< relu of random projections; "generalized attention"
};
struct FavorAttentionOptions {
  int64_t num_heads = 8;
  std::optional<int64_t> nb_features = {};  ///< absent: D log D, rounded down, at least 1
  FavorKernel kernel = FavorKernel::softmax;
  int64_t feature_redraw_interval = 1000;  ///< forwards in training until the projection is drawn anew; 0: never
  std::optional<double> eps = {};          ///< is added to every feature; absent: 1e-6, for relu 1e-3
  bool bias = true;
  bool causal = true;
};
/// Performer's attention: softmax attention, approximated by random features exp(w x - |x|^2 / 2) of x D^(-1/4), for directions w that are orthogonal in
/// blocks of D. The exponents of queries are relative to the largest of their position, those of keys to the largest so far, which cancels in the normaliser,
/// and whose gradient is left out. A draw makes states from before useless: step() draws nothing, and is for eval. Choromanski et al. 2021 (arXiv 2009.14794);
/// performer-pytorch: FastAttention.
struct FavorAttention : HeadProjections {
  FavorKernel kernel;
  int64_t feature_redraw_interval;
  double eps;
  Buffer projection;               // (nb_features, D), for all heads
  Buffer calls_since_last_redraw;  // forwards in training, i64 without dims
  struct State {
    Tensor sums;      ///< (B, H, nb_features, D + 1), relative to exp(exponent)
    Tensor exponent;  ///< (B, 1, H); undefined for relu
  };
  explicit FavorAttention(int64_t embed_dim, FavorAttentionOptions options = {});
  Tensor forward(const Tensor& x);
  Tensor step(const Tensor& x, State& state) const;
  /// Draws the projection anew, in place.
  void redraw(Generator& generator = default_generator());
  RETAPE_FIELDS(q_proj, k_proj, v_proj, o_proj, projection, calls_since_last_redraw)

 private:
  // What calls_since_last_redraw holds, so that a device is asked only when somebody else has set it.
  int64_t calls_ = 0;
  Tensor counted_;
  uint32_t version_ = 0;
  void count(int64_t calls);
  Tensor attend(const Tensor& x, State& state) const;
};
/// The name of the architecture.
using Performer = FavorAttention;

struct EfficientAttentionOptions {
  int64_t num_heads = 8;
  bool bias = true;
  bool causal = true;
};
/// softmax(q) over features times the sum over positions of softmax(k) over positions, times v. Causal: a softmax over the positions so far, without overflow for
/// any k. Shen et al. 2018 (arXiv 1812.01243).
struct EfficientAttention : HeadProjections {
  struct State {
    Tensor sums;        ///< (B, H, D, D): of exp(k) v, relative to exp(exponent)
    Tensor normaliser;  ///< (B, H D): of exp(k), as sums
    Tensor exponent;    ///< (B, 1, H, D): the largest k so far
  };
  explicit EfficientAttention(int64_t embed_dim, EfficientAttentionOptions options = {});
  Tensor forward(const Tensor& x) const;
  Tensor step(const Tensor& x, State& state) const;
  RETAPE_MODULE_BODY

 private:
  Tensor attend(const Tensor& x, State& state) const;
};

struct CosformerAttentionOptions {
  int64_t num_heads = 8;
  int64_t max_length = 2048;  ///< M: positions 0 .. M - 1 are possible, and a distance of M would weigh nothing
  double eps = 1e-6;          ///< is added to the normaliser
  bool bias = true;
  bool causal = true;
};
/// Linear attention with the similarity relu(q_i) relu(k_j) cos(pi (i - j) / (2 M)). Throws Error for positions from max_length on. Qin et al. 2022
/// (arXiv 2202.08791).
struct CosformerAttention : HeadProjections {
  int64_t max_length;
  double eps;
  struct State {
    Tensor sums;           ///< (B, H, 2 D, D + 1), as in LinearAttention
    int64_t position = 0;  ///< the next one
  };
  explicit CosformerAttention(int64_t embed_dim, CosformerAttentionOptions options = {});
  Tensor forward(const Tensor& x) const;
  Tensor step(const Tensor& x, State& state) const;
  RETAPE_MODULE_BODY

 private:
  Tensor attend(const Tensor& x, State& state) const;
};

static_assert(SequenceMixer<LinearAttention> && SequenceMixer<FavorAttention> && SequenceMixer<EfficientAttention> &&
              SequenceMixer<CosformerAttention>);

}  // namespace retape::nn
