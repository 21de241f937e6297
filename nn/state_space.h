// What layers of linear state spaces share, x' = A x + B u with complex diagonal A: the way to discrete steps, long convolutions, and
// whether states fade.
#pragma once
#include <retape/nn/module.h>

namespace retape::nn {

/// From a derivative to a step: the input held between positions (zero-order hold), or the trapezoidal rule.
enum class Discretization : uint8_t { zoh, bilinear };

/// Causal convolution of every channel of x (B, T, C) with a kernel as long as x, (C, T): y_t = sum over i <= t of kernel_(t - i) x_i, by
/// Fourier transforms. In f32 for half types.
Tensor long_conv(const Tensor& x, const Tensor& kernel);

namespace detail {

/// In f64.
Tensor wide(const Tensor& x);
/// A parameter of the default dtype and device that starts as `values`.
Parameter filled(const Tensor& values);

/// Complex numbers as two tensors that broadcast.
struct ComplexParts {
  Tensor re, im;
};
/// Of pairs (..., 2).
ComplexParts parts_of(const Tensor& pairs);
/// Pairs (..., 2).
Tensor pairs_of(const ComplexParts& z);
ComplexParts operator+(const ComplexParts& a, const ComplexParts& b);
ComplexParts operator-(const ComplexParts& a, const ComplexParts& b);
ComplexParts operator*(const ComplexParts& a, const ComplexParts& b);
ComplexParts operator*(const ComplexParts& a, const Tensor& b);
ComplexParts operator/(const ComplexParts& a, const ComplexParts& b);
ComplexParts conj(const ComplexParts& z);
/// e^z.
ComplexParts exp(const ComplexParts& z);

/// What a step of length dt multiplies the state by, as its logarithm, and what it multiplies B by.
struct DiscreteStep {
  ComplexParts log_factor, input;
};
DiscreteStep discretize(const ComplexParts& A, const Tensor& dt, Discretization how);

/// h_t = factor h_(t-1) + B x_t, y_t = Re(C h_t) for x (B, T, H): factor (P, 2), B (P, H), C (H, P). `state`, if given, holds the states
/// before x, (B, P, 2), or is undefined for zeros, and becomes the last ones. States are f32 for half types, also under autocast; y is of
/// x's dtype but under autocast.
Tensor diagonal_scan(const Tensor& x, const Tensor& factor, const ComplexParts& B, const ComplexParts& C, Tensor* state = nullptr);

/// Throws Error, naming the layer, unless the largest of the factors, complex pairs (..., 2), is below 1: nothing would be forgotten, or
/// states would grow without bound. Waits for the device.
void check_radius(const char* layer, const Tensor& factors);

}  // namespace detail

}  // namespace retape::nn
