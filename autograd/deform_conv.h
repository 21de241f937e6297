// Convolution whose windows' elements are where they are told to be.
#pragma once
#include <retape/autograd/convolution.h>

namespace retape {

struct DeformConvParams {
  PerDim stride = 1, padding = 0, dilation = 1;
};
/// Deformable convolution: y[n, o, p] = bias[o] + sum over c, k of weight[o, c, k] mask[n, k, p] x[n, c, p stride - padding + k dilation + offset[n, k,
/// p]], samples between pixels being bilinear, and 0 outside. x (N, C, H, W), weight (O, C / groups, kernel); offset (N, 2 offset groups * kernel, out),
/// for each element of the kernel how far down and how far to the right; mask (N, offset groups * kernel, out) or undefined: 1; bias (O) or undefined:
/// (N, O, out). `groups` and offset groups, for neighbouring channels each, follow from the shapes. A coordinate that is nan gives nan. Runs in f32
/// under autocast. Throws Error if shapes do not fit; there is no second derivative. Dai et al. 2017, Zhu et al. 2018 (with mask); torchvision:
/// ops.deform_conv2d.
Tensor deform_conv2d(const Tensor& x, const Tensor& offset, const Tensor& weight, const Tensor& bias = {},
                     const DeformConvParams& params = {}, const Tensor& mask = {});

}  // namespace retape
