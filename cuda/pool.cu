// The largest element and the mean of windows: a thread for every element that is written, neighbours in channels.
#include <retape/cuda/launch.h>

#include <retape/core/windows.h>

namespace retape::cuda {
namespace {

struct Place {
  int64_t n, at[3], channel;
};
__device__ __forceinline__ Place place_of(int64_t t, const int64_t (&size)[3], int64_t channels) {
  const int64_t r = t / channels;
  return {r / (size[0] * size[1] * size[2]), {r / (size[1] * size[2]) % size[0], r / size[2] % size[1], r % size[2]}, t % channels};
}

template <class T> __global__ void largest(WindowArgs w, int64_t channels, int64_t n, const T* x, T* y, int64_t* index) {
  using C = compute_t<T>;
  for (int64_t t = thread_index(); t < n; t += thread_count()) {
    const Place o = place_of(t, w.out, channels);
    const Range a = elements_inside(w, 0, o.at[0]), b = elements_inside(w, 1, o.at[1]), c = elements_inside(w, 2, o.at[2]);
    C best = 0;
    int64_t where = -1;
    for (int64_t i = a.begin; i < a.end; ++i)
      for (int64_t j = b.begin; j < b.end; ++j)
        for (int64_t k = c.begin; k < c.end; ++k) {
          const int64_t p = (place(w, 0, o.at[0], i) * w.in[1] + place(w, 1, o.at[1], j)) * w.in[2] + place(w, 2, o.at[2], k);
          const C v = C(x[(o.n * w.places_in() + p) * channels + o.channel]);
          if (where < 0 || v > best || v != v) best = v, where = p;  // nan wins
        }
    y[t] = T(best), index[t] = where;
  }
}
template <class T> __global__ void largest_backward(WindowArgs w, int64_t channels, int64_t n, const T* dy, const int64_t* index, T* dx) {
  using C = compute_t<T>;
  for (int64_t t = thread_index(); t < n; t += thread_count()) {
    const Place p = place_of(t, w.in, channels);
    const int64_t here = t / channels % w.places_in();
    const Range a = windows_around(w, 0, p.at[0]), b = windows_around(w, 1, p.at[1]), c = windows_around(w, 2, p.at[2]);
    C sum = 0;
    for (int64_t i = a.begin; i < a.end; ++i)
      for (int64_t j = b.begin; j < b.end; ++j)
        for (int64_t k = c.begin; k < c.end; ++k) {
          if (!has_place(w, 0, i, p.at[0]) || !has_place(w, 1, j, p.at[1]) || !has_place(w, 2, k, p.at[2])) continue;
          const int64_t from = (((p.n * w.out[0] + i) * w.out[1] + j) * w.out[2] + k) * channels + p.channel;
          if (index[from] == here) sum += C(dy[from]);
        }
    dx[t] = T(sum);
  }
}
template <class T> __global__ void means(WindowArgs w, AvgPoolArgs args, int64_t channels, int64_t n, const T* x, T* y) {
  using C = compute_t<T>;
  for (int64_t t = thread_index(); t < n; t += thread_count()) {
    const Place o = place_of(t, w.out, channels);
    const Range a = elements_inside(w, 0, o.at[0]), b = elements_inside(w, 1, o.at[1]), c = elements_inside(w, 2, o.at[2]);
    C sum = 0;
    for (int64_t i = a.begin; i < a.end; ++i)
      for (int64_t j = b.begin; j < b.end; ++j)
        for (int64_t k = c.begin; k < c.end; ++k) {
          const int64_t p = (place(w, 0, o.at[0], i) * w.in[1] + place(w, 1, o.at[1], j)) * w.in[2] + place(w, 2, o.at[2], k);
          sum += C(x[(o.n * w.places_in() + p) * channels + o.channel]);
        }
    y[t] = T(sum * (C(1) / C(divisor_of(w, args, o.at))));
  }
}
template <class T> __global__ void means_backward(WindowArgs w, AvgPoolArgs args, int64_t channels, int64_t n, const T* dy, T* dx) {
  using C = compute_t<T>;
  for (int64_t t = thread_index(); t < n; t += thread_count()) {
    const Place p = place_of(t, w.in, channels);
    const Range a = windows_around(w, 0, p.at[0]), b = windows_around(w, 1, p.at[1]), c = windows_around(w, 2, p.at[2]);
    C sum = 0;
    for (int64_t i = a.begin; i < a.end; ++i)
      for (int64_t j = b.begin; j < b.end; ++j)
        for (int64_t k = c.begin; k < c.end; ++k) {
          if (!has_place(w, 0, i, p.at[0]) || !has_place(w, 1, j, p.at[1]) || !has_place(w, 2, k, p.at[2])) continue;
          const int64_t o[3] = {i, j, k};
          sum += C(dy[(((p.n * w.out[0] + i) * w.out[1] + j) * w.out[2] + k) * channels + p.channel]) * (C(1) / C(divisor_of(w, args, o)));
        }
    dx[t] = T(sum);
  }
}

}  // namespace

void max_pool(const WindowArgs& w, const Tensor& x, Tensor& y, Tensor& index) {
  with_floating("max_pool", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    launch(largest<T>, blocks_for(y.numel()), 256, 0, w, x.shape()[-1], y.numel(), data<T>(x), data<T>(y), data<int64_t>(index));
  });
}
void max_pool_backward(const WindowArgs& w, const Tensor& dy, const Tensor& index, Tensor& dx) {
  with_floating("max_pool_backward", dx.dtype(), [&](auto zero) {
    using T = decltype(zero);
    launch(largest_backward<T>, blocks_for(dx.numel()), 256, 0, w, dx.shape()[-1], dx.numel(), data<T>(dy), data<int64_t>(index),
           data<T>(dx));
  });
}
void avg_pool(const WindowArgs& w, const AvgPoolArgs& args, const Tensor& x, Tensor& y) {
  with_floating("avg_pool", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    launch(means<T>, blocks_for(y.numel()), 256, 0, w, args, x.shape()[-1], y.numel(), data<T>(x), data<T>(y));
  });
}
void avg_pool_backward(const WindowArgs& w, const AvgPoolArgs& args, const Tensor& dy, Tensor& dx) {
  with_floating("avg_pool_backward", dx.dtype(), [&](auto zero) {
    using T = decltype(zero);
    launch(means_backward<T>, blocks_for(dx.numel()), 256, 0, w, args, dx.shape()[-1], dx.numel(), data<T>(dy), data<T>(dx));
  });
}

}  // namespace retape::cuda
