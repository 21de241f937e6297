// Windows of images as the rows of a matrix, and back: what convolutions are that no library does, and unfold and fold.
#include <retape/core/kernel.h>
#include <retape/core/put.h>
#include <retape/core/windows.h>

namespace retape::RETAPE_LEVEL {
namespace {

template <class T> RETAPE_INLINE void copy_run(const T* x, int64_t n, T* y) {
  if (x) __builtin_memcpy(y, x, size_t(n) * sizeof(T));
  else __builtin_memset(static_cast<void*>(y), 0, size_t(n) * sizeof(T));
}

}  // namespace

// x (N, in, C); columns (N, out, groups, elements, C / groups)
void image_to_columns(const WindowArgs& w, int64_t groups, const Tensor& x, Tensor& columns) {
  const int64_t batch = x.shape()[0], channels = x.shape()[-1], run = channels / groups, elements = w.elements();
  with_any(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T* const from = x.data<T>();
    T* const to = columns.mutable_data<T>();
    parallel_for(batch * w.places_out(), row_grain(elements * channels), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const int64_t n = r / w.places_out(), o[3] = {r / (w.out[1] * w.out[2]) % w.out[0], r / w.out[2] % w.out[1], r % w.out[2]};
        T* const row = to + r * elements * channels;
        int64_t e = 0;
        for (int64_t a = 0; a < w.kernel[0]; ++a)
          for (int64_t b = 0; b < w.kernel[1]; ++b)
            for (int64_t c = 0; c < w.kernel[2]; ++c, ++e) {
              const int64_t i = place(w, 0, o[0], a), j = place(w, 1, o[1], b), k = place(w, 2, o[2], c);
              const bool inside = i >= 0 && i < w.in[0] && j >= 0 && j < w.in[1] && k >= 0 && k < w.in[2];
              const T* const pixel = inside ? from + (((n * w.in[0] + i) * w.in[1] + j) * w.in[2] + k) * channels : nullptr;
              for (int64_t g = 0; g < groups; ++g) copy_run(pixel ? pixel + g * run : nullptr, run, row + (g * elements + e) * run);
            }
      }
    });
  });
}

void columns_to_image(const WindowArgs& w, int64_t groups, const Tensor& columns, Tensor& x) {
  const int64_t batch = x.shape()[0], channels = x.shape()[-1], run = channels / groups, elements = w.elements();
  with_floating("columns_to_image", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    const T* const from = columns.data<T>();
    T* const to = x.mutable_data<T>();
    parallel_for(batch * w.places_in(), row_grain(channels * 4), [&](int64_t begin, int64_t end) {
      const Scratch<C> sums(channels);
      C* const sum = sums;
      for (int64_t r = begin; r < end; ++r) {
        const int64_t n = r / w.places_in(), p[3] = {r / (w.in[1] * w.in[2]) % w.in[0], r / w.in[2] % w.in[1], r % w.in[2]};
        for (int64_t c = 0; c < channels; ++c) sum[c] = 0;
        const Range a = windows_around(w, 0, p[0]), b = windows_around(w, 1, p[1]), c = windows_around(w, 2, p[2]);
        for (int64_t i = a.begin; i < a.end; ++i)
          for (int64_t j = b.begin; j < b.end; ++j)
            for (int64_t k = c.begin; k < c.end; ++k) {
              if (!has_place(w, 0, i, p[0]) || !has_place(w, 1, j, p[1]) || !has_place(w, 2, k, p[2])) continue;
              const auto element = [&](int d, int64_t o) { return (p[d] + w.padding[d] - o * w.stride[d]) / w.dilation[d]; };
              const int64_t e = (element(0, i) * w.kernel[1] + element(1, j)) * w.kernel[2] + element(2, k);
              const int64_t window = ((n * w.out[0] + i) * w.out[1] + j) * w.out[2] + k;
              for (int64_t g = 0; g < groups; ++g) {
                const T* const part = from + ((window * groups + g) * elements + e) * run;
#pragma omp simd
                for (int64_t q = 0; q < run; ++q) sum[g * run + q] += C(part[q]);
              }
            }
        for (int64_t q = 0; q < channels; ++q) put(to[r * channels + q], sum[q]);
      }
    });
  });
}

}  // namespace retape::RETAPE_LEVEL
