// Images read at positions of a grid: a thread for every element that is written, and a warp for every gradient of a position. What
// positions add to the gradient of a place is sorted by place, and joined in the order of the positions.
#include <retape/cuda/launch.h>

#include <retape/core/grid_sample.h>
#include <retape/cuda/libraries/sort.h>

namespace retape::cuda {
namespace {

template <class T> __global__ void sample(GridSampleArgs args, int rank, int64_t channels, int64_t n, const T* x, const T* grid, T* y) {
  using C = compute_t<T>;
  for (int64_t t = thread_index(); t < n; t += thread_count()) {
    const int64_t point = t / channels, channel = t % channels;
    GridTaps<C> taps[3];
    grid_taps(args, rank, grid + point * rank, taps);
    const T* image = x + point / args.places_out() * args.places_in() * channels + channel;
    C sum = 0;
    for_taps(args, taps, [&](int64_t place, int i, int j, int k) {
      sum += taps[0].weight[i] * taps[1].weight[j] * taps[2].weight[k] * C(image[place * channels]);
    });
    y[t] = T(sum);
  }
}

// n counts positions; 32 threads each
template <class T>
__global__ void grid_gradient(GridSampleArgs args, int rank, int64_t channels, int64_t n, const T* dy, const T* x, const T* grid,
                              T* dgrid) {
  using C = compute_t<T>;
  const int lane = int(threadIdx.x % 32);
  for (int64_t point = thread_index() / 32; point < n; point += thread_count() / 32) {
    GridTaps<C> taps[3];
    grid_taps(args, rank, grid + point * rank, taps);
    const T *image = x + point / args.places_out() * args.places_in() * channels, *d = dy + point * channels;
    C sum[3] = {0, 0, 0};
    for_taps(args, taps, [&](int64_t place, int i, int j, int k) {
      C dot = 0;
      for (int64_t c = lane; c < channels; c += 32) dot += C(d[c]) * C(image[place * channels + c]);
      sum[0] += dot * taps[0].weight[i] * taps[1].weight[j] * taps[2].slope[k];
      sum[1] += dot * taps[0].weight[i] * taps[1].slope[j] * taps[2].weight[k];
      sum[2] += dot * taps[0].slope[i] * taps[1].weight[j] * taps[2].weight[k];
    });
    for (int k = 0; k < rank; ++k) {
      const C all = warp_reduce(sum[k], Plus{});
      if (lane == 0) dgrid[point * rank + k] = T(all);
    }
  }
}

// What positions [0, n) of some images add: `count` slots each, with the place of all these images, or `places` for none, and a weight.
template <class T, class K>
__global__ void find_places(GridSampleArgs args, int rank, int count, int64_t n, K places, const T* grid, K* place, uint32_t* order,
                            compute_t<T>* weight) {
  using C = compute_t<T>;
  for (int64_t point = thread_index(); point < n; point += thread_count()) {
    GridTaps<C> taps[3];
    grid_taps(args, rank, grid + point * rank, taps);
    const int64_t first = point * count;
    for (int64_t slot = first; slot < first + count; ++slot) place[slot] = places, order[slot] = uint32_t(slot), weight[slot] = 0;
    int64_t slot = first;
    for_taps(args, taps, [&](int64_t at, int i, int j, int k) {
      place[slot] = K(point / args.places_out() * args.places_in() + at);
      weight[slot++] = taps[0].weight[i] * taps[1].weight[j] * taps[2].weight[k];
    });
  }
}
// A thread for every slot and channel; those at the first slot of a place have all that goes there.
template <class T, class K>
__global__ void image_gradient(int count, int64_t channels, int64_t slots, K places, const K* place, const uint32_t* order,
                               const compute_t<T>* weight, const T* dy, T* dx) {
  using C = compute_t<T>;
  for (int64_t t = thread_index(); t < slots * channels; t += thread_count()) {
    const int64_t channel = t % channels;
    int64_t slot = t / channels;
    const K to = place[slot];
    if (to == places || (slot > 0 && place[slot - 1] == to)) continue;
    C sum = 0;
    for (; slot < slots && place[slot] == to; ++slot) {
      const int64_t from = order[slot];
      sum += weight[from] * C(dy[from / count * channels + channel]);
    }
    dx[int64_t(to) * channels + channel] = T(sum);
  }
}

template <class T, class K>
void add_images(const GridSampleArgs& args, int rank, int count, int64_t images, int64_t channels, const T* dy, const T* grid, T* dx) {
  const int64_t points = images * args.places_out(), slots = points * count;
  const K places = K(images * args.places_in());
  const Scratch<K> place(2 * slots);
  const Scratch<uint32_t> order(2 * slots);
  const Scratch<compute_t<T>> weight(slots);
  compute_t<T>* const weights = weight;
  library::Pairs<K> pairs{place, place + slots, order, order + slots};
  launch(find_places<T, K>, blocks_for(points), 256, 0, args, rank, count, points, places, grid, pairs.keys, pairs.values, weights);
  int bits = 1;
  while (bits < int(8 * sizeof(K)) && places >> bits) ++bits;
  library::sort(pairs, slots, bits);
  launch(image_gradient<T, K>, blocks_for(slots * channels), 256, 0, count, channels, slots, places, pairs.keys, pairs.values, weights, dy,
         dx);
}

}  // namespace

void grid_sample(const GridSampleArgs& args, const Tensor& x, const Tensor& grid, Tensor& y) {
  with_floating("grid_sample", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    launch(sample<T>, blocks_for(y.numel()), 256, 0, args, int(grid.shape()[-1]), x.shape()[-1], y.numel(), data<T>(x), data<T>(grid),
           data<T>(y));
  });
}

void grid_sample_backward(const GridSampleArgs& args, const Tensor& dy, const Tensor& x, const Tensor& grid, Tensor& dx, Tensor& dgrid) {
  const int rank = int(grid.shape()[-1]);
  const int64_t batch = x.shape()[0], channels = x.shape()[-1], points = args.places_out();
  with_floating("grid_sample_backward", dy.dtype(), [&](auto zero) {
    using T = decltype(zero);
    if (dgrid)
      launch(grid_gradient<T>, blocks_for(batch * points * 32), 256, 0, args, rank, channels, batch * points, data<T>(dy), data<T>(x),
             data<T>(grid), data<T>(dgrid));
    if (!dx || dx.numel() == 0) return;
    check(cudaMemsetAsync(data<T>(dx), 0, size_t(dx.numel()) * sizeof(T), current_stream()), "grid_sample_backward");
    const int count = args.mode == GridSampleMode::nearest ? 1 : args.mode == GridSampleMode::bicubic ? 16 : rank == 2 ? 4 : 8;
    constexpr int64_t most = int64_t{1} << 30;  // slots that are sorted at once
    if (points * count > most) retape::detail::kernel_error("grid_sample_backward: a grid of one image has too many positions for a GPU");
    const int64_t step = max_of<int64_t>(1, most / max_of<int64_t>(1, points * count));
    for (int64_t n = 0; points > 0 && n < batch; n += step) {
      const int64_t images = min_of(step, batch - n);
      const auto add = [&](auto key) {
        add_images<T, decltype(key)>(args, rank, count, images, channels, data<T>(dy) + n * points * channels,
                                     data<T>(grid) + n * points * rank, data<T>(dx) + n * args.places_in() * channels);
      };
      if (images * args.places_in() < 0xffffffff) add(uint32_t{});
      else add(uint64_t{});
    }
  });
}

}  // namespace retape::cuda
