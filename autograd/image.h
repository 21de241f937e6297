// What ops on images share: shapes (N, C, sizes of space...) and the windows that move over them. Private to autograd's sources.
#pragma once
#include <fmt/format.h>

#include <retape/autograd/check.h>
#include <retape/autograd/convolution.h>
#include <retape/autograd/reach.h>
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

/// An interval, within [0, size) if so asked, without the ends of which `takes_part` is not true: a dilated window has holes.
template <class F> Interval trimmed(Interval i, bool within, int64_t size, F&& takes_part) {
  if (within) i = {std::max<int64_t>(i.begin, 0), std::min(i.end, size)};
  while (i.begin < i.end && !takes_part(i.begin)) ++i.begin;
  while (i.begin < i.end && !takes_part(i.end - 1)) --i.end;
  return i;
}
/// The box of x (N, C, in) of which windows (N, O, out) in the box are made, of all channels or only of their own.
inline Intervals seen_by_windows(const Reach& r, int rank, const WindowArgs& w, bool all_channels) {
  Intervals box = r.box;
  if (all_channels) box[1] = {0, r.in[1]};
  for (int d = 0; d < rank; ++d) {
    const int at = 3 - rank + d;
    const Interval o = box[size_t(2 + d)];
    const int64_t kernel = w.kernel[at], stride = w.stride[at], padding = w.padding[at], dilation = w.dilation[at];
    if (kernel == 0) {
      box[size_t(2 + d)] = {detail::floor_div(o.begin * w.in[at], w.out[at]), detail::ceil_div(o.end * w.in[at], w.out[at])};
      continue;
    }
    box[size_t(2 + d)] = trimmed({o.begin * stride - padding, (o.end - 1) * stride - padding + (kernel - 1) * dilation + 1}, r.within,
                                 w.in[at], [&](int64_t i) {
                                   for (int64_t k = 0; k < kernel; ++k) {
                                     const int64_t start = i + padding - k * dilation;  // of the window whose element k this is
                                     if (start % stride == 0 && start >= o.begin * stride && start < o.end * stride) return true;
                                   }
                                   return false;
                                 });
  }
  return box;
}
/// The reverse: the windows (N, O, out) that have the places (N, C, in) in the box.
inline Intervals seen_by_places(const Reach& r, int rank, const WindowArgs& w) {
  Intervals box = r.box;
  box[1] = {0, r.in[1]};
  for (int d = 0; d < rank; ++d) {
    const int at = 3 - rank + d;
    const Interval i = box[size_t(2 + d)];
    const int64_t kernel = w.kernel[at], stride = w.stride[at], padding = w.padding[at], dilation = w.dilation[at];
    box[size_t(2 + d)] =
        trimmed({detail::ceil_div(i.begin + padding - (kernel - 1) * dilation, stride), detail::floor_div(i.end - 1 + padding, stride) + 1},
                r.within, w.out[at], [&](int64_t o) {
                  for (int64_t k = 0; k < kernel; ++k)
                    if (const int64_t place = o * stride - padding + k * dilation; place >= i.begin && place < i.end) return true;
                  return false;
                });
  }
  return box;
}

}  // namespace
}  // namespace retape
