// The weighted average of RWKV, versions 1 to 4 (Peng et al. 2023, arXiv 2305.13048): attention whose weights are keys that fade with time.
#pragma once
#include <retape/core/tensor.h>

namespace retape {

/// The sums over past positions, times e^exponent: numerator and denominator are of a size that does not overflow whatever the keys are.
/// (B, C) each, f32 for half types; all undefined: no position yet. Gradients go through numerator and denominator; exponent, which
/// cancels, has none.
struct WkvState {
  Tensor numerator, denominator, exponent;
};
struct WkvResult {
  Tensor y;             ///< (B, T, C)
  WkvState last_state;  ///< what to begin the next positions with
};
/// y_t = (sum over i < t of e^((t - 1 - i) decay + k_i) v_i + e^(first + k_t) v_t) / (the same without v), for every channel: k, v (B, T,
/// C) give y (B, T, C). decay (C) is the logarithm of what a step leaves, and negative where the past is to fade; first (C) is the bonus of
/// the present. No exponential overflows. Floating; k and v promote, and y is of their dtype; decay, first and the state are f32 for half
/// types, also under autocast, which casts nothing here. One state in 64 steps is kept for backward, the others are computed again.
/// Denormal numbers count as 0 on the CPU. Throws Error where shapes, dtypes or devices do not fit. RWKV-LM: RUN_CUDA(B, T, C, w, u, k, v),
/// whose w is decay; transformers: rwkv_linear_attention, which takes time_decay with decay = -exp(time_decay).
WkvResult wkv(const Tensor& decay, const Tensor& first, const Tensor& k, const Tensor& v, const WkvState& initial = {});

}  // namespace retape
