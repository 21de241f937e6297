// Windows of images as the rows of a matrix, and back: a thread for every element that is written.
#include <retape/cuda/launch.h>

#include <retape/core/windows.h>

namespace retape::cuda {
namespace {

template <class T> __global__ void fill_columns(WindowArgs w, int64_t groups, int64_t channels, int64_t n, const T* x, T* columns) {
  const int64_t run = channels / groups;
  for (int64_t t = thread_index(); t < n; t += thread_count()) {
    int64_t rest = t;
    const auto next = [&](int64_t size) {
      const int64_t i = rest % size;
      rest /= size;
      return i;
    };
    const int64_t c = next(run), k2 = next(w.kernel[2]), k1 = next(w.kernel[1]), k0 = next(w.kernel[0]), g = next(groups);
    const int64_t o2 = next(w.out[2]), o1 = next(w.out[1]), o0 = next(w.out[0]);
    const int64_t i = place(w, 0, o0, k0), j = place(w, 1, o1, k1), k = place(w, 2, o2, k2);
    const bool inside = i >= 0 && i < w.in[0] && j >= 0 && j < w.in[1] && k >= 0 && k < w.in[2];
    columns[t] = inside ? x[(((rest * w.in[0] + i) * w.in[1] + j) * w.in[2] + k) * channels + g * run + c] : T(0);
  }
}
template <class T> __global__ void sum_columns(WindowArgs w, int64_t groups, int64_t channels, int64_t n, const T* columns, T* x) {
  using C = compute_t<T>;
  const int64_t run = channels / groups, elements = w.elements();
  for (int64_t t = thread_index(); t < n; t += thread_count()) {
    const int64_t g = t % channels / run, q = t % run, r = t / channels, batch = r / w.places_in();
    const int64_t p[3] = {r / (w.in[1] * w.in[2]) % w.in[0], r / w.in[2] % w.in[1], r % w.in[2]};
    const Range a = windows_around(w, 0, p[0]), b = windows_around(w, 1, p[1]), c = windows_around(w, 2, p[2]);
    C sum = 0;
    for (int64_t i = a.begin; i < a.end; ++i)
      for (int64_t j = b.begin; j < b.end; ++j)
        for (int64_t k = c.begin; k < c.end; ++k) {
          if (!has_place(w, 0, i, p[0]) || !has_place(w, 1, j, p[1]) || !has_place(w, 2, k, p[2])) continue;
          const auto element = [&](int d, int64_t o) { return (p[d] + w.padding[d] - o * w.stride[d]) / w.dilation[d]; };
          const int64_t e = (element(0, i) * w.kernel[1] + element(1, j)) * w.kernel[2] + element(2, k);
          const int64_t window = ((batch * w.out[0] + i) * w.out[1] + j) * w.out[2] + k;
          sum += C(columns[((window * groups + g) * elements + e) * run + q]);
        }
    x[t] = T(sum);
  }
}

}  // namespace

void image_to_columns(const WindowArgs& w, int64_t groups, const Tensor& x, Tensor& columns) {
  const int64_t n = columns.numel();
  with_floating("image_to_columns", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    launch(fill_columns<T>, blocks_for(n), 256, 0, w, groups, x.shape()[-1], n, data<T>(x), data<T>(columns));
  });
}
void columns_to_image(const WindowArgs& w, int64_t groups, const Tensor& columns, Tensor& x) {
  const int64_t n = x.numel();
  with_floating("columns_to_image", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    launch(sum_columns<T>, blocks_for(n), 256, 0, w, groups, x.shape()[-1], n, data<T>(columns), data<T>(x));
  });
}

}  // namespace retape::cuda
