// The largest element and the mean of windows. Channels lie side by side, so a block of them goes through a window at once.
#include <retape/core/kernel.h>
#include <retape/core/put.h>
#include <retape/core/windows.h>

namespace retape::RETAPE_LEVEL {
namespace {

constexpr int64_t block = 64;  // channels

// A range for every place of every dim, made once: they take divisions.
class Ranges {
 public:
  template <class Make>
  RETAPE_INLINE Ranges(const int64_t (&size)[3], const Make& make)
      : all_(size[0] + size[1] + size[2]), start_{0, size[0], size[0] + size[1]} {
    for (int d = 0; d < 3; ++d)
      for (int64_t i = 0; i < size[d]; ++i) all_[start_[d] + i] = make(d, i);
  }
  RETAPE_INLINE Range at(int d, int64_t i) const { return all_[start_[d] + i]; }

 private:
  Scratch<Range> all_;
  int64_t start_[3];
};
// The places of a window that are inside the image, and the windows that a place is in.
RETAPE_INLINE auto places_inside(const WindowArgs& w) {
  return [&w](int d, int64_t o) {
    const Range k = elements_inside(w, d, o);
    return Range{place(w, d, o, k.begin), place(w, d, o, k.begin) + (k.end - k.begin) * step_of(w, d)};
  };
}

// Calls f(n, place, row) for all places of images whose dims of space have these sizes; row counts all of them.
template <class F> RETAPE_INLINE void for_places(int64_t batch, const int64_t (&size)[3], int64_t work, const F& f) {
  const int64_t places = size[0] * size[1] * size[2];
  parallel_for(batch * places, row_grain(work), [&](int64_t begin, int64_t end) {
    int64_t n = begin / places, p[3] = {begin / (size[1] * size[2]) % size[0], begin / size[2] % size[1], begin % size[2]};
    for (int64_t r = begin; r < end; ++r) {
      f(n, p, r);
      if (++p[2] < size[2]) continue;
      p[2] = 0;
      if (++p[1] < size[1]) continue;
      p[1] = 0;
      if (++p[0] < size[0]) continue;
      p[0] = 0, ++n;
    }
  });
}
// Calls f(place) for every place of window o that is inside the image.
template <class F> RETAPE_INLINE void for_window(const WindowArgs& w, const Ranges& ranges, const int64_t (&o)[3], const F& f) {
  const Range a = ranges.at(0, o[0]), b = ranges.at(1, o[1]), c = ranges.at(2, o[2]);
  const int64_t step[3] = {step_of(w, 0), step_of(w, 1), step_of(w, 2)};
  for (int64_t i = a.begin; i < a.end; i += step[0])
    for (int64_t j = b.begin; j < b.end; j += step[1])
      for (int64_t k = c.begin; k < c.end; k += step[2]) f((i * w.in[1] + j) * w.in[2] + k);
}
// Calls f(o) for every window that place p is in.
template <class F> RETAPE_INLINE void for_windows_around(const WindowArgs& w, const Ranges& ranges, const int64_t (&p)[3], const F& f) {
  const Range a = ranges.at(0, p[0]), b = ranges.at(1, p[1]), c = ranges.at(2, p[2]);
  for (int64_t i = a.begin; i < a.end; ++i)
    for (int64_t j = b.begin; j < b.end; ++j)
      for (int64_t k = c.begin; k < c.end; ++k) {
        const int64_t o[3] = {i, j, k};
        if (has_place(w, 0, i, p[0]) && has_place(w, 1, j, p[1]) && has_place(w, 2, k, p[2])) f(o);
      }
}
RETAPE_INLINE auto windows_of(const WindowArgs& w) {
  return [&w](int d, int64_t i) { return windows_around(w, d, i); };
}

template <class C> struct IndexOf { using type = int32_t; };
template <> struct IndexOf<double> { using type = int64_t; };

}  // namespace

void max_pool(const WindowArgs& w, const Tensor& x, Tensor& y, Tensor& index) {
  const int64_t channels = x.shape()[-1], places = w.places_in();
  with_floating("max_pool", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    using I = typename IndexOf<C>::type;
    const T* const in = x.data<T>();
    T* const out = y.mutable_data<T>();
    int64_t* const at = index.mutable_data<int64_t>();
    const Ranges inside(w.out, places_inside(w));
    for_places(x.shape()[0], w.out, channels * max_of<int64_t>(1, w.elements()), [&](int64_t n, const int64_t(&o)[3], int64_t r) {
      for (int64_t from = 0; from < channels; from += block) {
        const int64_t width = min_of(block, channels - from);
        C best[block];
        I where[block];
        bool first = true;
        for_window(w, inside, o, [&](int64_t p) {
          const T* const pixel = in + (n * places + p) * channels + from;
          if (first) {
            for (int64_t c = 0; c < width; ++c) best[c] = C(pixel[c]), where[c] = I(p);
            first = false;
            return;
          }
#pragma omp simd
          for (int64_t c = 0; c < width; ++c) {
            const C v = C(pixel[c]);
            const bool take = v > best[c] || v != v;  // nan wins
            best[c] = take ? v : best[c];
            where[c] = take ? I(p) : where[c];
          }
        });
        for (int64_t c = 0; c < width; ++c) put(out[r * channels + from + c], best[c]);
        for (int64_t c = 0; c < width; ++c) at[r * channels + from + c] = where[c];
      }
    });
  });
}

void max_pool_backward(const WindowArgs& w, const Tensor& dy, const Tensor& index, Tensor& dx) {
  const int64_t channels = dx.shape()[-1], places = w.places_in(), windows = w.places_out();
  with_floating("max_pool_backward", dx.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    const T* const grad = dy.data<T>();
    const int64_t* const at = index.data<int64_t>();
    T* const out = dx.mutable_data<T>();
    const Ranges around(w.in, windows_of(w));
    for_places(dx.shape()[0], w.in, channels * 4, [&](int64_t n, const int64_t(&p)[3], int64_t r) {
      const int64_t here = r % places;
      for (int64_t from = 0; from < channels; from += block) {
        const int64_t width = min_of(block, channels - from);
        C sum[block] = {};
        for_windows_around(w, around, p, [&](const int64_t(&o)[3]) {
          const int64_t row = (n * windows + (o[0] * w.out[1] + o[1]) * w.out[2] + o[2]) * channels + from;
#pragma omp simd
          for (int64_t c = 0; c < width; ++c) sum[c] += at[row + c] == here ? C(grad[row + c]) : C(0);
        });
        for (int64_t c = 0; c < width; ++c) put(out[r * channels + from + c], sum[c]);
      }
    });
  });
}

void avg_pool(const WindowArgs& w, const AvgPoolArgs& args, const Tensor& x, Tensor& y) {
  const int64_t channels = x.shape()[-1], places = w.places_in();
  with_floating("avg_pool", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    const T* const in = x.data<T>();
    T* const out = y.mutable_data<T>();
    const Ranges inside(w.out, places_inside(w));
    for_places(x.shape()[0], w.out, channels * max_of<int64_t>(1, w.elements()), [&](int64_t n, const int64_t(&o)[3], int64_t r) {
      const C share = C(1) / C(divisor_of(w, args, o));
      for (int64_t from = 0; from < channels; from += block) {
        const int64_t width = min_of(block, channels - from);
        C sum[block] = {};
        for_window(w, inside, o, [&](int64_t p) {
          const T* const pixel = in + (n * places + p) * channels + from;
#pragma omp simd
          for (int64_t c = 0; c < width; ++c) sum[c] += C(pixel[c]);
        });
        for (int64_t c = 0; c < width; ++c) put(out[r * channels + from + c], sum[c] * share);
      }
    });
  });
}

void avg_pool_backward(const WindowArgs& w, const AvgPoolArgs& args, const Tensor& dy, Tensor& dx) {
  const int64_t channels = dx.shape()[-1], windows = w.places_out();
  with_floating("avg_pool_backward", dx.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    const T* const grad = dy.data<T>();
    T* const out = dx.mutable_data<T>();
    const Ranges around(w.in, windows_of(w));
    for_places(dx.shape()[0], w.in, channels * 4, [&](int64_t n, const int64_t(&p)[3], int64_t r) {
      for (int64_t from = 0; from < channels; from += block) {
        const int64_t width = min_of(block, channels - from);
        C sum[block] = {};
        for_windows_around(w, around, p, [&](const int64_t(&o)[3]) {
          const C share = C(1) / C(divisor_of(w, args, o));
          const T* const from_window = grad + (n * windows + (o[0] * w.out[1] + o[1]) * w.out[2] + o[2]) * channels + from;
#pragma omp simd
          for (int64_t c = 0; c < width; ++c) sum[c] += C(from_window[c]) * share;
        });
        for (int64_t c = 0; c < width; ++c) put(out[r * channels + from + c], sum[c]);
      }
    });
  });
}

}  // namespace retape::RETAPE_LEVEL
