// Depthwise convolutions: a thread for every element that is written, neighbours in channels; of the weight, for every element of a part of
// the windows.
#include <retape/cuda/parts.h>

#include <retape/cuda/window_loops.h>

namespace retape::cuda {
namespace {

template <class T>
__global__ void forward(WindowArgs w, int64_t channels, int64_t n, const T* x, const compute_t<T>* weight, const compute_t<T>* bias, T* y) {
  using C = compute_t<T>;
  for (int64_t t = thread_index(); t < n; t += thread_count()) {
    const Place o = place_of(t, w.out, channels);
    C sum = bias ? bias[o.channel] : C(0);
    for_elements(w, o.at, [&](int64_t p, int64_t e) {
      sum += weight[e * channels + o.channel] * C(x[(o.n * w.places_in() + p) * channels + o.channel]);
    });
    y[t] = T(sum);
  }
}
template <class T> __global__ void input(WindowArgs w, int64_t channels, int64_t n, const T* dy, const compute_t<T>* weight, T* dx) {
  using C = compute_t<T>;
  for (int64_t t = thread_index(); t < n; t += thread_count()) {
    const Place p = place_of(t, w.in, channels);
    C sum = 0;
    for_windows_around(w, p.at, [&](const int64_t(&o)[3]) {
      const int64_t from = (((p.n * w.out[0] + o[0]) * w.out[1] + o[1]) * w.out[2] + o[2]) * channels + p.channel;
      sum += weight[element_of(w, o, p.at) * channels + p.channel] * C(dy[from]);
    });
    dx[t] = T(sum);
  }
}
// of_parts (parts, elements, channels)
template <class T>
__global__ void weights(WindowArgs w, int64_t channels, int64_t rows, int64_t parts, const T* dy, const T* x, compute_t<T>* of_parts) {
  using C = compute_t<T>;
  const int64_t size = w.elements() * channels;
  for (int64_t t = thread_index(); t < parts * size; t += thread_count()) {
    const int64_t channel = t % channels, e = t / channels % w.elements(), part = t / size;
    const int64_t element[3] = {e / (w.kernel[1] * w.kernel[2]), e / w.kernel[2] % w.kernel[1], e % w.kernel[2]};
    C sum = 0;
    for (int64_t r = rows * part / parts; r < rows * (part + 1) / parts; ++r) {
      const Place o = place_of(r, w.out, 1);
      int64_t at[3];
      bool inside = true;
      for (int d = 0; d < 3; ++d) at[d] = place(w, d, o.at[d], element[d]), inside = inside && at[d] >= 0 && at[d] < w.in[d];
      if (inside)
        sum += C(dy[r * channels + channel]) * C(x[(((o.n * w.in[0] + at[0]) * w.in[1] + at[1]) * w.in[2] + at[2]) * channels + channel]);
    }
    of_parts[t] = sum;
  }
}

}  // namespace

void depthwise_convolution(const WindowArgs& w, const Tensor& x, const Tensor& weight, const Tensor& bias, Tensor& y) {
  with_floating("depthwise_convolution", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    launch(forward<T>, blocks_for(y.numel()), 256, 0, w, x.shape()[-1], y.numel(), data<T>(x), data<C>(weight), data<C>(bias), data<T>(y));
  });
}
void depthwise_convolution_input(const WindowArgs& w, const Tensor& dy, const Tensor& weight, Tensor& dx) {
  with_floating("depthwise_convolution_input", dx.dtype(), [&](auto zero) {
    using T = decltype(zero);
    launch(input<T>, blocks_for(dx.numel()), 256, 0, w, dx.shape()[-1], dx.numel(), data<T>(dy), data<compute_t<T>>(weight), data<T>(dx));
  });
}
void depthwise_convolution_weight(const WindowArgs& w, const Tensor& dy, const Tensor& x, Tensor& dw) {
  const int64_t channels = x.shape()[-1], size = dw.numel(), rows = x.shape()[0] * w.places_out();
  const int64_t parts = max_of<int64_t>(1, min_of<int64_t>(256, rows / 64));
  with_floating("depthwise_convolution_weight", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    const Scratch<C> of_parts(parts * size);
    launch(weights<T>, blocks_for(parts * size), 256, 0, w, channels, rows, parts, data<T>(dy), data<T>(x), static_cast<C*>(of_parts));
    launch(add_parts<C, C>, blocks_for(size), 256, 0, static_cast<C*>(of_parts), parts, size, data<C>(dw));
  });
}

}  // namespace retape::cuda
