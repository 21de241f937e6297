// What ops on images share: shapes (N, C, sizes of space...) and the windows that move over them. Private to autograd's sources.
#pragma once
#include <fmt/format.h>

#include <retape/autograd/check.h>
#include <retape/autograd/convolution.h>
#include <retape/autograd/views.h>
#include <retape/core/kernel_args.h>

namespace retape {
namespace {

/// (N, C, space) as (N, space, C), which is contiguous if x lies channels-last.
inline Tensor channels_behind(const Tensor& x) {
  Shape order{0};
  for (int d = 2; d < x.dim(); ++d) order.push_back(d);
  order.push_back(1);
  return permute(x, order);
}
inline Tensor dense_channels_behind(const Tensor& x) { return channels_behind(contiguous(x, MemoryFormat::channels_last)); }

inline WindowArgs unit_window() {
  WindowArgs w;
  for (int d = 0; d < 3; ++d) w.in[d] = w.out[d] = w.kernel[d] = w.stride[d] = w.dilation[d] = 1, w.padding[d] = 0;
  return w;
}
/// (N, C, size of space in the window's last dims)
inline Shape image_shape(int64_t batch, int64_t channels, int rank, const int64_t (&size)[3]) {
  Shape shape{batch, channels};
  for (int d = 3 - rank; d < 3; ++d) shape.push_back(size[d]);
  return shape;
}
/// Throws Error unless x is a floating (N, C, space) or (C, space) with `rank` dims of space; then calls f with the former.
template <class F> Tensor with_batch(const char* op, const Tensor& x, int rank, F&& f) {
  check_defined(op, x);
  if (x.dim() != rank + 1 && x.dim() != rank + 2)
    throw Error(fmt::format("{}: x of shape {} has {} dims; it must have {}, (N, C, {}), or {} without N", op, x.shape().str(), x.dim(),
                            rank + 2,
                            rank == 1   ? "L"
                            : rank == 2 ? "H, W"
                                        : "D, H, W",
                            rank + 1));
  if (!is_floating(x.dtype())) throw Error(fmt::format("{}: x has dtype {}; it must be floating, use cast()", op, name_of(x.dtype())));
  return x.dim() == rank + 2 ? f(x) : squeeze(f(unsqueeze(x, 0)), 0);
}
/// Throws Error unless the number is at least `least`.
inline int64_t checked(const char* op, const char* what, int64_t value, int64_t least) {
  if (value < least) throw Error(fmt::format("{}: {} {} is not valid; it must be at least {}", op, what, value, least));
  return value;
}

}  // namespace
}  // namespace retape
