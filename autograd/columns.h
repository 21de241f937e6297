// Convolutions as products of matrices: windows become the rows of one, image after image, as many at once as keep it within a bound. Private to
// autograd's sources.
#pragma once
#include <algorithm>

#include <retape/autograd/image.h>
#include <retape/core/dispatch.h>

namespace retape {
namespace {

struct Geometry {
  int rank;
  int64_t groups;
  WindowArgs window;

  bool is_pointwise() const {
    for (int d = 0; d < 3; ++d)
      if (window.kernel[d] != 1 || window.stride[d] != 1 || window.padding[d] != 0 || window.in[d] != window.out[d]) return false;
    return true;
  }
};
// Where a deformable convolution samples, with the channels last: offset (N, out, 2 * offset groups * elements), mask (N, out, offset groups *
// elements) or undefined.
struct Deformation {
  Tensor offset, mask;
  Deformation images(int64_t n, int64_t count) const { return {narrow(offset, 0, n, count), mask ? narrow(mask, 0, n, count) : Tensor{}}; }
};

// x (N, in, C), y (N, out, O). The kernels that fill columns walk over the elements of a window and their channels; a weight lies the other way round. So
// either the weight is put in order or, if there are fewer of them than outputs, the columns are.
struct Columns {
  const Geometry& g;
  const Deformation* deformation;  // null: windows lie where they are
  int64_t batch, channels, out_channels, step;
  bool as_weight;  // columns (channels, elements of a window) instead of (elements, channels)
  Options options;
  Columns(const Geometry& geometry, const Tensor& x, const Tensor& y, const Deformation* deformation = nullptr)
      : g(geometry),
        deformation(deformation),
        batch(x.shape()[0]),
        channels(x.shape()[-1]),
        out_channels(y.shape()[-1]),
        options(x.options()) {
    constexpr int64_t most_elements = 16 << 20;
    const int64_t image = g.window.places_out() * g.window.elements() * channels;
    step = std::clamp<int64_t>(most_elements / std::max<int64_t>(image, 1), 1, std::max<int64_t>(batch, 1));
    as_weight = batch * rows() < 2 * out_channels / g.groups && g.window.elements() > 1;
  }
  int64_t rows() const { return g.window.places_out(); }
  int64_t depth() const { return g.window.elements() * channels / g.groups; }
  // Whether the image is its own matrix.
  bool are_the_image() const { return !deformation && g.is_pointwise() && g.groups == 1; }
  // (images, places, groups, then as as_weight says) as (groups, images * places, depth)
  Tensor matrices_of(const Tensor& columns) const {
    return permute(reshape(columns, {columns.shape()[0] * rows(), g.groups, depth()}), {1, 0, 2});
  }
  // The same of (images, places, groups, elements, C / groups).
  Tensor as_matrices(const Tensor& columns) const { return matrices_of(as_weight ? contiguous(transpose(columns)) : columns); }
  // images [n, n + count) of (N, out, O) as (groups, images * places, O / groups)
  Tensor outputs(const Tensor& y, int64_t n, int64_t count) const {
    return permute(reshape(narrow(y, 0, n, count), {count * rows(), g.groups, out_channels / g.groups}), {1, 0, 2});
  }
  // (O, C / groups, kernel) as (groups, depth, O / groups)
  Tensor matrices(const Tensor& weight) const {
    if (as_weight) return transpose(reshape(weight, {g.groups, out_channels / g.groups, depth()}));
    const Shape s{g.groups, out_channels / g.groups, channels / g.groups, g.window.elements()};
    return reshape(permute(reshape(weight, s), {0, 3, 2, 1}), {g.groups, depth(), out_channels / g.groups});
  }
  Tensor make_empty(int64_t count) const { return empty({count, rows(), g.groups, g.window.elements(), channels / g.groups}, options); }
  Tensor make(const Tensor& x, int64_t n, int64_t count) const {
    const Tensor part = narrow(x, 0, n, count);
    if (are_the_image()) return as_matrices(part);
    Tensor columns = make_empty(count);
    if (deformation) {
      const Deformation d = deformation->images(n, count);
      RETAPE_DISPATCH(options.device, deformable_columns(g.window, g.groups, part, d.offset, d.mask, columns));
    } else {
      RETAPE_DISPATCH(options.device, image_to_columns(g.window, g.groups, part, columns));
    }
    return as_matrices(columns);
  }
};

inline void multiply(const Tensor& a, const Tensor& b, const Tensor& bias, bool accumulate, Tensor c) {
  RETAPE_DISPATCH(c.device(), matmul(a, b, bias, accumulate, c));
}
inline Tensor two_dims(const Tensor& x) { return reshape(x, {x.shape()[1], x.shape()[2]}); }
// The products of as many matrices as there are groups.
inline void multiply_each(const Tensor& a, const Tensor& b, bool accumulate, const Tensor& c) {
  if (c.shape()[0] == 1) multiply(two_dims(a), two_dims(b), Tensor{}, accumulate, two_dims(c));
  else multiply(a, b, Tensor{}, accumulate, c);
}

inline void forward_by_columns(const Columns& c, const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& y) {
  const Tensor w = c.matrices(weight);
  for (int64_t n = 0; n < c.batch; n += c.step) {
    const int64_t count = std::min(c.step, c.batch - n);
    const Tensor columns = c.make(x, n, count), out = c.outputs(y, n, count);
    if (c.g.groups == 1) {
      multiply(two_dims(columns), two_dims(w), bias, false, two_dims(out));
      continue;
    }
    multiply(columns, w, Tensor{}, false, out);
    if (!bias) continue;
    Tensor sum = out;
    const Tensor b = expand(reshape(bias, {c.g.groups, 1, -1}), out.shape());
    RETAPE_DISPATCH(y.device(), accumulate(b, sum));
  }
}
// Calls f(n, count, columns) with the gradient of the columns of images [n, n + count), for all images; `columns_of(n, count)` makes the memory.
template <class Make, class F>
void for_column_gradients(const Columns& c, const Tensor& dy, const Tensor& weight, const Make& columns_of, const F& f) {
  const Tensor w = transpose(c.matrices(weight));
  for (int64_t n = 0; n < c.batch; n += c.step) {
    const int64_t count = std::min(c.step, c.batch - n);
    const Tensor made = columns_of(n, count), columns = c.as_weight ? reshape(made, transpose(made).shape()) : made;
    multiply_each(c.outputs(dy, n, count), w, false, c.matrices_of(columns));
    f(n, count, c.as_weight ? contiguous(transpose(columns)) : columns);
  }
}
inline void input_by_columns(const Columns& c, const Tensor& dy, const Tensor& weight, const Tensor& dx) {
  const bool direct = c.are_the_image();
  for_column_gradients(
      c, dy, weight, [&](int64_t n, int64_t count) { return direct ? narrow(dx, 0, n, count) : c.make_empty(count); },
      [&](int64_t n, int64_t count, const Tensor& columns) {
        if (direct) return;
        Tensor part = narrow(dx, 0, n, count);
        RETAPE_DISPATCH(dx.device(), columns_to_image(c.g.window, c.g.groups, columns, part));
      });
}
// Gives the gradient of weight (O, C / groups, kernel).
inline Tensor weight_by_columns(const Columns& c, const Tensor& dy, const Tensor& x, const Shape& shape) {
  const int64_t outputs = c.out_channels / c.g.groups;
  const Tensor dw = c.as_weight ? empty({c.g.groups, outputs, c.depth()}, c.options) : empty({c.g.groups, c.depth(), outputs}, c.options);
  if (c.batch * c.rows() == 0) return full(shape, 0, c.options);
  for (int64_t n = 0; n < c.batch; n += c.step) {
    const int64_t count = std::min(c.step, c.batch - n);
    const Tensor columns = c.make(x, n, count), d = c.outputs(dy, n, count);
    if (c.as_weight) multiply_each(transpose(d), columns, n > 0, dw);
    else multiply_each(transpose(columns), d, n > 0, dw);
  }
  if (c.as_weight) return reshape(dw, shape);
  const Shape parts{c.g.groups, c.g.window.elements(), c.channels / c.g.groups, outputs};
  return reshape(contiguous(permute(reshape(dw, parts), {0, 3, 2, 1})), shape);
}

// ---- checks ----

inline void check_weight(const char* op, int rank, const Tensor& x, const Tensor& weight, const Tensor& bias, int64_t groups,
                         bool transposed) {
  check_defined(op, weight);
  check_one_device(op, x, weight, bias);
  checked(op, "groups", groups, 1);
  const int64_t channels = x.shape()[1];
  if (weight.dim() != rank + 2)
    throw Error(fmt::format("{}: weight {} has {} dims; it must have {}, ({}, {} / groups, kernel)", op, weight.shape().str(), weight.dim(),
                            rank + 2, transposed ? "in" : "out", transposed ? "out" : "in"));
  if (!is_floating(weight.dtype())) throw Error(fmt::format("{}: weight has dtype {}; it must be floating", op, name_of(weight.dtype())));
  const int64_t wanted = transposed ? weight.shape()[0] : weight.shape()[1] * groups;
  if (channels != wanted)
    throw Error(fmt::format("{}: x {} has {} channels, and weight {} with groups = {} is for {}", op, x.shape().str(), channels,
                            weight.shape().str(), groups, wanted));
  if (weight.shape()[0] % groups)
    throw Error(
        fmt::format("{}: groups {} does not divide the {} channels of weight {}", op, groups, weight.shape()[0], weight.shape().str()));
  const int64_t outputs = transposed ? weight.shape()[1] * groups : weight.shape()[0];
  if (bias && !(bias.shape() == Shape{outputs}))
    throw Error(
        fmt::format("{}: bias {} does not fit weight {}; its shape must be [{}]", op, bias.shape().str(), weight.shape().str(), outputs));
}
// A window over two dims of space. Throws Error for numbers below what makes sense and a window that does not fit.
inline WindowArgs window_2d(const char* op, const int64_t (&size)[2], const PerDim& kernel, const UnfoldOptions& options) {
  WindowArgs w = unit_window();
  for (int d = 0; d < 2; ++d) {
    w.in[1 + d] = checked(op, "size", size[d], 1), w.kernel[1 + d] = checked(op, "kernel size", kernel.at(d, 2, op, "kernel_size"), 1);
    w.stride[1 + d] = checked(op, "stride", options.stride.at(d, 2, op, "stride"), 1);
    w.dilation[1 + d] = checked(op, "dilation", options.dilation.at(d, 2, op, "dilation"), 1);
    w.padding[1 + d] = checked(op, "padding", options.padding.at(d, 2, op, "padding"), 0);
    const int64_t padded = size[d] + 2 * w.padding[1 + d], reach = w.dilation[1 + d] * (w.kernel[1 + d] - 1) + 1;
    if (padded < reach)
      throw Error(fmt::format("{}: a kernel of {} with dilation {} reaches over {} and does not fit a size of {} with padding {}", op,
                              w.kernel[1 + d], w.dilation[1 + d], reach, size[d], w.padding[1 + d]));
    w.out[1 + d] = (padded - reach) / w.stride[1 + d] + 1;
  }
  return w;
}

}  // namespace
}  // namespace retape
