// Which places of an image a position reads, dim by dim, and what each counts for. For kernel files of every backend. PyTorch's arithmetic:
// everything in the compute type, so that positions fall between the same places.
#pragma once
#include <retape/core/interpolate.h>

namespace retape::RETAPE_LEVEL {

// A place of -1 is outside and counts as 0. slope is what a weight gains as the position, from -1 to 1, grows.
template <class C> struct GridTaps {
  int count;
  int64_t place[4];
  C weight[4], slope[4];
};
template <class C> struct Moved { C to, slope; };
// A position among the places 0 ... size - 1.
template <class C> RETAPE_HD Moved<C> unnormalized(const GridSampleArgs& args, int64_t size, C position) {
  if (args.align_corners) return {(position + 1) / 2 * C(size - 1), C(size - 1) / 2};
  return {((position + 1) * C(size) - 1) / 2, C(size) / 2};
}
// Inside of the image, unless zeros are around it. nan becomes 0.
template <class C> RETAPE_HD Moved<C> moved_inside(const GridSampleArgs& args, int64_t size, Moved<C> at) {
  if (args.padding == GridSamplePadding::zeros) return at;
  if (args.padding == GridSamplePadding::reflection) {
    const C low = args.align_corners ? C(0) : C(-0.5), span = args.align_corners ? C(size - 1) : C(size);
    if (span == 0) return {0, 0};
    C distance = at.to - low, slope = at.slope;
    if (distance < 0) distance = -distance, slope = -slope;
    const C beyond = std::fmod(distance, span);
    if (std::fmod(std::floor(distance / span), C(2)) == 0) at = {beyond + low, slope};
    else at = {span - beyond + low, -slope};
  }
  if (!(at.to > 0)) return {0, 0};
  if (at.to >= C(size - 1)) return {C(size - 1), 0};
  return at;
}
template <class C> RETAPE_HD int64_t place_inside(C at, int64_t size) { return at >= 0 && at <= C(size - 1) ? int64_t(at) : -1; }

template <class C> RETAPE_HD GridTaps<C> grid_taps(const GridSampleArgs& args, int d, C position) {
  const int64_t size = args.in[d];
  const Moved<C> whole = unnormalized(args, size, position);
  GridTaps<C> taps{};
  if (args.mode == GridSampleMode::bicubic) {
    const C low = std::floor(whole.to), t = whole.to - low, u[4] = {t + 1, t, 1 - t, 2 - t};
    constexpr C a = C(-0.75);
    const auto far = [](C v) { return (3 * a * v - 10 * a) * v + 8 * a; };
    const auto near = [](C v) { return (3 * (a + 2) * v - 2 * (a + 3)) * v; };
    const C slope[4] = {far(u[0]), near(u[1]), -near(u[2]), -far(u[3])};
    taps.count = 4;
    cubic_weights(t, taps.weight);
    for (int k = 0; k < 4; ++k) {
      taps.place[k] = place_inside(moved_inside(args, size, Moved<C>{low + C(k - 1), 1}).to, size);
      taps.slope[k] = slope[k] * whole.slope;
    }
    return taps;
  }
  const Moved<C> at = moved_inside(args, size, whole);
  if (args.mode == GridSampleMode::nearest) {
    taps.count = 1, taps.weight[0] = 1;
    taps.place[0] = place_inside(std::nearbyint(at.to), size);
    return taps;
  }
  const C low = std::floor(at.to), t = at.to - low;
  taps.count = 2;
  taps.place[0] = place_inside(low, size), taps.place[1] = place_inside(low + 1, size);
  taps.weight[0] = 1 - t, taps.weight[1] = t;
  taps.slope[0] = -at.slope, taps.slope[1] = at.slope;
  return taps;
}

// The taps of a position (rank) in all dims of space; a dim that is missing has one place.
template <class T> RETAPE_HD void grid_taps(const GridSampleArgs& args, int rank, const T* position, GridTaps<compute_t<T>> (&taps)[3]) {
  using C = compute_t<T>;
  for (int d = 0; d < 3; ++d) {
    if (d < 3 - rank) taps[d] = {1, {0}, {1}, {0}};
    else taps[d] = grid_taps<C>(args, d, C(position[2 - d]));
  }
}
// Calls f(place, i, j, k) for the taps inside of the image.
template <class C, class F> RETAPE_HD void for_taps(const GridSampleArgs& args, const GridTaps<C> (&taps)[3], const F& f) {
  for (int i = 0; i < taps[0].count; ++i)
    for (int j = 0; j < taps[1].count; ++j)
      for (int k = 0; k < taps[2].count; ++k) {
        const int64_t a = taps[0].place[i], b = taps[1].place[j], c = taps[2].place[k];
        if (a >= 0 && b >= 0 && c >= 0) f((a * args.in[1] + b) * args.in[2] + c, i, j, k);
      }
}
constexpr int most_grid_taps = 16;

}  // namespace retape::RETAPE_LEVEL
