// The largest element and the mean of windows: a thread for every element that is written, neighbours in channels.
#include <retape/cuda/launch.h>

#include <retape/cuda/window_loops.h>

namespace retape::cuda {
namespace {

template <class T, class E> __global__ void largest(WindowArgs w, int64_t channels, int64_t n, const T* x, T* y, E* element) {
  using C = compute_t<T>;
  for (int64_t t = thread_index(); t < n; t += thread_count()) {
    const Place o = place_of(t, w.out, channels);
    C best = 0;
    int64_t which = -1;
    for_elements(w, o.at, [&](int64_t p, int64_t e) {
      const C v = C(x[(o.n * w.places_in() + p) * channels + o.channel]);
      if (which < 0 || v > best || v != v) best = v, which = e;  // nan wins
    });
    y[t] = T(best), element[t] = E(which);
  }
}
template <class E> __global__ void places_of(WindowArgs w, int64_t channels, int64_t n, const E* element, int64_t* index) {
  for (int64_t t = thread_index(); t < n; t += thread_count()) {
    const Place o = place_of(t, w.out, channels);
    const int64_t e = element[t], b = window_size(w, 1), c = window_size(w, 2);
    index[t] = (place(w, 0, o.at[0], e / (b * c)) * w.in[1] + place(w, 1, o.at[1], e / c % b)) * w.in[2] + place(w, 2, o.at[2], e % c);
  }
}
template <class T, class E>
__global__ void largest_backward(WindowArgs w, int64_t channels, int64_t n, const T* dy, const E* element, T* dx) {
  using C = compute_t<T>;
  for (int64_t t = thread_index(); t < n; t += thread_count()) {
    const Place p = place_of(t, w.in, channels);
    C sum = 0;
    for_windows_around(w, p.at, [&](const int64_t(&o)[3]) {
      const int64_t from = (((p.n * w.out[0] + o[0]) * w.out[1] + o[1]) * w.out[2] + o[2]) * channels + p.channel;
      if (element[from] == E(element_of(w, o, p.at))) sum += C(dy[from]);
    });
    dx[t] = T(sum);
  }
}
__device__ __forceinline__ int64_t divisor_of(const WindowArgs& w, const AvgPoolArgs& args, const int64_t (&o)[3]) {
  return args.divisor ? args.divisor : counted(w, args, 0, o[0]) * counted(w, args, 1, o[1]) * counted(w, args, 2, o[2]);
}
template <class T> __global__ void means(WindowArgs w, AvgPoolArgs args, int64_t channels, int64_t n, const T* x, T* y) {
  using C = compute_t<T>;
  for (int64_t t = thread_index(); t < n; t += thread_count()) {
    const Place o = place_of(t, w.out, channels);
    C sum = 0;
    for_elements(w, o.at, [&](int64_t p, int64_t) { sum += C(x[(o.n * w.places_in() + p) * channels + o.channel]); });
    y[t] = T(sum * (C(1) / C(divisor_of(w, args, o.at))));
  }
}
template <class T> __global__ void means_backward(WindowArgs w, AvgPoolArgs args, int64_t channels, int64_t n, const T* dy, T* dx) {
  using C = compute_t<T>;
  for (int64_t t = thread_index(); t < n; t += thread_count()) {
    const Place p = place_of(t, w.in, channels);
    C sum = 0;
    for_windows_around(w, p.at, [&](const int64_t(&o)[3]) {
      const int64_t from = (((p.n * w.out[0] + o[0]) * w.out[1] + o[1]) * w.out[2] + o[2]) * channels + p.channel;
      sum += C(dy[from]) * (C(1) / C(divisor_of(w, args, o)));
    });
    dx[t] = T(sum);
  }
}

template <class F> void with_element(const Tensor& element, const F& f) {
  if (element.dtype() == DType::u8) f(uint8_t{});
  else f(int32_t{});
}

}  // namespace

void max_pool(const WindowArgs& w, const Tensor& x, Tensor& y, Tensor& element) {
  with_floating("max_pool", x.dtype(), [&](auto zero) {
    with_element(element, [&](auto number) {
      using T = decltype(zero);
      using E = decltype(number);
      launch(largest<T, E>, blocks_for(y.numel()), 256, 0, w, x.shape()[-1], y.numel(), data<T>(x), data<T>(y), data<E>(element));
    });
  });
}
void max_pool_places(const WindowArgs& w, const Tensor& element, Tensor& index) {
  with_element(element, [&](auto number) {
    using E = decltype(number);
    launch(places_of<E>, blocks_for(index.numel()), 256, 0, w, index.shape()[-1], index.numel(), data<E>(element), data<int64_t>(index));
  });
}
void max_pool_backward(const WindowArgs& w, const Tensor& dy, const Tensor& element, Tensor& dx) {
  with_floating("max_pool_backward", dx.dtype(), [&](auto zero) {
    with_element(element, [&](auto number) {
      using T = decltype(zero);
      using E = decltype(number);
      launch(largest_backward<T, E>, blocks_for(dx.numel()), 256, 0, w, dx.shape()[-1], dx.numel(), data<T>(dy), data<E>(element),
             data<T>(dx));
    });
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
