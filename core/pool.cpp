// The largest element and the mean of windows. Channels lie side by side, so a block of them goes through a window at once.
#include <retape/core/kernel.h>
#include <retape/core/put.h>
#include <retape/core/windows.h>

namespace retape::RETAPE_LEVEL {
namespace {

constexpr int64_t block = 64;  // channels

// What make(d, i) gives for every place of every dim, made once: it takes divisions.
template <class V> class PerPlace {
 public:
  template <class Make>
  RETAPE_INLINE PerPlace(const int64_t (&size)[3], const Make& make)
      : all_(size[0] + size[1] + size[2]), start_{0, size[0], size[0] + size[1]} {
    for (int d = 0; d < 3; ++d)
      for (int64_t i = 0; i < size[d]; ++i) all_[start_[d] + i] = make(d, i);
  }
  RETAPE_INLINE const V& at(int d, int64_t i) const { return all_[start_[d] + i]; }

 private:
  Scratch<V> all_;
  int64_t start_[3];
};

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

// The windows of an image, looked at from a window and from a place.
class Windows {
 public:
  RETAPE_INLINE explicit Windows(const WindowArgs& window)
      : w(window),
        inside_(w.out,
                [&](int d, int64_t o) {
                  return Inside{elements_inside(w, d, o), place(w, d, o, 0)};
                }),
        around_(w.in, [&](int d, int64_t i) { return windows_around(w, d, i); }),
        size_{window_size(w, 0), window_size(w, 1), window_size(w, 2)},
        step_{step_of(w, 0), step_of(w, 1), step_of(w, 2)} {}
  // Calls f(place, element) for every element of window o that is inside the image.
  template <class F> RETAPE_INLINE void elements(const int64_t (&o)[3], const F& f) const {
    const Inside &a = inside_.at(0, o[0]), &b = inside_.at(1, o[1]), &c = inside_.at(2, o[2]);
    for (int64_t i = a.element.begin; i < a.element.end; ++i)
      for (int64_t j = b.element.begin; j < b.element.end; ++j)
        for (int64_t k = c.element.begin; k < c.element.end; ++k)
          f(((a.first + i * step_[0]) * w.in[1] + b.first + j * step_[1]) * w.in[2] + c.first + k * step_[2],
            (i * size_[1] + j) * size_[2] + k);
  }
  // Calls f(window, o, element) for every window that place p is in, as that element.
  template <class F> RETAPE_INLINE void around(const int64_t (&p)[3], const F& f) const {
    const Range a = around_.at(0, p[0]), b = around_.at(1, p[1]), c = around_.at(2, p[2]);
    int64_t o[3], e[3];
    for (o[0] = a.begin; o[0] < a.end; ++o[0]) {
      if (!element(0, o[0], p[0], e[0])) continue;
      for (o[1] = b.begin; o[1] < b.end; ++o[1]) {
        if (!element(1, o[1], p[1], e[1])) continue;
        for (o[2] = c.begin; o[2] < c.end; ++o[2])
          if (element(2, o[2], p[2], e[2])) f((o[0] * w.out[1] + o[1]) * w.out[2] + o[2], o, (e[0] * size_[1] + e[1]) * size_[2] + e[2]);
      }
    }
  }

 private:
  struct Inside {
    Range element;
    int64_t first;  // the place of element 0
  };
  RETAPE_INLINE bool element(int d, int64_t o, int64_t p, int64_t& e) const {
    const int64_t distance = p - inside_.at(d, o).first;
    e = step_[d] == 1 ? distance : distance / step_[d];
    return e * step_[d] == distance;
  }
  const WindowArgs& w;
  PerPlace<Inside> inside_;
  PerPlace<Range> around_;
  int64_t size_[3], step_[3];
};

// Calls f(first channel, how many) for blocks of channels; the number is a constant of the type for whole ones.
struct WholeBlock {
  RETAPE_INLINE constexpr operator int64_t() const { return block; }
};
template <class F> RETAPE_INLINE void for_blocks(int64_t channels, const F& f) {
  int64_t from = 0;
  for (; from + block <= channels; from += block) f(from, WholeBlock{});
  if (from < channels) f(from, channels - from);
}

template <class F> RETAPE_INLINE void with_element(const Tensor& element, const F& f) {
  if (element.dtype() == DType::u8) f(uint8_t{});
  else f(int32_t{});
}

}  // namespace

void max_pool(const WindowArgs& w, const Tensor& x, Tensor& y, Tensor& element) {
  const int64_t channels = x.shape()[-1], places = w.places_in();
  const Windows windows(w);
  with_floating("max_pool", x.dtype(), [&](auto zero) {
    with_element(element, [&](auto number) {
      using T = decltype(zero);
      using C = compute_t<T>;
      using E = decltype(number);
      const T* const in = x.data<T>();
      T* const out = y.mutable_data<T>();
      E* const numbers = element.mutable_data<E>();
      for_places(x.shape()[0], w.out, channels * max_of<int64_t>(1, w.elements()), [&](int64_t n, const int64_t(&o)[3], int64_t r) {
        for_blocks(channels, [&](int64_t from, auto width) {
          C best[block];
          int32_t which[block];
          bool first = true;
          windows.elements(o, [&](int64_t p, int64_t e) {
            const T* const pixel = in + (n * places + p) * channels + from;
            if (first) {
              for (int64_t c = 0; c < width; ++c) best[c] = C(pixel[c]), which[c] = int32_t(e);
              first = false;
              return;
            }
#pragma omp simd
            for (int64_t c = 0; c < width; ++c) {
              const C v = C(pixel[c]);
              const bool take = v > best[c] || v != v;  // nan wins
              best[c] = take ? v : best[c];
              which[c] = take ? int32_t(e) : which[c];
            }
          });
          for (int64_t c = 0; c < width; ++c) put(out[r * channels + from + c], best[c]);
          for (int64_t c = 0; c < width; ++c) numbers[r * channels + from + c] = E(which[c]);
        });
      });
    });
  });
}

void max_pool_places(const WindowArgs& w, const Tensor& element, Tensor& index) {
  const int64_t channels = element.shape()[-1], size[] = {window_size(w, 1), window_size(w, 2)};
  with_element(element, [&](auto number) {
    using E = decltype(number);
    const E* const numbers = element.data<E>();
    int64_t* const out = index.mutable_data<int64_t>();
    for_places(element.shape()[0], w.out, channels * 4, [&](int64_t, const int64_t(&o)[3], int64_t r) {
      for (int64_t i = r * channels; i < (r + 1) * channels; ++i) {
        const int64_t e = numbers[i];
        out[i] = (place(w, 0, o[0], e / (size[0] * size[1])) * w.in[1] + place(w, 1, o[1], e / size[1] % size[0])) * w.in[2] +
                 place(w, 2, o[2], e % size[1]);
      }
    });
  });
}

void max_pool_backward(const WindowArgs& w, const Tensor& dy, const Tensor& element, Tensor& dx) {
  const int64_t channels = dx.shape()[-1];
  const Windows windows(w);
  with_floating("max_pool_backward", dx.dtype(), [&](auto zero) {
    with_element(element, [&](auto number) {
      using T = decltype(zero);
      using C = compute_t<T>;
      using E = decltype(number);
      const T* const grad = dy.data<T>();
      const E* const numbers = element.data<E>();
      T* const out = dx.mutable_data<T>();
      for_places(dx.shape()[0], w.in, channels * 4, [&](int64_t n, const int64_t(&p)[3], int64_t r) {
        for_blocks(channels, [&](int64_t from, auto width) {
          C sum[block] = {};
          windows.around(p, [&](int64_t window, const int64_t(&)[3], int64_t e) {
            const int64_t row = (n * w.places_out() + window) * channels + from;
            int32_t which[block];
#pragma omp simd
            for (int64_t c = 0; c < width; ++c) which[c] = numbers[row + c];
#pragma omp simd
            for (int64_t c = 0; c < width; ++c) {
              const C d = C(grad[row + c]);
              sum[c] += which[c] == int32_t(e) ? d : C(0);
            }
          });
          for (int64_t c = 0; c < width; ++c) put(out[r * channels + from + c], sum[c]);
        });
      });
    });
  });
}

namespace {

// What an element of window o counts for.
class Shares {
 public:
  RETAPE_INLINE Shares(const WindowArgs& w, const AvgPoolArgs& args)
      : divisor_(args.divisor), counts_(w.out, [&](int d, int64_t o) { return counted(w, args, d, o); }) {}
  template <class C> RETAPE_INLINE C of(const int64_t (&o)[3]) const {
    return C(1) / C(divisor_ ? divisor_ : counts_.at(0, o[0]) * counts_.at(1, o[1]) * counts_.at(2, o[2]));
  }

 private:
  int64_t divisor_;
  PerPlace<int64_t> counts_;
};

}  // namespace

void avg_pool(const WindowArgs& w, const AvgPoolArgs& args, const Tensor& x, Tensor& y) {
  const int64_t channels = x.shape()[-1], places = w.places_in();
  const Windows windows(w);
  const Shares shares(w, args);
  with_floating("avg_pool", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    const T* const in = x.data<T>();
    T* const out = y.mutable_data<T>();
    for_places(x.shape()[0], w.out, channels * max_of<int64_t>(1, w.elements()), [&](int64_t n, const int64_t(&o)[3], int64_t r) {
      const C share = shares.of<C>(o);
      for_blocks(channels, [&](int64_t from, auto width) {
        C sum[block] = {};
        windows.elements(o, [&](int64_t p, int64_t) {
          const T* const pixel = in + (n * places + p) * channels + from;
#pragma omp simd
          for (int64_t c = 0; c < width; ++c) sum[c] += C(pixel[c]);
        });
        for (int64_t c = 0; c < width; ++c) put(out[r * channels + from + c], sum[c] * share);
      });
    });
  });
}

void avg_pool_backward(const WindowArgs& w, const AvgPoolArgs& args, const Tensor& dy, Tensor& dx) {
  const int64_t channels = dx.shape()[-1];
  const Windows windows(w);
  const Shares shares(w, args);
  with_floating("avg_pool_backward", dx.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    const T* const grad = dy.data<T>();
    T* const out = dx.mutable_data<T>();
    for_places(dx.shape()[0], w.in, channels * 4, [&](int64_t n, const int64_t(&p)[3], int64_t r) {
      for_blocks(channels, [&](int64_t from, auto width) {
        C sum[block] = {};
        windows.around(p, [&](int64_t window, const int64_t(&o)[3], int64_t) {
          const C share = shares.of<C>(o);
          const T* const row = grad + (n * w.places_out() + window) * channels + from;
#pragma omp simd
          for (int64_t c = 0; c < width; ++c) sum[c] += C(row[c]) * share;
        });
        for (int64_t c = 0; c < width; ++c) put(out[r * channels + from + c], sum[c]);
      });
    });
  });
}

}  // namespace retape::RETAPE_LEVEL
