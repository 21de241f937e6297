// Which places of an image a window has, and which windows a place is in. For kernel files of every backend.
#pragma once
#include <retape/core/kernel_args.h>

namespace retape::RETAPE_LEVEL {

struct Range {
  int64_t begin, end;
};
RETAPE_HD int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
RETAPE_HD int64_t larger(int64_t a, int64_t b) { return a < b ? b : a; }

// Of window o in dim d: the numbers k of its elements that are inside the image, at place(w, d, o, k).
RETAPE_HD Range elements_inside(const WindowArgs& w, int d, int64_t o) {
  if (w.kernel[d] == 0) return {0, ((o + 1) * w.in[d] + w.out[d] - 1) / w.out[d] - o * w.in[d] / w.out[d]};
  const int64_t start = o * w.stride[d] - w.padding[d], step = w.dilation[d];
  return {start < 0 ? (-start + step - 1) / step : 0, start >= w.in[d] ? 0 : smaller(w.kernel[d], (w.in[d] - start + step - 1) / step)};
}
RETAPE_HD int64_t place(const WindowArgs& w, int d, int64_t o, int64_t k) {
  return w.kernel[d] == 0 ? o * w.in[d] / w.out[d] + k : o * w.stride[d] - w.padding[d] + k * w.dilation[d];
}

RETAPE_HD int64_t window_size(const WindowArgs& w, int d) { return w.kernel[d] ? w.kernel[d] : (w.in[d] + w.out[d] - 1) / w.out[d] + 1; }
// How far apart the elements of a window are.
RETAPE_HD int64_t step_of(const WindowArgs& w, int d) { return w.kernel[d] == 0 ? 1 : w.dilation[d]; }

// The windows that place i of dim d may be in, and whether window o has it; its element is then (i + padding - o stride) / dilation.
RETAPE_HD Range windows_around(const WindowArgs& w, int d, int64_t i) {
  if (w.kernel[d] == 0) return {i * w.out[d] / w.in[d], ((i + 1) * w.out[d] + w.in[d] - 1) / w.in[d]};
  const int64_t last = i + w.padding[d], first = last - (w.kernel[d] - 1) * w.dilation[d];
  return {first <= 0 ? 0 : (first + w.stride[d] - 1) / w.stride[d], smaller(w.out[d], last / w.stride[d] + 1)};
}
RETAPE_HD bool has_place(const WindowArgs& w, int d, int64_t o, int64_t i) {
  return w.kernel[d] == 0 || w.dilation[d] == 1 || (i + w.padding[d] - o * w.stride[d]) % w.dilation[d] == 0;
}

// The number of element (a, b, c) of a window; windows of varying size count as the largest.
RETAPE_HD int64_t number_of(const WindowArgs& w, int64_t a, int64_t b, int64_t c) {
  return (a * window_size(w, 1) + b) * window_size(w, 2) + c;
}

// How many elements of window o in dim d count for a mean.
RETAPE_HD int64_t counted(const WindowArgs& w, const AvgPoolArgs& args, int d, int64_t o) {
  const Range inside = elements_inside(w, d, o);
  const int64_t start = o * w.stride[d] - w.padding[d];
  return args.count_padding && w.kernel[d] ? smaller(start + w.kernel[d], w.in[d] + w.padding[d]) - start : inside.end - inside.begin;
}

}  // namespace retape::RETAPE_LEVEL
