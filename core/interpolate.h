// The places of an image that a place of an interpolated one is made of, dim by dim. For kernel files of every backend.
#pragma once
#include <cmath>
#include <type_traits>

#include <retape/core/kernel_args.h>

namespace retape::RETAPE_LEVEL {

// Places of a dim and what each counts for. Neither place falls as the result's place rises.
template <class C> struct Taps {
  int64_t place[4];
  C weight[4];
};
// A dim of one place has one tap whatever the kind is.
RETAPE_HD int taps_of(const InterpolateArgs& args, int d) {
  return args.in[d] == 1 || args.kind <= InterpolationKind::nearest_exact ? 1 : args.kind == InterpolationKind::linear ? 2 : 4;
}

// Which place is nearest depends on roundings. These are PyTorch's: everything in the images' own precision, but what is cut to an integer
// in f32.
template <class C> RETAPE_HD int64_t nearest_place(const InterpolateArgs& args, int d, int64_t o) {
  const C scale = C(args.scale[d]);
  float source;
  if (args.kind == InterpolationKind::nearest) source = float(C(o) * scale);
  else source = float(double(C(double(scale) * (double(o) + 0.5) - 0.5)) + 0.5);
  const int64_t place = int64_t(source);
  return place < args.in[d] ? place : args.in[d] - 1;
}

// Keys 1987, with a = -0.75: what neighbours at distances 1 + t, t, 1 - t and 2 - t count for.
template <class C> RETAPE_HD void cubic_weights(C t, C (&weight)[4]) {
  constexpr C a = C(-0.75);
  const auto near = [](C u) { return ((a + 2) * u - (a + 3)) * u * u + 1; };
  const auto far = [](C u) { return ((a * u - 5 * a) * u + 8 * a) * u - 4 * a; };
  weight[0] = far(t + 1), weight[1] = near(t), weight[2] = near(1 - t), weight[3] = far(2 - t);
}

template <class C> RETAPE_HD Taps<C> taps_at(const InterpolateArgs& args, int d, int64_t o) {
  const int64_t last = args.in[d] - 1;
  Taps<C> taps{{0, 0, 0, 0}, {1, 0, 0, 0}};
  if (last == 0) return taps;
  if (args.kind <= InterpolationKind::nearest_exact) {
    taps.place[0] = nearest_place<C>(args, d, o);
    return taps;
  }
  const double scale = args.scale[d];
  double source = args.align_corners ? scale * double(o) : scale * (double(o) + 0.5) - 0.5;
  if (args.kind == InterpolationKind::linear) {
    if (args.in[d] == args.out[d]) source = double(o);
    if (source < 0) source = 0;
    const int64_t low = source < double(last) ? int64_t(source) : last;
    const double share = source - double(low) < 1 ? source - double(low) : 1;
    taps.place[0] = low, taps.place[1] = low < last ? low + 1 : last;
    taps.weight[0] = C(1 - share), taps.weight[1] = C(share);
    return taps;
  }
  const double whole = std::floor(source);
  const int64_t low = whole < double(last) ? int64_t(whole) : last;
  const double share = source - double(low) < 1 ? source - double(low) : 1;
  double weight[4];
  cubic_weights(share, weight);
  for (int k = 0; k < 4; ++k) {
    const int64_t place = low + k - 1;
    taps.place[k] = place < 0 ? 0 : place < last ? place : last;
    taps.weight[k] = C(weight[k]);
  }
  return taps;
}

}  // namespace retape::RETAPE_LEVEL
