// The selective scan of Mamba (Gu & Dao 2023, arXiv 2312.00752): a state-space model whose step size, input and output follow the sequence.
#pragma once
#include <retape/core/tensor.h>

namespace retape {

struct SelectiveScanOptions {
  Tensor D = {};                ///< (D): y_t also gets D u_t
  Tensor z = {};                ///< (B, T, D): y is multiplied by silu(z)
  Tensor delta_bias = {};       ///< (D): added to delta
  bool delta_softplus = false;  ///< the step sizes are softplus(delta + delta_bias)
  Tensor initial = {};          ///< (B, D, N): the state before the first step; undefined: 0
};
struct SelectiveScanResult {
  Tensor y;           ///< (B, T, D)
  Tensor last_state;  ///< (B, D, N), f32 for half types
};
/// h_t = exp(delta_t A) h_(t-1) + delta_t B_t u_t, y_t = sum over N of C_t h_t, for every channel: u, delta (B, T, D), A (D, N), B, C (B, T, N) or
/// (B, T, G, N), for G groups of neighbouring channels, give y (B, T, D). A is negative where the state is to decay. Floating; u, delta, B, C and z
/// promote, and y is of their dtype; the state and all other inputs are f32 for half types, also under autocast, which casts nothing here. One state in
/// 64 steps is kept for backward, the others are computed again. Denormal states count as 0 on the CPU. Throws Error where shapes, dtypes or
/// devices do not fit. mamba_ssm: selective_scan_fn, whose tensors have time last.
Tensor selective_scan(const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B, const Tensor& C,
                      const SelectiveScanOptions& options = {});
/// The same with the state after the last step. mamba_ssm: return_last_state=True.
SelectiveScanResult selective_scan_with_state(const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B, const Tensor& C,
                                              const SelectiveScanOptions& options = {});
/// One step from `state` (B, D, N) on: u, delta and z (B, D), B and C (B, N) or (B, G, N), y (B, D). Steps give the same numbers as one scan.
/// options.initial is `state` and must not be given. mamba_ssm: selective_state_update.
SelectiveScanResult selective_scan_step(const Tensor& state, const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B,
                                        const Tensor& C, const SelectiveScanOptions& options = {});

}  // namespace retape
