// What layers share that pass along a sequence (B, T, C) and can stop and go on: checks, and the few positions that a convolution looks
// back.
#pragma once
#include <retape/core/tensor.h>

namespace retape::nn {

/// Depthwise convolution of x (B, T, C) along time that looks back only: y_t = bias + sum over k of weight[k] x_(t - K + 1 + k), weight (C,
/// 1, K), bias (C) or undefined, gives (B, T, C). `past`, if given, holds the K - 1 positions before x, (B, K - 1, C), or is undefined for
/// zeros, and becomes those before what follows. Throws Error if shapes do not fit. causal_conv1d: causal_conv1d_fn and
/// causal_conv1d_update without activation.
Tensor causal_conv1d(const Tensor& x, const Tensor& weight, const Tensor& bias = {}, Tensor* past = nullptr);

namespace detail {

/// x (B, T, C) with every position's place taken by the one before: `past`, if given, is what the first gets, (B, C), or is undefined for
/// zeros, and becomes x's last position. Throws Error if shapes do not fit.
Tensor shifted(const Tensor& x, Tensor* past = nullptr);

/// Throws Error, naming the layer, unless x is floating (B, T, channels), and T >= 1 if it is a step.
void check_sequence(const char* layer, const Tensor& x, int64_t channels, bool step = false);
/// Throws Error, naming the layer, unless the part of a state is undefined or of the shape: what a state of other sequences is not.
void check_state(const char* layer, const char* what, const Tensor& part, const Shape& shape);
/// The number. Throws Error, naming the layer, unless it is above 0.
int64_t check_positive(const char* layer, const char* what, int64_t number);
/// The probability. Throws Error, naming the layer, unless it is in [0, 1].
double check_dropout(const char* layer, double p);
/// x in f32 if it is of a half type: for parameters of which a half type would lose what exp() makes of them, and for states.
Tensor widened(const Tensor& x);

}  // namespace detail

}  // namespace retape::nn
