// Samples become the columns of a convolution (autograd/columns.h), which backward makes again rather than keeping them.
#include <retape/autograd/deform_conv.h>

#include <retape/autograd/columns.h>
#include <retape/autograd/reduce.h>
#include <retape/autograd/tape.h>

namespace retape {
namespace {

constexpr auto op = "deform_conv2d";

[[noreturn]] void throw_no_second_derivative() { throw Error("deform_conv2d: second derivatives are not provided"); }

Deformation deformation_of(const Tensor& offset, const Tensor& mask) {
  return {dense_channels_behind(offset), mask ? dense_channels_behind(mask) : Tensor{}};
}

// Gradients of x, offset and mask, of those that are wanted.
struct DeformableInput {
  static constexpr auto name = "deform_conv2d_backward_input";
  static constexpr bool expensive = true;
  Geometry g;
  bool wants[3];
  std::array<Tensor, 3> forward(const Tensor& dy, const Tensor& x, const Tensor& offset, const Tensor& mask, const Tensor& weight) {
    const Tensor* const inputs[] = {&x, &offset, &mask};
    std::array<Tensor, 3> grads, out;
    for (size_t i = 0; i < 3; ++i) {
      if (!wants[i]) continue;
      grads[i] = empty(inputs[i]->shape(), x.options(), MemoryFormat::channels_last);
      out[i] = channels_behind(grads[i]);
    }
    if (x.device().is_meta()) return grads;
    const Tensor image = dense_channels_behind(x), d = dense_channels_behind(dy);
    const Deformation deformation = deformation_of(offset, mask);
    const Columns c(g, image, d, &deformation);
    for_column_gradients(
        c, d, contiguous(weight), [&](int64_t, int64_t count) { return c.make_empty(count); },
        [&](int64_t n, int64_t count, const Tensor& columns) {
          const Deformation at = deformation.images(n, count);
          const auto part = [&](size_t i) { return out[i] ? narrow(out[i], 0, n, count) : Tensor{}; };
          Tensor dx = part(0), doffset = part(1), dmask = part(2);
          RETAPE_DISPATCH(x.device(), deformable_columns_backward(g.window, g.groups, columns, narrow(image, 0, n, count), at.offset,
                                                                  at.mask, dx, doffset, dmask));
        });
    return grads;
  }
  void backward(const std::vector<Tensor>&, Grads&) { throw_no_second_derivative(); }
};
struct DeformableWeight {
  static constexpr auto name = "deform_conv2d_backward_weight";
  static constexpr bool expensive = true;
  Geometry g;
  Tensor forward(const Tensor& dy, const Tensor& x, const Tensor& offset, const Tensor& mask) {
    const Shape shape = image_shape(dy.shape()[1], x.shape()[1] / g.groups, 2, g.window.kernel);
    if (x.device().is_meta()) return empty(shape, x.options());
    const Tensor image = dense_channels_behind(x), d = dense_channels_behind(dy);
    const Deformation deformation = deformation_of(offset, mask);
    return weight_by_columns(Columns(g, image, d, &deformation), d, image, shape);
  }
  void backward(const Tensor&, Grads&) { throw_no_second_derivative(); }
};
struct DeformableConvolution {
  static constexpr auto name = op;
  static constexpr bool expensive = true;
  static constexpr auto precision = Precision::full;
  Geometry g;
  Saved x = {}, offset = {}, mask = {}, weight = {};
  Tensor forward(const Tensor& in, const Tensor& by, const Tensor& share, const Tensor& w, const Tensor& bias) {
    x = save(in), offset = save(by), mask = save(share), weight = save(w);
    Tensor out = empty(image_shape(in.shape()[0], w.shape()[0], 2, g.window.out), in.options(), MemoryFormat::channels_last);
    if (out.numel() == 0 || in.device().is_meta()) return out;
    const Tensor image = dense_channels_behind(in), y = channels_behind(out);
    const Deformation deformation = deformation_of(by, share);
    forward_by_columns(Columns(g, image, y, &deformation), image, contiguous(w), bias ? contiguous(bias) : bias, y);
    return out;
  }
  void backward(const Tensor& dy, Grads& dx) {
    if (dx.wants(0) || dx.wants(1) || dx.wants(2)) {
      const auto grads = record(DeformableInput{g, {dx.wants(0), dx.wants(1), dx.wants(2)}}, dy, *x, *offset, *mask, *weight);
      for (int i = 0; i < 3; ++i)
        if (dx.wants(i)) dx.set(i, grads[size_t(i)]);
    }
    if (dx.wants(3)) dx.set(3, record(DeformableWeight{g}, dy, *x, *offset, *mask));
    if (dx.wants(4)) dx.set(4, sum(dy, {0, 2, 3}));
  }
};

// offset or mask of `each` numbers an element of the kernel: in how many groups the channels are
int64_t groups_of(const char* what, const Tensor& t, int64_t each, const Tensor& x, const WindowArgs& w) {
  check_defined(op, t);
  if (!is_floating(t.dtype())) throw Error(fmt::format("{}: {} has dtype {}; it must be floating", op, what, name_of(t.dtype())));
  const int64_t numbers = each * w.elements(), batch = x.shape()[0];
  if (t.dim() != 4 || t.shape()[0] != batch || t.shape()[1] == 0 || t.shape()[1] % numbers || t.shape()[2] != w.out[1] ||
      t.shape()[3] != w.out[2])
    throw Error(fmt::format("{}: {} {} does not fit x {} and a kernel of {} x {}; it must be ({}, offset groups * {}, {}, {})", op, what,
                            t.shape().str(), x.shape().str(), w.kernel[1], w.kernel[2], batch, numbers, w.out[1], w.out[2]));
  return t.shape()[1] / numbers;
}

}  // namespace

Tensor deform_conv2d(const Tensor& x, const Tensor& offset, const Tensor& weight, const Tensor& bias, const DeformConvParams& params,
                     const Tensor& mask) {
  if (autocasting())
    return under_autocast(
        DeformableConvolution::precision,
        [&](const Tensor& in, const Tensor& by, const Tensor& w, const Tensor& b, const Tensor& share) {
          return deform_conv2d(in, by, w, b, params, share);
        },
        x, offset, weight, bias, mask);
  for (const Tensor* t : {&x, &offset, &weight}) check_defined(op, *t);
  check_one_device(op, x, offset, weight, bias, mask);
  if (x.dim() != 4) throw Error(fmt::format("{}: x of shape {} has {} dims; it must have 4, (N, C, H, W)", op, x.shape().str(), x.dim()));
  if (!is_floating(x.dtype())) throw Error(fmt::format("{}: x has dtype {}; it must be floating, use cast()", op, name_of(x.dtype())));
  const int64_t channels = x.shape()[1];
  if (weight.dim() != 4 || weight.shape()[1] < 1 || channels < 1 || channels % weight.shape()[1])
    throw Error(fmt::format("{}: weight {} does not fit x {}; it must be (out, {} / groups, kernel)", op, weight.shape().str(),
                            x.shape().str(), channels));
  Geometry g{2, channels / weight.shape()[1],
             window_2d(op, {x.shape()[2], x.shape()[3]}, {weight.shape()[2], weight.shape()[3]},
                       {.dilation = params.dilation, .padding = params.padding, .stride = params.stride})};
  check_weight(op, 2, x, weight, bias, g.groups, false);
  const int64_t offset_groups = groups_of("offset", offset, 2, x, g.window);
  if (channels % offset_groups)
    throw Error(fmt::format("{}: offset {} has {} groups, which do not divide the {} channels of x {}", op, offset.shape().str(),
                            offset_groups, channels, x.shape().str()));
  if (mask && groups_of("mask", mask, 1, x, g.window) != offset_groups)
    throw Error(fmt::format("{}: mask {} is for {} groups of channels, and offset {} for {}", op, mask.shape().str(),
                            groups_of("mask", mask, 1, x, g.window), offset.shape().str(), offset_groups));
  DType dtype = promote(promote(x.dtype(), offset.dtype()), weight.dtype());
  for (const Tensor* t : {&bias, &mask})
    if (*t) dtype = promote(dtype, t->dtype());
  const auto as_dtype = [&](const Tensor& t) { return t ? cast(t, dtype) : t; };
  return record(DeformableConvolution{g}, as_dtype(x), as_dtype(offset), as_dtype(mask), as_dtype(weight), as_dtype(bias));
}

}  // namespace retape
