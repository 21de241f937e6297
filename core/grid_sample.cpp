// Images read at positions of a grid. Channels lie side by side: a position's places are rows, of which it takes a weighted sum.
#include <retape/core/grid_sample.h>
#include <retape/core/weighted_sum.h>

namespace retape::RETAPE_LEVEL {

void grid_sample(const GridSampleArgs& args, const Tensor& x, const Tensor& grid, Tensor& y) {
  const int64_t channels = x.shape()[-1], points = args.places_out();
  const int rank = int(grid.shape()[-1]);
  with_floating("grid_sample", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    const T *const in = x.data<T>(), *const positions = grid.data<T>();
    T* const out = y.mutable_data<T>();
    parallel_for(x.shape()[0] * points, row_grain((channels + 16) * 4), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        GridTaps<C> taps[3];
        grid_taps(args, rank, positions + r * rank, taps);
        const T* const image = in + r / points * args.places_in() * channels;
        const T* rows[most_grid_taps];
        C weights[most_grid_taps];
        int n = 0;
        for_taps(args, taps, [&](int64_t place, int i, int j, int k) {
          rows[n] = image + place * channels;
          weights[n++] = taps[0].weight[i] * taps[1].weight[j] * taps[2].weight[k];
        });
        weighted_sum<C>(
            n, [&](int64_t k) { return rows[k]; }, [&](int64_t k) { return weights[k]; }, channels, out + r * channels);
      }
    });
  });
}

namespace {

// dgrid (N, points, rank): how y changes with a position is a sum over channels and taps.
template <class T>
RETAPE_INLINE void grid_gradient(const GridSampleArgs& args, const Tensor& dy, const Tensor& x, const Tensor& grid, Tensor& dgrid) {
  using C = compute_t<T>;
  const int64_t channels = x.shape()[-1], points = args.places_out();
  const int rank = int(grid.shape()[-1]);
  const T *const grad = dy.data<T>(), *const in = x.data<T>(), *const positions = grid.data<T>();
  T* const out = dgrid.mutable_data<T>();
  parallel_for(x.shape()[0] * points, row_grain((channels + 16) * 4), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      GridTaps<C> taps[3];
      grid_taps(args, rank, positions + r * rank, taps);
      const T *const image = in + r / points * args.places_in() * channels, *const d = grad + r * channels;
      C sum[3] = {};
      for_taps(args, taps, [&](int64_t place, int i, int j, int k) {
        const T* const row = image + place * channels;
        C dot = 0;
#pragma omp simd reduction(+ : dot)
        for (int64_t c = 0; c < channels; ++c) dot += C(d[c]) * C(row[c]);
        sum[0] += dot * taps[0].weight[i] * taps[1].weight[j] * taps[2].slope[k];
        sum[1] += dot * taps[0].weight[i] * taps[1].slope[j] * taps[2].weight[k];
        sum[2] += dot * taps[0].slope[i] * taps[1].weight[j] * taps[2].weight[k];
      });
      for (int k = 0; k < rank; ++k) out[r * rank + k] = T(sum[k]);
    }
  });
}

// dx (N, places, C): several positions may have read one place, so a task has all positions of an image, in order, and a block of its
// channels.
template <class T> RETAPE_INLINE void image_gradient(const GridSampleArgs& args, const Tensor& dy, const Tensor& grid, Tensor& dx) {
  using C = compute_t<T>;
  const int64_t batch = dx.shape()[0], channels = dx.shape()[-1], points = args.places_out(), places = args.places_in();
  const int rank = int(grid.shape()[-1]);
  const int64_t block = batch >= 16 ? 256 : 16, blocks = (channels + block - 1) / block;
  const T *const grad = dy.data<T>(), *const positions = grid.data<T>();
  T* const out = dx.mutable_data<T>();
  parallel_for(batch * blocks, 1, [&](int64_t task, int64_t) {
    const int64_t n = task / blocks, from = task % blocks * block, width = min_of(block, channels - from);
    constexpr bool rounds = !std::is_same_v<T, C>;  // sums of half types are made elsewhere
    const Scratch<C> other(rounds ? places * width : 0);
    C* const sums = rounds ? static_cast<C*>(other) : reinterpret_cast<C*>(out + n * places * channels + from);
    const int64_t row = rounds ? width : channels;
    for (int64_t p = 0; p < places; ++p)
      for (int64_t c = 0; c < width; ++c) sums[p * row + c] = 0;
    for (int64_t o = 0; o < points; ++o) {
      GridTaps<C> taps[3];
      grid_taps(args, rank, positions + (n * points + o) * rank, taps);
      const T* const d = grad + (n * points + o) * channels + from;
      for_taps(args, taps, [&](int64_t place, int i, int j, int k) {
        const C weight = taps[0].weight[i] * taps[1].weight[j] * taps[2].weight[k];
        C* const to = sums + place * row;
#pragma omp simd
        for (int64_t c = 0; c < width; ++c) to[c] += weight * C(d[c]);
      });
    }
    if constexpr (rounds)
      for (int64_t p = 0; p < places; ++p)
        for (int64_t c = 0; c < width; ++c) put(out[(n * places + p) * channels + from + c], sums[p * row + c]);
  });
}

}  // namespace

void grid_sample_backward(const GridSampleArgs& args, const Tensor& dy, const Tensor& x, const Tensor& grid, Tensor& dx, Tensor& dgrid) {
  with_floating("grid_sample_backward", dy.dtype(), [&](auto zero) {
    using T = decltype(zero);
    if (dx) image_gradient<T>(args, dy, grid, dx);
    if (dgrid) grid_gradient<T>(args, dy, x, grid, dgrid);
  });
}

}  // namespace retape::RETAPE_LEVEL
