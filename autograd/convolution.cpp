// A convolution, its gradient with respect to the image, and that with respect to the weight are three ops, and the derivative of each
// consists of the other two. oneDNN does them where it has kernels of its own; elsewhere windows become the rows of a matrix.
#include <retape/autograd/convolution.h>

#include <algorithm>
#include <optional>
#include <string_view>

#include <retape/autograd/binary.h>
#include <retape/autograd/columns.h>
#include <retape/autograd/reduce.h>
#include <retape/autograd/tape.h>
#include <retape/core/runtime/onednn.h>

namespace retape {

int64_t PerDim::at(int d, int rank, const char* op, const char* what) const {
  if (values.rank() == 1) return values[0];
  if (values.rank() != rank)
    throw Error(fmt::format("{}: {} {} has {} numbers; it must have one, or {}, one for each dim of space", op, what, values.str(),
                            values.rank(), rank));
  return values[d];
}
Padding::Padding(const char* name) : same(std::string_view(name) == "same") {
  if (!same && std::string_view(name) != "valid")
    throw Error(fmt::format("padding: \"{}\" is not known; it must be \"same\", \"valid\" or numbers", name));
}
namespace {

bool is_depthwise(const Geometry& g, const Tensor& x, const Tensor& y) {
  return g.groups > 1 && g.groups == x.shape()[-1] && g.groups == y.shape()[-1];
}
// The convolution as oneDNN takes it, for x (N, in, C) and y (N, out, O). It has kernels for depthwise ones from two dims on: rows are
// images of one row.
onednn::Convolution described(const Geometry& g, const Tensor& x, const Tensor& y) {
  const int rank = g.rank == 1 && is_depthwise(g, x, y) ? 2 : g.rank;
  return {rank, x.shape()[0], g.groups, x.shape()[-1], y.shape()[-1], g.window};
}
// Whether oneDNN computes it. A convolution of a few places with a large weight is rather a product of matrices: there the time goes into
// putting the weight in order.
bool goes_to_onednn(const Geometry& g, const Tensor& x, const Tensor& y, onednn::ConvolutionPass pass) {
  if (!x.device().is_cpu() || x.dtype() != DType::f32 || x.numel() == 0 || y.numel() == 0) return false;
  if (g.is_pointwise() && g.groups == 1) return false;
  const int64_t rows = x.shape()[0] * g.window.places_out();
  // The weight's gradient is summed in up to 16 parts, each as large as the weight.
  const int64_t least = pass == onednn::ConvolutionPass::weight ? std::max<int64_t>(256, 16 * y.shape()[-1] / g.groups) : 256;
  if (!is_depthwise(g, x, y) && rows < least) return false;
  return onednn::convolves(described(g, x, y), pass);
}

// The convolution of y that gives the gradient with respect to x, if there is one that oneDNN is quicker at: where windows of a depthwise
// convolution touch each other, every place is in as many windows as a window has places, and the kernel goes backwards.
std::optional<Geometry> turned(const Geometry& g, const Tensor& x, const Tensor& y) {
  if (!is_depthwise(g, x, y)) return {};
  Geometry back = g;
  for (int d = 0; d < 3; ++d) {
    const int64_t padding = g.window.dilation[d] * (g.window.kernel[d] - 1) - g.window.padding[d];
    if (g.window.stride[d] != 1 || padding < 0) return {};
    back.window.in[d] = g.window.out[d], back.window.out[d] = g.window.in[d], back.window.padding[d] = padding;
  }
  return back;
}
// weight (C, 1, kernel) with the elements of each kernel in reverse order.
Tensor backwards(const Tensor& weight) {
  Tensor y = empty(weight.shape(), weight.options());
  const int64_t channels = weight.shape()[0], size = weight.numel() / std::max<int64_t>(1, channels);
  const float* const from = weight.data<float>();
  float* const to = y.mutable_data<float>();
  for (int64_t c = 0; c < channels; ++c) std::reverse_copy(from + c * size, from + (c + 1) * size, to + c * size);
  return y;
}

// For the kernels of this library: weight (C, 1, kernel) as (elements, C), and what a half type is computed in.
Tensor in_rows(const Tensor& weight) {
  const int64_t channels = weight.shape()[0];
  return contiguous(
      transpose(reshape(cast(weight, weight.dtype() == DType::f64 ? DType::f64 : DType::f32), {channels, weight.numel() / channels})));
}

// ---- the three ops ----

struct ConvolutionInput;
struct ConvolutionWeight;

// x (N, C, in), weight (O, C / groups, kernel): (N, O, out)
struct Convolution {
  const char* name;
  Geometry g;
  static constexpr bool expensive = true;
  static constexpr auto precision = Precision::low;
  Saved x = {}, weight = {};
  Tensor forward(const Tensor& in, const Tensor& w, const Tensor& bias) {
    x = save(in, 1), weight = save(w, 0);
    Tensor out = empty(image_shape(in.shape()[0], w.shape()[0], g.rank, g.window.out), in.options(), MemoryFormat::channels_last);
    if (out.numel() == 0 || in.device().is_meta()) return out;
    const Tensor image = dense_channels_behind(in), kernel = contiguous(w), y = channels_behind(out), b = bias ? contiguous(bias) : bias;
    if (goes_to_onednn(g, image, y, onednn::ConvolutionPass::forward))
      onednn::convolution(described(g, image, y), image.data<float>(), kernel.data<float>(), b ? b.data<float>() : nullptr,
                          y.mutable_data<float>());
    else if (is_depthwise(g, image, y)) {
      const Tensor of_elements = in_rows(kernel), sums = b ? cast(b, of_elements.dtype()) : b;
      Tensor to = y;
      RETAPE_DISPATCH(out.device(), depthwise_convolution(g.window, image, of_elements, sums, to));
    } else forward_by_columns(Columns(g, image, y), image, kernel, b, y);
    return out;
  }
  void backward(const Tensor& dy, Grads& dx);
  Intervals reach(const Reach& r) const { return r.input == 0 ? seen_by_windows(r, g.rank, g.window, true) : all_elements(r.in); }
};
// dy (N, O, out), weight: (N, C, in)
struct ConvolutionInput {
  const char* name;
  Geometry g;
  static constexpr bool expensive = true;
  static constexpr auto precision = Precision::low;
  Saved dy = {}, weight = {};
  Tensor forward(const Tensor& d, const Tensor& w) {
    dy = save(d, 1), weight = save(w, 0);
    Tensor out = empty(image_shape(d.shape()[0], w.shape()[1] * g.groups, g.rank, g.window.in), d.options(), MemoryFormat::channels_last);
    if (out.numel() == 0 || d.device().is_meta()) return out;
    const Tensor grad = dense_channels_behind(d), kernel = contiguous(w), image = channels_behind(out);
    if (const auto back = turned(g, image, grad); back && goes_to_onednn(*back, grad, image, onednn::ConvolutionPass::forward))
      onednn::convolution(described(*back, grad, image), grad.data<float>(), backwards(kernel).data<float>(), nullptr,
                          image.mutable_data<float>());
    else if (goes_to_onednn(g, image, grad, onednn::ConvolutionPass::input))
      onednn::convolution_backward_input(described(g, image, grad), grad.data<float>(), kernel.data<float>(), image.mutable_data<float>());
    else if (is_depthwise(g, image, grad)) {
      const Tensor of_elements = in_rows(kernel);
      Tensor to = image;
      RETAPE_DISPATCH(out.device(), depthwise_convolution_input(g.window, grad, of_elements, to));
    } else input_by_columns(Columns(g, image, grad), grad, kernel, image);
    return out;
  }
  void backward(const Tensor& ddx, Grads& grads);
  Intervals reach(const Reach& r) const { return r.input == 0 ? seen_by_places(r, g.rank, g.window) : all_elements(r.in); }
};
// dy (N, O, out), x (N, C, in): (O, C / groups, kernel)
struct ConvolutionWeight {
  const char* name;
  Geometry g;
  static constexpr bool expensive = true;
  Saved dy = {}, x = {};
  Tensor forward(const Tensor& d, const Tensor& in) {
    dy = save(d, 1), x = save(in, 0);
    const int64_t outputs = d.shape()[1], inputs = in.shape()[1] / g.groups;
    const Shape shape = image_shape(outputs, inputs, g.rank, g.window.kernel);
    if (in.device().is_meta()) return empty(shape, in.options());
    const Tensor grad = dense_channels_behind(d), image = dense_channels_behind(in);
    const bool depthwise = is_depthwise(g, image, grad);
    if (!(depthwise && g.rank == 1) && goes_to_onednn(g, image, grad, onednn::ConvolutionPass::weight)) {
      Tensor dw = empty(shape, in.options());
      onednn::convolution_backward_weight(described(g, image, grad), grad.data<float>(), image.data<float>(), dw.mutable_data<float>());
      return dw;
    }
    if (depthwise && outputs > 0) {
      Tensor dw = empty({g.window.elements(), outputs}, {in.dtype() == DType::f64 ? DType::f64 : DType::f32, in.device()});
      RETAPE_DISPATCH(in.device(), depthwise_convolution_weight(g.window, grad, image, dw));
      return reshape(contiguous(transpose(cast(dw, in.dtype()))), shape);
    }
    return weight_by_columns(Columns(g, image, grad), grad, image, shape);
  }
  void backward(const Tensor& ddw, Grads& grads);
};

Shape all_but_channels(int dims) {
  Shape s{0};
  for (int d = 2; d < dims; ++d) s.push_back(d);
  return s;
}
void Convolution::backward(const Tensor& dy, Grads& dx) {
  if (dx.wants(0)) dx.set(0, record(ConvolutionInput{"convolution_backward_input", g}, dy, *weight));
  if (dx.wants(1)) dx.set(1, record(ConvolutionWeight{"convolution_backward_weight", g}, dy, *x));
  if (dx.wants(2)) dx.set(2, sum(dy, all_but_channels(dy.dim())));
}
void ConvolutionInput::backward(const Tensor& ddx, Grads& grads) {
  if (grads.wants(0)) grads.set(0, record(Convolution{"convolution", g}, ddx, *weight, Tensor{}));
  if (grads.wants(1)) grads.set(1, record(ConvolutionWeight{"convolution_backward_weight", g}, *dy, ddx));
}
void ConvolutionWeight::backward(const Tensor& ddw, Grads& grads) {
  if (grads.wants(0)) grads.set(0, record(Convolution{"convolution", g}, *x, ddw, Tensor{}));
  if (grads.wants(1)) grads.set(1, record(ConvolutionInput{"convolution_backward_input", g}, *dy, ddw));
}

// ---- checks ----

// The dtype that all are cast to.
DType common_dtype(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  const DType dtype = promote(x.dtype(), weight.dtype());
  return bias ? promote(dtype, bias.dtype()) : dtype;
}

Tensor conv(const char* op, int rank, const Tensor& x, const Tensor& weight, const Tensor& bias, const ConvParams& params) {
  if (autocasting())
    return under_autocast(
        Precision::low, [&](const Tensor& p, const Tensor& q, const Tensor& r) { return conv(op, rank, p, q, r, params); }, x, weight,
        bias);
  return with_batch(op, x, rank, [&](const Tensor& image) {
    check_weight(op, rank, image, weight, bias, params.groups, false);
    Geometry g{rank, params.groups, unit_window()};
    for (int d = 0; d < rank; ++d) {
      const int at = 3 - rank + d;
      WindowArgs& w = g.window;
      w.in[at] = image.shape()[2 + d], w.kernel[at] = checked(op, "kernel size", weight.shape()[2 + d], 1);
      w.stride[at] = checked(op, "stride", params.stride.at(d, rank, op, "stride"), 1);
      w.dilation[at] = checked(op, "dilation", params.dilation.at(d, rank, op, "dilation"), 1);
      const int64_t reach = w.dilation[at] * (w.kernel[at] - 1);
      if (params.padding.same) {
        if (w.stride[at] != 1) throw Error(fmt::format("{}: padding \"same\" needs a stride of 1, not {}", op, w.stride[at]));
        w.padding[at] = reach / 2;
        w.out[at] = w.in[at];  // an odd reach takes one more zero at the end: windows may stand out there
        continue;
      }
      w.padding[at] = checked(op, "padding", params.padding.amount.at(d, rank, op, "padding"), 0);
      const int64_t padded = w.in[at] + 2 * w.padding[at];
      if (padded < reach + 1)
        throw Error(fmt::format("{}: a kernel of {} with dilation {} reaches over {} and does not fit the {} of x {} with padding {}", op,
                                w.kernel[at], w.dilation[at], reach + 1, w.in[at], image.shape().str(), w.padding[at]));
      w.out[at] = (padded - reach - 1) / w.stride[at] + 1;
    }
    const DType dtype = common_dtype(image, weight, bias);
    return record(Convolution{op, g}, cast(image, dtype), cast(weight, dtype), bias ? cast(bias, dtype) : bias);
  });
}

Tensor conv_transpose(const char* op, int rank, const Tensor& x, const Tensor& weight, const Tensor& bias,
                      const ConvTransposeParams& params) {
  if (autocasting())
    return under_autocast(
        Precision::low, [&](const Tensor& p, const Tensor& q, const Tensor& r) { return conv_transpose(op, rank, p, q, r, params); }, x,
        weight, bias);
  return with_batch(op, x, rank, [&](const Tensor& image) {
    check_weight(op, rank, image, weight, bias, params.groups, true);
    Geometry g{rank, params.groups, unit_window()};
    WindowArgs& w = g.window;
    for (int d = 0; d < rank; ++d) {
      const int at = 3 - rank + d;
      w.out[at] = image.shape()[2 + d], w.kernel[at] = checked(op, "kernel size", weight.shape()[2 + d], 1);
      w.stride[at] = checked(op, "stride", params.stride.at(d, rank, op, "stride"), 1);
      w.dilation[at] = checked(op, "dilation", params.dilation.at(d, rank, op, "dilation"), 1);
      w.padding[at] = checked(op, "padding", params.padding.at(d, rank, op, "padding"), 0);
      const int64_t more = checked(op, "output_padding", params.output_padding.at(d, rank, op, "output_padding"), 0);
      if (more >= std::max(w.stride[at], w.dilation[at]))
        throw Error(fmt::format("{}: output_padding {} must be smaller than the stride {} or the dilation {}", op, more, w.stride[at],
                                w.dilation[at]));
      w.in[at] = (w.out[at] - 1) * w.stride[at] - 2 * w.padding[at] + w.dilation[at] * (w.kernel[at] - 1) + more + 1;
      if (w.in[at] < 1)
        throw Error(fmt::format("{}: x {} with padding {} gives an output of size {}; it must be at least 1", op, image.shape().str(),
                                w.padding[at], w.in[at]));
    }
    const DType dtype = common_dtype(image, weight, bias);
    const Tensor y = record(ConvolutionInput{op, g}, cast(image, dtype), cast(weight, dtype));
    if (!bias) return y;
    Shape along_channels = Shape{bias.shape()[0]};
    for (int d = 0; d < rank; ++d) along_channels.push_back(1);
    return y + reshape(cast(bias, dtype), along_channels);
  });
}

// ---- windows as columns ----

struct ColumnsToImage;
// x (N, C, in): (N, C elements, out)
struct ImageToColumns {
  static constexpr auto name = "im2col";
  WindowArgs window;
  Tensor forward(const Tensor& x) {
    const int64_t batch = x.shape()[0], channels = x.shape()[1], elements = window.elements(), places = window.places_out();
    Tensor columns = empty({batch, places, 1, elements, channels}, x.options());
    const Tensor image = dense_channels_behind(x);
    RETAPE_DISPATCH(x.device(), image_to_columns(window, 1, image, columns));
    return contiguous(
        reshape(permute(reshape(columns, {batch, places, elements, channels}), {0, 3, 2, 1}), {batch, channels * elements, places}));
  }
  void backward(const Tensor& dy, Grads& dx);
};
struct ColumnsToImage {
  static constexpr auto name = "col2im";
  WindowArgs window;
  Tensor forward(const Tensor& y) {
    const int64_t batch = y.shape()[0], elements = window.elements(), places = window.places_out(), channels = y.shape()[1] / elements;
    const Tensor columns = contiguous(permute(reshape(y, {batch, channels, elements, places}), {0, 3, 2, 1}));
    Tensor x = empty({batch, channels, window.in[1], window.in[2]}, y.options(), MemoryFormat::channels_last), image = channels_behind(x);
    RETAPE_DISPATCH(y.device(), columns_to_image(window, 1, columns, image));
    return x;
  }
  void backward(const Tensor& dx, Grads& dy) { dy.set(0, record(ImageToColumns{window}, dx)); }
};
void ImageToColumns::backward(const Tensor& dy, Grads& dx) { dx.set(0, record(ColumnsToImage{window}, dy)); }

}  // namespace

Tensor conv1d(const Tensor& x, const Tensor& w, const Tensor& b, const ConvParams& o) { return conv("conv1d", 1, x, w, b, o); }
Tensor conv2d(const Tensor& x, const Tensor& w, const Tensor& b, const ConvParams& o) { return conv("conv2d", 2, x, w, b, o); }
Tensor conv3d(const Tensor& x, const Tensor& w, const Tensor& b, const ConvParams& o) { return conv("conv3d", 3, x, w, b, o); }
Tensor conv_transpose1d(const Tensor& x, const Tensor& w, const Tensor& b, const ConvTransposeParams& o) {
  return conv_transpose("conv_transpose1d", 1, x, w, b, o);
}
Tensor conv_transpose2d(const Tensor& x, const Tensor& w, const Tensor& b, const ConvTransposeParams& o) {
  return conv_transpose("conv_transpose2d", 2, x, w, b, o);
}
Tensor conv_transpose3d(const Tensor& x, const Tensor& w, const Tensor& b, const ConvTransposeParams& o) {
  return conv_transpose("conv_transpose3d", 3, x, w, b, o);
}

Tensor im2col(const Tensor& x, const PerDim& kernel_size, const UnfoldOptions& options) {
  return with_batch("im2col", x, 2, [&](const Tensor& image) {
    return record(ImageToColumns{window_2d("im2col", {image.shape()[2], image.shape()[3]}, kernel_size, options)}, image);
  });
}
Tensor col2im(const Tensor& columns, const PerDim& output_size, const PerDim& kernel_size, const UnfoldOptions& options) {
  return with_batch("col2im", columns, 1, [&](const Tensor& y) {
    const auto size = [&](int d) { return output_size.at(d, 2, "col2im", "output_size"); };
    const WindowArgs w = window_2d("col2im", {size(0), size(1)}, kernel_size, options);
    if (y.shape()[1] % w.elements() || y.shape()[2] != w.places_out())
      throw Error(
          fmt::format("col2im: columns {} do not fit an output of {} x {}: dim 1 must be a multiple of the {} elements of a window, and "
                      "dim 2 the {} windows",
                      y.shape().str(), w.in[1], w.in[2], w.elements(), w.places_out()));
    return record(ColumnsToImage{w}, y);
  });
}

}  // namespace retape
