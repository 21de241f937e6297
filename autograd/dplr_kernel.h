// The kernel of a state space whose matrix is diagonal plus low rank: what S4 convolves its input with.
#pragma once
#include <retape/core/tensor.h>

namespace retape {

/// K_l = 2 Re(sum over n of c_n x_l,n), l < length, for the states x_0 = b, x_(l+1) = factor x_l - p 2 Re(sum over n of q_n x_l,n) of every
/// channel: one of each pair of conjugates of a diagonal matrix less one of rank one. All five (H, N, 2), pairs (real, imaginary) as in
/// fft.h; gives (H, length). Channels go through the positions side by side, in time H N length and, for backward, which makes states again
/// from every sqrt(length)th, memory H length + N sqrt(length). States that do not fade grow without bound; denormal ones count as 0 on the
/// CPU. Floating; inputs promote, and half types are computed in f32. Throws Error where shapes, dtypes or devices do not fit, and for a
/// length below 0. Gu et al. 2021 (arXiv 2111.00396), section 3; state-spaces: SSKernelDPLR.
Tensor dplr_kernel(const Tensor& factor, const Tensor& p, const Tensor& q, const Tensor& b, const Tensor& c, int64_t length);

}  // namespace retape
