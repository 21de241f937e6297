// HiPPO: states that hold the past of a signal as coefficients of polynomials or waves (Gu et al. 2020, arXiv 2008.07669; 2022, arXiv 2206.12037).
#pragma once
#include <retape/core/tensor.h>

namespace retape::nn {

enum class HippoMeasure : uint8_t {
  legs,     ///< scaled Legendre: all of the past, evenly; x' = (A x + B u) / t
  legt,     ///< translated Legendre: the last unit of time, evenly
  lagt,     ///< translated Laguerre: all of the past, ever less
  fourier,  ///< the last unit of time, as a constant and waves
};
/// x' = A x + B u, f64: A (N, N) and B (N).
struct Hippo {
  Tensor A, B;
};
/// The matrices for a state of N numbers. Throws Error for N below 1.
Hippo hippo(HippoMeasure measure, int64_t state_size);
/// The matrices of legs where a rank-one part makes the rest diagonal: A = V (diag(a) - p p^*) V^*, V unitary. Of each pair of conjugate
/// eigenvalues the one with positive imaginary part, complex pairs in f64: A (N / 2, 2) holds a, P holds p, B holds V^* B, V (N, N / 2, 2).
struct HippoPairs {
  Tensor A, P, B, V;
};
/// Throws Error unless the state size N is even and above 0. Gu et al. 2021 (arXiv 2111.00396), theorem 1.
HippoPairs hippo_pairs(int64_t state_size);
/// What a state says about the past: u(t - s) is about sum over n of x_n basis_n(s), for ages s >= 0 (points): f64 (points, N). An age counts in units of
/// time, up to 1 for legt and fourier; for legs in shares of the whole past, so that s = 1 is its beginning. Throws Error for N below 1 and ages that are
/// not one dim.
Tensor hippo_basis(HippoMeasure measure, int64_t state_size, const Tensor& ages);

}  // namespace retape::nn
