// Convolutions and transposed convolutions over one to three dims of space, and windows as columns.
#pragma once
#include <retape/autograd/convolution.h>
#include <retape/nn/module.h>

namespace retape::nn {

struct ConvOptions {
  PerDim kernel_size;
  PerDim stride = 1;
  Padding padding = 0;
  PerDim dilation = 1;
  int64_t groups = 1;
  bool bias = true;
  PadMode padding_mode = PadMode::constant;  ///< what the padding is made of: constant (zeros), reflect, replicate, circular
};
/// Makes weight (out, in / groups, kernel) and, if wanted, bias (out), uniform within 1 / sqrt(in / groups * kernel). Throws Error for numbers below what
/// makes sense and groups that do not divide the channels.
void start_convolution(Parameter& weight, Parameter& bias, int rank, int64_t in_channels, int64_t out_channels, const PerDim& kernel_size,
                       int64_t groups, bool with_bias);
/// What Conv1d, Conv2d and Conv3d share. weight (out, in / groups, kernel) and bias (out) start uniform within 1 / sqrt(in / groups * kernel). Throws
/// Error, in the constructor, for numbers below what makes sense and groups that do not divide the channels.
struct ConvNd : Module {
  Parameter weight, bias;
  ConvOptions options;
  Tensor forward(const Tensor& x) const;
  RETAPE_FIELDS(weight, bias)

 protected:
  ConvNd(int rank, int64_t in_channels, int64_t out_channels, const ConvOptions& options);

 private:
  int rank_;
};
/// x (N, C, L) or (C, L). torch: nn.Conv1d.
struct Conv1d : ConvNd {
  Conv1d(int64_t in_channels, int64_t out_channels, const ConvOptions& options) : ConvNd(1, in_channels, out_channels, options) {}
  RETAPE_FIELDS(weight, bias)
};
/// x (N, C, H, W) or (C, H, W). torch: nn.Conv2d.
struct Conv2d : ConvNd {
  Conv2d(int64_t in_channels, int64_t out_channels, const ConvOptions& options) : ConvNd(2, in_channels, out_channels, options) {}
  RETAPE_FIELDS(weight, bias)
};
/// x (N, C, D, H, W) or (C, D, H, W). torch: nn.Conv3d.
struct Conv3d : ConvNd {
  Conv3d(int64_t in_channels, int64_t out_channels, const ConvOptions& options) : ConvNd(3, in_channels, out_channels, options) {}
  RETAPE_FIELDS(weight, bias)
};

struct ConvTransposeOptions {
  PerDim kernel_size;
  PerDim stride = 1, padding = 0, output_padding = 0;
  int64_t groups = 1;
  bool bias = true;
  PerDim dilation = 1;
};
/// What the transposed ones share. weight (in, out / groups, kernel) and bias (out) start uniform within 1 / sqrt(out / groups * kernel).
struct ConvTransposeNd : Module {
  Parameter weight, bias;
  ConvTransposeOptions options;
  Tensor forward(const Tensor& x) const;
  /// With the output_padding, one number a dim, that gives an output of the sizes `output_size`. Throws Error if none does.
  Tensor forward(const Tensor& x, const Shape& output_size) const;
  RETAPE_FIELDS(weight, bias)

 protected:
  ConvTransposeNd(int rank, int64_t in_channels, int64_t out_channels, const ConvTransposeOptions& options);

 private:
  Tensor run(const Tensor& x, const PerDim& output_padding) const;
  int rank_;
};
/// torch: nn.ConvTranspose1d.
struct ConvTranspose1d : ConvTransposeNd {
  ConvTranspose1d(int64_t in_channels, int64_t out_channels, const ConvTransposeOptions& options)
      : ConvTransposeNd(1, in_channels, out_channels, options) {}
  RETAPE_FIELDS(weight, bias)
};
/// torch: nn.ConvTranspose2d.
struct ConvTranspose2d : ConvTransposeNd {
  ConvTranspose2d(int64_t in_channels, int64_t out_channels, const ConvTransposeOptions& options)
      : ConvTransposeNd(2, in_channels, out_channels, options) {}
  RETAPE_FIELDS(weight, bias)
};
/// torch: nn.ConvTranspose3d.
struct ConvTranspose3d : ConvTransposeNd {
  ConvTranspose3d(int64_t in_channels, int64_t out_channels, const ConvTransposeOptions& options)
      : ConvTransposeNd(3, in_channels, out_channels, options) {}
  RETAPE_FIELDS(weight, bias)
};

/// im2col() of x (N, C, H, W). torch: nn.Unfold.
struct Unfold : Module {
  PerDim kernel_size;
  UnfoldOptions options;
  explicit Unfold(PerDim kernel_size, UnfoldOptions options = {}) : kernel_size(std::move(kernel_size)), options(std::move(options)) {}
  Tensor forward(const Tensor& x) const { return im2col(x, kernel_size, options); }
  RETAPE_FIELDS()
};
/// col2im() to output_size. torch: nn.Fold.
struct Fold : Module {
  PerDim output_size, kernel_size;
  UnfoldOptions options;
  Fold(PerDim output_size, PerDim kernel_size, UnfoldOptions options = {})
      : output_size(std::move(output_size)), kernel_size(std::move(kernel_size)), options(std::move(options)) {}
  Tensor forward(const Tensor& columns) const { return col2im(columns, output_size, kernel_size, options); }
  RETAPE_FIELDS()
};

}  // namespace retape::nn
