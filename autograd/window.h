// A window of a tensor: in every dim, `length` elements from `start` in steps of `step`, which may be negative. Slices read a window;
// padding writes one into a constant; Tensor::put() writes one into a copy. Internal.
#pragma once
#include <retape/core/tensor.h>

namespace retape::detail {

struct Window {
  Shape start, length, step;
  static Window whole(const Shape& shape) { return {Shape::filled(shape.rank(), 0), shape, Shape::filled(shape.rank(), 1)}; }
  /// This window with another extent in dim d.
  Window with(int d, int64_t first, int64_t n, int64_t stride = 1) const {
    Window w = *this;
    w.start[d] = first, w.length[d] = n, w.step[d] = stride;
    return w;
  }
};

/// The window's elements: a view, or a copy where a step is negative. Recorded, as are the others; `name` is for errors.
Tensor read_window(const char* name, const Tensor& x, const Window& window);
/// A tensor of shape `to` filled with `fill` except for the window, which holds x.
Tensor frame_window(const char* name, const Tensor& x, const Window& window, const Shape& to, double fill);
/// x with the window's elements replaced by value (of the window's shape and x's dtype), or with value added to them.
Tensor write_window(const char* name, const Tensor& x, const Window& window, const Tensor& value, bool accumulate);

}  // namespace retape::detail
