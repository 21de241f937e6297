// The largest element and the mean of windows. Channels lie side by side, so a block of them goes through a window at once.
#include <retape/core/put.h>
#include <retape/core/window_loops.h>

namespace retape::RETAPE_LEVEL {
namespace {

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
