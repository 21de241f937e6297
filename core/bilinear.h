// Samples between the pixels of an image. For kernel files of every backend.
#pragma once
#include <retape/core/kernel_args.h>

namespace retape::RETAPE_LEVEL {

// The four pixels around a sample, row by row, pixels outside of the image counting as 0; the sample is `y` and `x` of the way from the first to
// the others.
template <class C> struct Bilinear {
  int64_t place[4];  // in an image laid flat; -1: outside
  C y = 0, x = 0;
  bool inside = false;  // whether there are pixels around it
  C unknown = 0;        // nan if a coordinate is, which is what the sample is then, and its derivatives

  RETAPE_HD C weight(int k) const { return (k < 2 ? C(1) - y : y) * (k % 2 ? x : C(1) - x); }
  // The derivatives of the sample, from the values of its pixels.
  RETAPE_HD C along_y(const C (&v)[4]) const { return (C(1) - x) * (v[2] - v[0]) + x * (v[3] - v[1]); }
  RETAPE_HD C along_x(const C (&v)[4]) const { return (C(1) - y) * (v[1] - v[0]) + y * (v[3] - v[2]); }
};

// The sample at row y, column x. Of one that lies on a border, the pixels there count for the derivatives.
template <class C> RETAPE_HD Bilinear<C> bilinear_at(C y, C x, int64_t height, int64_t width) {
  Bilinear<C> b;
  for (int k = 0; k < 4; ++k) b.place[k] = -1;
  if (y != y || x != x) b.unknown = y + x;
  if (!(y >= -1 && y < C(height) && x >= -1 && x < C(width))) return b;  // before a number becomes an integer that cannot hold it
  const auto floor_of = [](C v) {
    const int64_t i = int64_t(v);
    return C(i) > v ? i - 1 : i;
  };
  const int64_t i = floor_of(y), j = floor_of(x);
  b.y = y - C(i), b.x = x - C(j), b.inside = true;
  for (int k = 0; k < 4; ++k) {
    const int64_t row = i + k / 2, column = j + k % 2;
    if (row >= 0 && row < height && column >= 0 && column < width) b.place[k] = row * width + column;
  }
  return b;
}

}  // namespace retape::RETAPE_LEVEL
