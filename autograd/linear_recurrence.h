// Recurrences that are linear in their state and act on each channel alone: what state-space models and gated recurrent layers run along time.
#pragma once
#include <retape/core/tensor.h>

namespace retape {

struct LinearRecurrenceOptions {
  Tensor initial = {};   ///< the state before the first step, (B, C) or, complex, (B, C, 2); undefined: 0
  bool reverse = false;  ///< from the last step to the first
  bool complex = false;  ///< pairs (real, imaginary) in the last dim, as in fft.h
};
/// h_t = a_t h_(t-1) + b_t for every channel: b (B, T, C) gives all states (B, T, C); if complex, both (B, T, C, 2). a broadcasts to b; one of
/// (C) or (C, 2) holds for every step and is never expanded. Floating; a and b promote, states of half types are kept in f32. Denormal states count
/// as 0 on the CPU. States grow without bound where |a| > 1, see recurrence_radius(). Throws Error where shapes, dtypes or devices do not fit.
/// Martin & Cundy 2018 (arXiv 1709.04057).
Tensor linear_recurrence(const Tensor& a, const Tensor& b, const LinearRecurrenceOptions& options = {});
/// The largest |a|, a tensor without dims and without gradient, on a's device; nan if one is, 0 if a has no elements. From 1 on a recurrence forgets
/// nothing, and above it grows.
Tensor recurrence_radius(const Tensor& a, bool complex = false);

}  // namespace retape
