// Convolutions over one to three dims of space. Images are (N, C, sizes of space...); without N they are one image. Results lie channels-last in
// memory (core/tensor.h), which these ops take without a copy.
#pragma once
#include <initializer_list>

#include <retape/autograd/rearrange.h>

namespace retape {

/// A number for every dim of space, or one number for all: `3` or `{3, 5}`.
struct PerDim {
  Shape values;
  PerDim(int64_t all) : values{all} {}
  PerDim(std::initializer_list<int64_t> each) : values(each) {}
  explicit PerDim(const Shape& each) : values(each) {}
  /// The number for dim d of `rank`. Throws Error, naming the op and what this is, unless there are `rank` numbers or one.
  int64_t at(int d, int rank, const char* op, const char* what) const;
};
/// Zeros around the image: so many on both sides, or "same", as many as keep its size (strides must be 1), or "valid", none.
struct Padding {
  PerDim amount = 0;
  bool same = false;
  template <class T>
  requires std::is_integral_v<T> Padding(T all) : amount(int64_t(all)) {}
  Padding(std::initializer_list<int64_t> each) : amount(each) {}
  Padding(const char* name);
};
struct ConvParams {
  PerDim stride = 1;
  Padding padding = 0;
  PerDim dilation = 1;
  int64_t groups = 1;
};
/// y[n, o, p] = bias[o] + sum over c, k of weight[o, c, k] x[n, c, p stride - padding + k dilation]. x (N, C, size), weight (O, C / groups, kernel),
/// bias (O) or undefined: (N, O, (size + 2 padding - dilation (kernel - 1) - 1) / stride + 1). Throws Error if shapes or params do
/// not fit and for a kernel larger than the padded image. torch: functional.conv1d, conv2d, conv3d.
Tensor conv1d(const Tensor& x, const Tensor& weight, const Tensor& bias = {}, const ConvParams& params = {});
Tensor conv2d(const Tensor& x, const Tensor& weight, const Tensor& bias = {}, const ConvParams& params = {});
Tensor conv3d(const Tensor& x, const Tensor& weight, const Tensor& bias = {}, const ConvParams& params = {});

struct ConvTransposeParams {
  PerDim stride = 1, padding = 0, output_padding = 0;  ///< output_padding: rows added at the end, fewer than stride or dilation
  int64_t groups = 1;
  PerDim dilation = 1;
};
/// The gradient of a convolution with respect to its image, as a layer: x (N, C, size), weight (C, O / groups, kernel), bias (O) or undefined: (N, O,
/// (size - 1) stride - 2 padding + dilation (kernel - 1) + output_padding + 1). torch: functional.conv_transpose1d, ...
Tensor conv_transpose1d(const Tensor& x, const Tensor& weight, const Tensor& bias = {}, const ConvTransposeParams& params = {});
Tensor conv_transpose2d(const Tensor& x, const Tensor& weight, const Tensor& bias = {}, const ConvTransposeParams& params = {});
Tensor conv_transpose3d(const Tensor& x, const Tensor& weight, const Tensor& bias = {}, const ConvTransposeParams& params = {});

struct UnfoldOptions {
  PerDim dilation = 1, padding = 0, stride = 1;
};
/// Windows as columns: x (N, C, H, W) gives (N, C kernel, windows). torch: functional.unfold (`unfold` of one dim is in views.h).
Tensor im2col(const Tensor& x, const PerDim& kernel_size, const UnfoldOptions& options = {});
/// Sums columns (N, C kernel, windows) into the places they came from: (N, C, output_size). torch: functional.fold.
Tensor col2im(const Tensor& columns, const PerDim& output_size, const PerDim& kernel_size, const UnfoldOptions& options = {});

}  // namespace retape
