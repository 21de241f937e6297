// Depthwise convolutions: every channel has a window of weights of its own. Channels lie side by side, so a block of them goes through a
// window at once.
#include <retape/core/put.h>
#include <retape/core/window_loops.h>

namespace retape::RETAPE_LEVEL {

void depthwise_convolution(const WindowArgs& w, const Tensor& x, const Tensor& weight, const Tensor& bias, Tensor& y) {
  const int64_t channels = x.shape()[-1], places = w.places_in();
  const Windows windows(w);
  with_floating("depthwise_convolution", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    const T* const in = x.data<T>();
    const C *const weights = weight.data<C>(), *const more = bias ? bias.data<C>() : nullptr;
    T* const out = y.mutable_data<T>();
    for_places(x.shape()[0], w.out, channels * w.elements(), [&](int64_t n, const int64_t(&o)[3], int64_t r) {
      for_blocks(channels, [&](int64_t from, auto width) {
        C sum[block];
        for (int64_t c = 0; c < width; ++c) sum[c] = more ? more[from + c] : C(0);
        windows.elements(o, [&](int64_t p, int64_t e) {
          const T* const pixel = in + (n * places + p) * channels + from;
          const C* const of = weights + e * channels + from;
#pragma omp simd
          for (int64_t c = 0; c < width; ++c) sum[c] += of[c] * C(pixel[c]);
        });
#pragma omp simd
        for (int64_t c = 0; c < width; ++c) put(out[r * channels + from + c], sum[c]);
      });
    });
  });
}

void depthwise_convolution_input(const WindowArgs& w, const Tensor& dy, const Tensor& weight, Tensor& dx) {
  const int64_t channels = dx.shape()[-1], windows_of_image = w.places_out();
  const Windows windows(w);
  with_floating("depthwise_convolution_input", dx.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    const T* const grad = dy.data<T>();
    const C* const weights = weight.data<C>();
    T* const out = dx.mutable_data<T>();
    for_places(dx.shape()[0], w.in, channels * w.elements(), [&](int64_t n, const int64_t(&p)[3], int64_t r) {
      for_blocks(channels, [&](int64_t from, auto width) {
        C sum[block] = {};
        windows.around(p, [&](int64_t window, const int64_t(&)[3], int64_t e) {
          const T* const row = grad + (n * windows_of_image + window) * channels + from;
          const C* const of = weights + e * channels + from;
#pragma omp simd
          for (int64_t c = 0; c < width; ++c) sum[c] += of[c] * C(row[c]);
        });
#pragma omp simd
        for (int64_t c = 0; c < width; ++c) put(out[r * channels + from + c], sum[c]);
      });
    });
  });
}

void depthwise_convolution_weight(const WindowArgs& w, const Tensor& dy, const Tensor& x, Tensor& dw) {
  const int64_t channels = x.shape()[-1], places = w.places_in(), windows_of_image = w.places_out(), size = w.elements() * channels;
  const int64_t rows = x.shape()[0] * windows_of_image, blocks = (channels + block - 1) / block;
  const int64_t parts = max_of<int64_t>(1, min_of<int64_t>(16, rows / 64));  // summed on their own, then one after the other
  const Windows windows(w);
  with_floating("depthwise_convolution_weight", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    const T *const in = x.data<T>(), *const grad = dy.data<T>();
    const Scratch<C> of_parts(parts * size);
    parallel_for(parts * blocks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t part = task / blocks, from = task % blocks * block, width = min_of(block, channels - from);
        C* const sums = of_parts + part * size + from;
        for (int64_t e = 0; e < w.elements(); ++e)
          for (int64_t c = 0; c < width; ++c) sums[e * channels + c] = 0;
        for (int64_t r = rows * part / parts; r < rows * (part + 1) / parts; ++r) {
          const int64_t o[3] = {r / (w.out[1] * w.out[2]) % w.out[0], r / w.out[2] % w.out[1], r % w.out[2]}, n = r / windows_of_image;
          const T* const row = grad + r * channels + from;
          windows.elements(o, [&](int64_t p, int64_t e) {
            const T* const pixel = in + (n * places + p) * channels + from;
            C* const sum = sums + e * channels;
#pragma omp simd
            for (int64_t c = 0; c < width; ++c) sum[c] += C(row[c]) * C(pixel[c]);
          });
        }
      }
    });
    C* const out = dw.mutable_data<C>();
    for (int64_t i = 0; i < size; ++i) {
      C sum = 0;
      for (int64_t part = 0; part < parts; ++part) sum += of_parts[part * size + i];
      out[i] = sum;
    }
  });
}

}  // namespace retape::RETAPE_LEVEL
