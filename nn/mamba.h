// Selective state-space layers: Mamba and Mamba-2.
#pragma once
#include <optional>

#include <retape/nn/convolution.h>
#include <retape/nn/linear.h>
#include <retape/nn/sequence_mixer.h>

namespace retape::nn {


enum class MambaDtInit : uint8_t { random, constant };
struct MambaOptions {
  int64_t d_state = 16;
  int64_t d_conv = 4;
  int64_t expand = 2;                      ///< d_inner is so many times d_model
  std::optional<int64_t> dt_rank = {};     ///< absent ("auto"): d_model / 16, rounded up
  double dt_min = 0.001, dt_max = 0.1;     ///< step sizes start evenly in their logarithm between them
  MambaDtInit dt_init = MambaDtInit::random;
  double dt_scale = 1;                     ///< dt_proj.weight starts uniform within dt_scale / sqrt(dt_rank), or as that number
  double dt_init_floor = 1e-4;             ///< no step size starts below it
  bool conv_bias = true;
  bool bias = false;                       ///< of in_proj and out_proj
};
/// A causal convolution of d_conv positions and selective_scan() with d_state numbers a channel, between projections to and from d_inner channels, gated.
/// Parameters under the names of mamba_ssm's Mamba, which are those of Hugging Face's mixers: in_proj, conv1d, x_proj, dt_proj, A_log, D, out_proj. The scan's
/// state is f32 for half types, also under autocast. Throws Error for sizes below 1 and, in forward, for x other than (B, T, d_model). Gu & Dao 2023
/// (arXiv 2312.00752).
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

}  // namespace retape::nn
