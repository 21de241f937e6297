// Which pixels the bins of a region have, in each of the two dims. For kernel files of every backend.
#pragma once
#include <math.h>

#include <retape/core/windows.h>

namespace retape::RETAPE_LEVEL {

// The weights of the pixels of a bin in one dim: those of [begin, end) of `weight`, which is as long as the image.
template <class C> struct BinWeights {
  C* weight;
  Range range = {0, 0};
  RETAPE_HD explicit BinWeights(C* weight) : weight(weight) {}
  RETAPE_HD void add(int64_t place, C w) {
    if (range.begin == range.end) range = {place, place};
    while (range.begin > place) weight[--range.begin] = 0;
    while (range.end <= place) weight[range.end++] = 0;
    weight[place] += w;
  }
};

// A coordinate as the number of a pixel; of those that no image has, one that none has either.
template <class C> RETAPE_HD int64_t nearest_pixel(C v) {
  const double most = 1e12, r = ::round(double(v));
  return r >= most ? int64_t(most) : r > -most ? int64_t(r) : -int64_t(most);
}
// Bin b of `bins` in dim d of a region of whole pixels that begins at `start` and has `size` of them, cut to [0, most].
template <class C> RETAPE_HD Range bin_pixels(int64_t start, int64_t size, int64_t b, int64_t bins, int64_t most) {
  const C bin = C(size) / C(bins);
  const auto cut = [&](double v) { return smaller(larger(int64_t(v) + start, 0), most); };
  const Range r{cut(::floor(double(C(b) * bin))), cut(::ceil(double(C(b + 1) * bin)))};
  return r.begin < r.end ? r : Range{0, 0};
}
// For the largest element: a region has its last pixel, and at least one.
template <class C> RETAPE_HD Range max_bin(const RegionArgs& args, int d, C low, C high, int64_t b) {
  const int64_t start = nearest_pixel(low * C(args.scale)), end = nearest_pixel(high * C(args.scale));
  return bin_pixels<C>(start, larger(end - start + 1, 1), b, args.out[d], args.in[d]);
}

// Weights for the mean of bin b in dim d of a region from `low` to `high`; `weight` has room for args.in[d] of them.
template <class C> RETAPE_HD Range mean_bin(const RegionArgs& args, int d, C low, C high, int64_t b, C* weight) {
  BinWeights<C> bin(weight);
  const int64_t size = args.in[d];
  if (size == 0) return bin.range;
  if (args.whole_pixels && low == low && high == high) {
    const int64_t first = nearest_pixel(low * C(args.scale)), last = nearest_pixel(high * C(args.scale));
    const Range r = bin_pixels<C>(first, larger(last - first, 1), b, args.out[d], size - 1);
    for (int64_t i = r.begin; i < r.end; ++i) bin.add(i, C(1) / C(r.end - r.begin));
    return bin.range;
  }
  const C start = low * C(args.scale) - C(args.aligned ? 0.5 : 0), end = high * C(args.scale) - C(args.aligned ? 0.5 : 0);
  C length = end - start;
  if (!args.aligned && length < 1) length = 1;
  const C step = length / C(args.out[d]), samples = args.ratio > 0 ? C(args.ratio) : C(::ceil(double(step)));
  if (!(start - start == 0 && length - length == 0 && samples <= C(1 << 24))) {
    bin.add(0, start - start + (end - end) + C(INFINITY) - C(INFINITY));
    return bin.range;
  }
  // Only samples near the image are looked at: of a large region there may be millions.
  C from = 0, to = samples;
  if (const C apart = step / samples; samples > 0 && apart > 0) {
    const C origin = start + C(b) * step;
    const C before = C(::floor(double((C(-1) - origin) / apart))) - 2, behind = C(::ceil(double((C(size) - origin) / apart))) + 2;
    from = before > from ? before : from;
    to = behind < to ? behind : to;
  }
  if (!(from < to)) return bin.range;
  for (int64_t i = int64_t(from), last = int64_t(to); i < last; ++i) {
    C v = start + C(b) * step + (C(i) + C(0.5)) * step / samples;
    if (!(v >= -1 && v <= C(size))) continue;
    v = v > 0 ? v : C(0);
    const int64_t place = int64_t(v);
    if (place >= size - 1) {
      bin.add(size - 1, 1 / samples);
      continue;
    }
    bin.add(place, (C(1) - (v - C(place))) / samples);
    bin.add(place + 1, (v - C(place)) / samples);
  }
  return bin.range;
}

}  // namespace retape::RETAPE_LEVEL
