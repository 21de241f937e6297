// Deformable convolution as a module.
#pragma once
#include <retape/autograd/deform_conv.h>
#include <retape/nn/convolution.h>

namespace retape::nn {

struct DeformConvOptions {
  PerDim kernel_size;
  PerDim stride = 1, padding = 0, dilation = 1;
  int64_t groups = 1;
  bool bias = true;
};
/// deform_conv2d() with a weight (out, in / groups, kernel) and a bias (out) that start as Conv2d's; offset and mask, which come from a layer of
/// their own, may have several groups. torchvision: ops.DeformConv2d.
struct DeformConv2d : Module {
  Parameter weight, bias;
  DeformConvOptions options;
  DeformConv2d(int64_t in_channels, int64_t out_channels, const DeformConvOptions& o) : options(o) {
    start_convolution(weight, bias, 2, in_channels, out_channels, o.kernel_size, o.groups, o.bias);
  }
  Tensor forward(const Tensor& x, const Tensor& offset, const Tensor& mask = {}) const {
    return deform_conv2d(x, offset, weight, bias, {options.stride, options.padding, options.dilation}, mask);
  }
  RETAPE_FIELDS(weight, bias)
};

}  // namespace retape::nn
