// Windows whose elements are moved, as the rows of a matrix, and back. Channels lie side by side: a sample is four weighted runs of them.
#include <retape/core/bilinear.h>
#include <retape/core/sums.h>
#include <retape/core/windows.h>

namespace retape::RETAPE_LEVEL {
namespace {

// What is sampled: x (N, in, C), offset, mask and columns as core/kernel_list.inc says.
template <class T> class Samples {
 public:
  using C = compute_t<T>;
  RETAPE_INLINE Samples(const WindowArgs& window, int64_t groups, const Tensor& x, const Tensor& offset, const Tensor& mask)
      : w(window),
        channels(x.shape()[-1]),
        elements(w.elements()),
        offset_groups(offset.shape()[-1] / (2 * elements)),
        run(channels / groups),
        offset_run(channels / offset_groups),
        offset_(offset.data<T>()),
        mask_(mask ? mask.data<T>() : nullptr) {}
  // Sample s of window r of all images: samples are (offset groups, elements).
  RETAPE_INLINE Bilinear<C> at(int64_t r, int64_t s) const {
    const int64_t e = s % elements, o = r % w.places_out();
    const T* const by = offset_ + (r * offset_groups * elements + s) * 2;
    return bilinear_at<C>(C(place(w, 1, o / w.out[2], e / w.kernel[2])) + C(by[0]),
                          C(place(w, 2, o % w.out[2], e % w.kernel[2])) + C(by[1]), w.in[1], w.in[2]);
  }
  RETAPE_INLINE C mask(int64_t r, int64_t s) const { return mask_ ? C(mask_[r * offset_groups * elements + s]) : C(1); }
  // Calls f(channel, count, at) for the runs of channels that sample s has of [first, last), `at` being where they lie in the row of columns.
  template <class F> RETAPE_INLINE void runs(int64_t s, int64_t first, int64_t last, const F& f) const {
    const int64_t e = s % elements, g = s / elements;
    const int64_t end = min_of(last, (g + 1) * offset_run);
    for (int64_t c = max_of(first, g * offset_run); c < end;) {
      const int64_t group = c / run, next = min_of(end, (group + 1) * run);
      f(c, next - c, (group * elements + e) * run + c % run);
      c = next;
    }
  }
  const WindowArgs& w;
  const int64_t channels, elements, offset_groups, run, offset_run;

 private:
  const T *const offset_, *const mask_;
};

// The pixels around a sample, those that are missing as zeros.
template <class T> struct Pixels {
  const T* at[4];
  template <class B> RETAPE_INLINE Pixels(const B& b, const T* image, int64_t channels, const T* zeros) {
    for (int k = 0; k < 4; ++k) at[k] = b.place[k] < 0 ? zeros : image + b.place[k] * channels;
  }
};

}  // namespace

void deformable_columns(const WindowArgs& w, int64_t groups, const Tensor& x, const Tensor& offset, const Tensor& mask, Tensor& columns) {
  with_floating("deformable_columns", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    const Samples<T> samples(w, groups, x, offset, mask);
    const int64_t channels = samples.channels, depth = samples.elements * channels, each = samples.offset_groups * samples.elements;
    const T* const images = x.data<T>();
    T* const out = columns.mutable_data<T>();
    parallel_for(x.shape()[0] * w.places_out(), row_grain(depth * 2), [&](int64_t begin, int64_t end) {
      const Scratch<T> none(channels);
      for (int64_t c = 0; c < channels; ++c) none[c] = T(0);
      for (int64_t r = begin; r < end; ++r)
        for (int64_t s = 0; s < each; ++s) {
          const Bilinear<C> b = samples.at(r, s);
          const C m = samples.mask(r, s), outside = m * b.unknown;
          const C q0 = m * b.weight(0), q1 = m * b.weight(1), q2 = m * b.weight(2), q3 = m * b.weight(3);
          const Pixels<T> pixels(b, images + r / w.places_out() * w.places_in() * channels, channels, none);
          samples.runs(s, 0, channels, [&](int64_t c, int64_t n, int64_t at) {
            T* const to = out + r * depth + at;
            if (!b.inside) {
              for (int64_t i = 0; i < n; ++i) put(to[i], outside);
              return;
            }
            const auto from = [&](int k) { return pixels.at[k] + (b.place[k] < 0 ? 0 : c); };
            const T *const p0 = from(0), *const p1 = from(1), *const p2 = from(2), *const p3 = from(3);
#pragma omp simd
            for (int64_t i = 0; i < n; ++i) put(to[i], q0 * C(p0[i]) + q1 * C(p1[i]) + q2 * C(p2[i]) + q3 * C(p3[i]));
          });
        }
    });
  });
}

namespace {

// d of what offset and mask a sample has, from the products of its gradient with the pixels around.
template <class T>
RETAPE_INLINE void offsets_backward(const Samples<T>& samples, const T* dcolumns, const T* images, int64_t rows, T* doffset, T* dmask) {
  using C = compute_t<T>;
  const int64_t channels = samples.channels, depth = samples.elements * channels, each = samples.offset_groups * samples.elements;
  const WindowArgs& w = samples.w;
  parallel_for(rows, row_grain(depth * 2), [&](int64_t begin, int64_t end) {
    const Scratch<T> none(channels);
    for (int64_t c = 0; c < channels; ++c) none[c] = T(0);
    for (int64_t r = begin; r < end; ++r)
      for (int64_t s = 0; s < each; ++s) {
        const Bilinear<C> b = samples.at(r, s);
        C dot[4] = {};
        if (b.inside) {
          const Pixels<T> pixels(b, images + r / w.places_out() * w.places_in() * channels, channels, none);
          samples.runs(s, 0, channels, [&](int64_t c, int64_t n, int64_t at) {
            const T* const d = dcolumns + r * depth + at;
            const auto from = [&](int k) { return pixels.at[k] + (b.place[k] < 0 ? 0 : c); };
            const T *const p0 = from(0), *const p1 = from(1), *const p2 = from(2), *const p3 = from(3);
            C d0 = 0, d1 = 0, d2 = 0, d3 = 0;
#pragma omp simd reduction(+ : d0, d1, d2, d3)
            for (int64_t i = 0; i < n; ++i) {
              const C v = C(d[i]);
              d0 += v * C(p0[i]), d1 += v * C(p1[i]), d2 += v * C(p2[i]), d3 += v * C(p3[i]);
            }
            dot[0] += d0, dot[1] += d1, dot[2] += d2, dot[3] += d3;
          });
        }
        const C m = samples.mask(r, s);
        if (doffset) {
          put(doffset[(r * each + s) * 2], m * b.along_y(dot) + b.unknown);
          put(doffset[(r * each + s) * 2 + 1], m * b.along_x(dot) + b.unknown);
        }
        if (dmask)
          put(dmask[r * each + s], b.weight(0) * dot[0] + b.weight(1) * dot[1] + b.weight(2) * dot[2] + b.weight(3) * dot[3] + b.unknown);
      }
  });
}

// One task has an image's samples one after the other, for some of the channels.
template <class T> RETAPE_INLINE void image_backward(const Samples<T>& samples, const T* dcolumns, int64_t batch, Tensor& dx) {
  using C = compute_t<T>;
  constexpr int64_t block = 32;
  const int64_t channels = samples.channels, depth = samples.elements * channels;
  const WindowArgs& w = samples.w;
  Sums<T> sums(dx, true);
  C* const images = sums.get();
  const int64_t blocks = (channels + block - 1) / block, windows = w.places_out();
  parallel_for(batch * blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task % blocks * block, last = min_of(channels, first + block);
      C* const image = images + task / blocks * w.places_in() * channels;
      const int64_t from = first / samples.offset_run * samples.elements, to = ((last - 1) / samples.offset_run + 1) * samples.elements;
      for (int64_t r = task / blocks * windows; r < (task / blocks + 1) * windows; ++r)
        for (int64_t s = from; s < to; ++s) {
          const Bilinear<C> b = samples.at(r, s);
          if (!b.inside) continue;
          const C m = samples.mask(r, s);
          samples.runs(s, first, last, [&](int64_t c, int64_t n, int64_t at) {
            const T* const d = dcolumns + r * depth + at;
            for (int k = 0; k < 4; ++k) {
              if (b.place[k] < 0) continue;
              const C q = m * b.weight(k);
              C* const pixel = image + b.place[k] * channels + c;
#pragma omp simd
              for (int64_t i = 0; i < n; ++i) pixel[i] += q * C(d[i]);
            }
          });
        }
    }
  });
  sums.store();
}

}  // namespace

void deformable_columns_backward(const WindowArgs& w, int64_t groups, const Tensor& dcolumns, const Tensor& x, const Tensor& offset,
                                 const Tensor& mask, Tensor& dx, Tensor& doffset, Tensor& dmask) {
  with_floating("deformable_columns_backward", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const Samples<T> samples(w, groups, x, offset, mask);
    const T* const d = dcolumns.data<T>();
    if (dx) image_backward(samples, d, x.shape()[0], dx);
    if (doffset || dmask)
      offsets_backward(samples, d, x.data<T>(), x.shape()[0] * w.places_out(), doffset ? doffset.mutable_data<T>() : nullptr,
                       dmask ? dmask.mutable_data<T>() : nullptr);
  });
}

}  // namespace retape::RETAPE_LEVEL
