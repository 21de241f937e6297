// Selective state-space layers: Mamba and Mamba-2.
#pragma once
#include <limits>
#include <optional>
#include <utility>

#include <retape/nn/convolution.h>
#include <retape/nn/linear.h>
#include <retape/nn/rms_norm.h>
#include <retape/nn/sequence_mixer.h>

namespace retape::nn {

enum class MambaDtInit : uint8_t { random, constant };
struct MambaOptions {
  int64_t d_state = 16;
  int64_t d_conv = 4;
  int64_t expand = 2;                   ///< d_inner is so many times d_model
  std::optional<int64_t> dt_rank = {};  ///< absent ("auto"): d_model / 16, rounded up
  double dt_min = 0.001, dt_max = 0.1;  ///< step sizes start evenly in their logarithm between them
  MambaDtInit dt_init = MambaDtInit::random;
  double dt_scale = 1;          ///< dt_proj.weight starts uniform within dt_scale / sqrt(dt_rank), or as that number
  double dt_init_floor = 1e-4;  ///< no step size starts below it
  bool conv_bias = true;
  bool bias = false;  ///< of in_proj and out_proj
};
/// A causal convolution of d_conv positions and selective_scan() with d_state numbers a channel, between projections to and from d_inner
/// channels, gated. Parameters under the names of mamba_ssm's Mamba, which are those of Hugging Face's mixers: in_proj, conv1d, x_proj,
/// dt_proj, A_log, D, out_proj. The scan's state is f32 for half types, also under autocast. Throws Error for sizes below 1 and, in
/// forward, for x other than (B, T, d_model). Gu & Dao 2023 (arXiv 2312.00752).
struct Mamba : Module {
  struct State {
    Tensor conv;  ///< (B, d_conv - 1, d_inner): the inputs of the convolution at the last positions
    Tensor ssm;   ///< (B, d_inner, d_state)
  };
  int64_t d_model, d_inner, d_state, dt_rank;
  Linear in_proj;
  Conv1d conv1d;
  Linear x_proj, dt_proj;
  Parameter A_log, D;  // (d_inner, d_state), (d_inner)
  Linear out_proj;

  Mamba(int64_t d_model, MambaOptions options = {});
  Tensor forward(const Tensor& x) const;
  /// Throws Error, and leaves the state as it is, if it is of sequences of another number.
  Tensor step(const Tensor& x, State& state) const;
  RETAPE_FIELDS(A_log, D, in_proj, conv1d, x_proj, dt_proj, out_proj)

 private:
  Tensor run(const Tensor& x, State* state) const;
};

struct Mamba2Options {
  int64_t d_state = 128;
  int64_t d_conv = 4;
  std::optional<double> conv_init = {};  ///< conv1d.weight starts uniform within it; absent: as every convolution
  int64_t expand = 2;                    ///< d_inner is so many times d_model
  int64_t headdim = 64;                  ///< channels of a head
  std::optional<int64_t> d_ssm =
      {};               ///< so many of the d_inner channels have a state, the others are a gated layer beside them; absent: all
  int64_t ngroups = 1;  ///< groups of heads that share B and C, and of channels that are normalised together
  std::pair<double, double> A_init_range = {1, 16};
  bool D_has_hdim = false;  ///< D for each channel instead of one a head
  bool rmsnorm = true;      ///< false: gated, but not normalised
  bool norm_before_gate = false;
  double dt_min = 0.001, dt_max = 0.1, dt_init_floor = 1e-4;                          ///< as Mamba's
  std::pair<double, double> dt_limit = {0, std::numeric_limits<double>::infinity()};  ///< step sizes are clamped to it
  bool bias = false;                                                                  ///< of in_proj and out_proj
  bool conv_bias = true;
};
/// Mamba with one decay a head, which makes the scan gated_linear_attention(): products of matrices in chunks. Parameters under the names
/// of mamba_ssm's Mamba2 and of Hugging Face's mixers: dt_bias, A_log, D, in_proj, conv1d, norm, out_proj. B and C of a group are repeated
/// for its heads. The state is f32 for half types, also under autocast. Throws Error for sizes below 1, if headdim does not divide d_ssm,
/// or ngroups the heads, and, in forward, for x other than (B, T, d_model). Dao & Gu 2024 (arXiv 2405.21060).
struct Mamba2 : Module {
  struct State {
    Tensor conv;  ///< (B, d_conv - 1, d_ssm + 2 ngroups d_state): the inputs of the convolution at the last positions
    Tensor ssm;   ///< (B, heads, d_state, headdim)
  };
  Mamba2Options options;
  int64_t d_model, d_inner, d_ssm, nheads;
  Parameter dt_bias, A_log, D;  // (heads) each; D (d_ssm) if D_has_hdim
  Linear in_proj;
  Conv1d conv1d;
  std::optional<RMSNorm> norm;
  Linear out_proj;

  Mamba2(int64_t d_model, const Mamba2Options& options = {});
  Tensor forward(const Tensor& x) const;
  /// Throws Error, and leaves the state as it is, if it is of sequences of another number.
  Tensor step(const Tensor& x, State& state) const;
  RETAPE_FIELDS(dt_bias, A_log, D, in_proj, conv1d, norm, out_proj)

 private:
  Tensor run(const Tensor& x, State* state) const;
};

}  // namespace retape::nn
