// What of an op's inputs its outputs depend on, as boxes of elements; nn::receptive_field follows them through the tape.
//
// An op says it by `static constexpr bool elementwise = true` (inputs may be broadcast), or by a member `Intervals reach(const Reach& r) const`. From any
// other op on, everything depends on everything.
#pragma once
#include <vector>

#include <retape/core/tensor.h>

namespace retape {

/// Half-open. What lies outside of a tensor, in its padding, takes part, so that sizes do not end at borders.
struct Interval {
  int64_t begin = 0, end = 0;
  bool empty() const { return begin >= end; }
  bool operator==(const Interval&) const = default;
};
/// A box of elements: one interval a dim.
using Intervals = std::vector<Interval>;

/// A box of an op's output number `output`, and the shapes of it and of input number `input`, whose box is asked for.
struct Reach {
  int input, output;
  const Intervals& box;
  const Shape &in, &out;
  bool within = false;  // elements outside of a tensor do not take part
};

namespace detail {
// a / b for b > 0, rounded down, and up.
inline int64_t floor_div(int64_t a, int64_t b) { return a / b - int64_t(a % b < 0); }
inline int64_t ceil_div(int64_t a, int64_t b) { return -floor_div(-a, b); }
}  // namespace detail

/// All of a tensor.
Intervals all_elements(const Shape& shape);
/// The box itself, for an input that may have been broadcast.
Intervals same_elements(const Reach& r);
/// same_elements(), but all of dim d, counted from the end if it is negative.
Intervals all_of_dim(const Reach& r, int d);
/// Of a reshaped input: dims whose sizes have equal products are one group, in which elements are counted through.
Intervals reshaped_elements(const Reach& r);

/// What of x the elements of y in a box depend on; empty if nothing does. With `within`, elements outside of a tensor do not take part.
/// y must have been recorded from x, a leaf that wants its gradient.
Intervals reached_elements(const Tensor& y, const Intervals& box, const Tensor& x, bool within);

}  // namespace retape
