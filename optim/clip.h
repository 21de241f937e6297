// Limits on gradients, between backward() and step().
#pragma once
#include <vector>

#include <retape/core/tensor.h>

namespace retape {

struct ClipOptions {
  double norm_type = 2;             ///< 2, or infinity for the largest magnitude
  bool error_if_nonfinite = false;  ///< throw Error, before anything has changed, if the norm is inf or nan
};
/// Scales the gradients of `params` so that their norm, taken over all of them together, is at most max_norm: all are multiplied by
/// min(1, max_norm / (norm + 1e-6)), and a nan norm makes all of them nan. Parameters without gradient are skipped. Returns the norm
/// before scaling, f64 without dims, on the device of the first gradient: unless error_if_nonfinite is set, nothing waits for that device.
/// torch: clip_grad_norm_.
Tensor clip_grad_norm(const std::vector<Tensor>& params, double max_norm, ClipOptions options = {});

/// Limits every element of the gradients to [-limit, limit]. torch: clip_grad_value_.
void clip_grad_value(const std::vector<Tensor>& params, double limit);

}  // namespace retape
