#include <retape/nn/convolution.h>

#include <fmt/format.h>

#include <cmath>

#include <retape/nn/init.h>

namespace retape::nn {
namespace {

int64_t divided(const char* what, int64_t channels, int64_t groups) {
  if (channels < 1 || groups < 1 || channels % groups)
    throw Error(fmt::format("convolution: groups {} does not divide {} {}; both must be at least 1", groups, channels, what));
  return channels / groups;
}
Shape weight_shape(int rank, int64_t first, int64_t second, const PerDim& kernel) {
  Shape shape{first, second};
  for (int d = 0; d < rank; ++d) {
    shape.push_back(kernel.at(d, rank, "convolution", "kernel_size"));
    if (shape[-1] < 1) throw Error(fmt::format("convolution: kernel_size {} is not valid; it must be at least 1", shape[-1]));
  }
  return shape;
}
void start(Parameter& weight, Parameter& bias, const Shape& shape, int64_t outputs, bool with_bias) {
  weight = empty_parameter(shape);
  init::kaiming_uniform(weight, {.negative_slope = std::sqrt(5.0)});
  if (!with_bias) return;
  bias = empty_parameter({outputs});
  const double bound = 1 / std::sqrt(double(init::fan_in(weight)));
  init::uniform(bias, -bound, bound);
}

}  // namespace

void start_convolution(Parameter& weight, Parameter& bias, int rank, int64_t in_channels, int64_t out_channels, const PerDim& kernel_size,
                       int64_t groups, bool with_bias) {
  divided("out_channels", out_channels, groups);
  start(weight, bias, weight_shape(rank, out_channels, divided("in_channels", in_channels, groups), kernel_size), out_channels, with_bias);
}
ConvNd::ConvNd(int rank, int64_t in_channels, int64_t out_channels, const ConvOptions& o) : options(o), rank_(rank) {
  start_convolution(weight, bias, rank, in_channels, out_channels, o.kernel_size, o.groups, o.bias);
}
Tensor ConvNd::forward(const Tensor& x) const {
  ConvParams o{options.stride, options.padding, options.dilation, options.groups};
  const auto run = [&](const Tensor& in) {
    return rank_ == 1 ? conv1d(in, weight, bias, o) : rank_ == 2 ? conv2d(in, weight, bias, o) : conv3d(in, weight, bias, o);
  };
  if (options.padding_mode == PadMode::constant) return run(x);
  std::vector<int64_t> pads;
  for (int d = rank_; d-- > 0;) {
    const int64_t reach =
        options.dilation.at(d, rank_, "convolution", "dilation") * (options.kernel_size.at(d, rank_, "convolution", "kernel_size") - 1);
    const bool same = options.padding.same;
    const int64_t before = same ? reach / 2 : options.padding.amount.at(d, rank_, "convolution", "padding");
    pads.push_back(before), pads.push_back(same ? reach - before : before);
  }
  o.padding = 0;
  return run(pad(x, pads, options.padding_mode));
}

ConvTransposeNd::ConvTransposeNd(int rank, int64_t in_channels, int64_t out_channels, const ConvTransposeOptions& o)
    : options(o), rank_(rank) {
  divided("in_channels", in_channels, o.groups);
  start(weight, bias, weight_shape(rank, in_channels, divided("out_channels", out_channels, o.groups), o.kernel_size), out_channels,
        o.bias);
}
Tensor ConvTransposeNd::run(const Tensor& x, const PerDim& output_padding) const {
  const ConvTransposeParams o{options.stride, options.padding, output_padding, options.groups, options.dilation};
  return rank_ == 1   ? conv_transpose1d(x, weight, bias, o)
         : rank_ == 2 ? conv_transpose2d(x, weight, bias, o)
                      : conv_transpose3d(x, weight, bias, o);
}
Tensor ConvTransposeNd::forward(const Tensor& x) const { return run(x, options.output_padding); }
Tensor ConvTransposeNd::forward(const Tensor& x, const Shape& output_size) const {
  constexpr auto op = "conv_transpose";
  if (output_size.rank() != rank_ || x.dim() < rank_)
    throw Error(fmt::format("{}: output_size {} has {} numbers; it must have {}", op, output_size.str(), output_size.rank(), rank_));
  Shape more;
  for (int d = 0; d < rank_; ++d) {
    const int64_t stride = options.stride.at(d, rank_, op, "stride"), dilation = options.dilation.at(d, rank_, op, "dilation");
    const int64_t least = (x.shape()[d - rank_] - 1) * stride - 2 * options.padding.at(d, rank_, op, "padding") +
                          dilation * (options.kernel_size.at(d, rank_, op, "kernel_size") - 1) + 1;
    if (output_size[d] < least || output_size[d] >= least + stride)
      throw Error(fmt::format("{}: x {} cannot become {}: dim {} of space must be from {} to {}", op, x.shape().str(), output_size.str(), d,
                              least, least + stride - 1));
    more.push_back(output_size[d] - least);
  }
  return run(x, PerDim(more));
}

}  // namespace retape::nn
