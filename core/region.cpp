// Means and largest elements of the bins of regions. Channels lie side by side; a mean is that over the rows of a bin of those over its columns, so that a
// pixel is read once however many samples it is near to.
#include <retape/core/regions.h>
#include <retape/core/sums.h>

namespace retape::RETAPE_LEVEL {
namespace {

constexpr int64_t block = 64;  // channels

// The image that a box names. Throws for one that is not there.
template <class C> RETAPE_INLINE void check_images(const char* op, const C* boxes, int64_t k, int64_t images) {
  for (int64_t i = 0; i < k; ++i) {
    const C n = boxes[i * 5];
    if (!(n > -1 && n < C(images))) detail::index_out_of_range(op, n == n && n > C(-1e15) && n < C(1e15) ? int64_t(n) : -1, images);
  }
}

// The bins of a box in dim d, each with the pixels that have a weight.
template <class C> class Bins {
 public:
  RETAPE_INLINE Bins(const RegionArgs& args, int d)
      : args_(args),
        d_(d),
        size_(args.in[d]),
        place_(args.out[d] * size_),
        weight_(args.out[d] * size_),
        dense_(size_),
        count_(args.out[d]) {}
  RETAPE_INLINE void set(const C* box) {
    const C low = box[1 + (d_ == 0)], high = box[3 + (d_ == 0)];
    for (int64_t b = 0; b < args_.out[d_]; ++b) {
      const Range r = mean_bin<C>(args_, d_, low, high, b, dense_);
      int64_t n = 0;
      for (int64_t i = r.begin; i < r.end; ++i)
        if (dense_[i] != 0) place_[b * size_ + n] = i, weight_[b * size_ + n++] = dense_[i];
      count_[b] = n;
    }
  }
  // Calls f(place, weight) for the pixels of bin b.
  template <class F> RETAPE_INLINE void pixels(int64_t b, const F& f) const {
    for (int64_t i = b * size_; i < b * size_ + count_[b]; ++i) f(place_[i], weight_[i]);
  }

 private:
  const RegionArgs& args_;
  const int d_;
  const int64_t size_;
  Scratch<int64_t> place_;
  Scratch<C> weight_, dense_;
  Scratch<int64_t> count_;
};

// Sizes of x (N, in, parts, C).
struct Layout {
  int64_t channels, pixel, places, bins, parts;
  RETAPE_INLINE Layout(const RegionArgs& args, const Tensor& x)
      : channels(x.shape()[-1]),
        pixel(x.shape()[-1] * x.shape()[-2]),
        places(args.in[0] * args.in[1]),
        bins(args.out[0] * args.out[1]),
        parts(x.shape()[-2]) {}
  RETAPE_INLINE int64_t part(int64_t bin) const { return parts == 1 ? 0 : bin * channels; }
};

// Calls f(n, first channel, how many) for blocks of channels of images, each of which one task has.
template <class F> RETAPE_INLINE void for_blocks_of_images(const Layout& layout, int64_t batch, const F& f) {
  const int64_t blocks = (layout.channels + block - 1) / block;
  parallel_for(batch * blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task % blocks * block;
      f(task / blocks, first, min_of(block, layout.channels - first));
    }
  });
}

}  // namespace

void region_mean(const char* op, const RegionArgs& args, const Tensor& x, const Tensor& boxes, Tensor& y) {
  const Layout layout(args, x);
  with_floating("region_mean", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    const T* const in = x.data<T>();
    const C* const box = boxes.data<C>();
    T* const out = y.mutable_data<T>();
    check_images(op, box, boxes.shape()[0], x.shape()[0]);
    parallel_for(boxes.shape()[0], row_grain(layout.bins * layout.channels * 8), [&](int64_t begin, int64_t end) {
      Bins<C> rows(args, 0), columns(args, 1);
      for (int64_t k = begin; k < end; ++k) {
        rows.set(box + k * 5), columns.set(box + k * 5);
        const T* const image = in + int64_t(box[k * 5]) * layout.places * layout.pixel;
        for (int64_t b = 0; b < layout.bins; ++b)
          for (int64_t from = 0; from < layout.channels; from += block) {
            const int64_t width = min_of(block, layout.channels - from);
            C sum[block] = {};
            rows.pixels(b / args.out[1], [&](int64_t i, C row) {
              columns.pixels(b % args.out[1], [&](int64_t j, C column) {
                const T* const pixel = image + (i * args.in[1] + j) * layout.pixel + layout.part(b) + from;
                const C weight = row * column;
                if (width == block) {
#pragma omp simd
                  for (int64_t c = 0; c < block; ++c) sum[c] += weight * C(pixel[c]);
                } else {
#pragma omp simd
                  for (int64_t c = 0; c < width; ++c) sum[c] += weight * C(pixel[c]);
                }
              });
            });
            T* const to = out + (k * layout.bins + b) * layout.channels + from;
            for (int64_t c = 0; c < width; ++c) put(to[c], sum[c]);
          }
      }
    });
  });
}

// One task has an image's boxes one after the other, for some of the channels.
void region_mean_backward(const char* op, const RegionArgs& args, const Tensor& dy, const Tensor& boxes, Tensor& dx) {
  const Layout layout(args, dx);
  with_floating("region_mean_backward", dx.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    const T* const grad = dy.data<T>();
    const C* const box = boxes.data<C>();
    check_images(op, box, boxes.shape()[0], dx.shape()[0]);
    Sums<T> sums(dx, true);
    C* const images = sums.get();
    for_blocks_of_images(layout, dx.shape()[0], [&](int64_t n, int64_t from, int64_t width) {
      Bins<C> rows(args, 0), columns(args, 1);
      for (int64_t k = 0; k < boxes.shape()[0]; ++k) {
        if (int64_t(box[k * 5]) != n) continue;
        rows.set(box + k * 5), columns.set(box + k * 5);
        for (int64_t b = 0; b < layout.bins; ++b) {
          C d[block];
          const T* const row_of_dy = grad + (k * layout.bins + b) * layout.channels + from;
          for (int64_t c = 0; c < width; ++c) d[c] = C(row_of_dy[c]);
          rows.pixels(b / args.out[1], [&](int64_t i, C row) {
            columns.pixels(b % args.out[1], [&](int64_t j, C column) {
              C* const pixel = images + (n * layout.places + i * args.in[1] + j) * layout.pixel + layout.part(b) + from;
              const C weight = row * column;
              if (width == block) {
#pragma omp simd
                for (int64_t c = 0; c < block; ++c) pixel[c] += weight * d[c];
              } else {
#pragma omp simd
                for (int64_t c = 0; c < width; ++c) pixel[c] += weight * d[c];
              }
            });
          });
        }
      }
    });
    sums.store();
  });
}

void region_max(const char* op, const RegionArgs& args, const Tensor& x, const Tensor& boxes, Tensor& y, Tensor& place) {
  const Layout layout(args, x);
  with_floating("region_max", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    const T* const in = x.data<T>();
    const C* const box = boxes.data<C>();
    T* const out = y.mutable_data<T>();
    int32_t* const places = place.mutable_data<int32_t>();
    check_images(op, box, boxes.shape()[0], x.shape()[0]);
    parallel_for(boxes.shape()[0] * layout.bins, row_grain(layout.channels * 16), [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        const C* const from = box + t / layout.bins * 5;
        const int64_t b = t % layout.bins;
        const Range rows = max_bin(args, 0, from[2], from[4], b / args.out[1]),
                    columns = max_bin(args, 1, from[1], from[3], b % args.out[1]);
        const T* const image = in + int64_t(from[0]) * layout.places * layout.pixel;
        for (int64_t first = 0; first < layout.channels; first += block) {
          const int64_t width = min_of(block, layout.channels - first);
          C best[block];
          int32_t which[block];
          const C empty = from[1] + from[2] + from[3] + from[4];
          for (int64_t c = 0; c < width; ++c) best[c] = empty != empty ? empty : C(0), which[c] = -1;
          if (empty == empty)
            for (int64_t i = rows.begin; i < rows.end; ++i)
              for (int64_t j = columns.begin; j < columns.end; ++j) {
                const int32_t at = int32_t(i * args.in[1] + j);
                const T* const pixel = image + int64_t(at) * layout.pixel + first;
#pragma omp simd
                for (int64_t c = 0; c < width; ++c) {
                  const C v = C(pixel[c]);
                  const bool take = which[c] < 0 || v > best[c] || v != v;  // nan wins
                  best[c] = take ? v : best[c];
                  which[c] = take ? at : which[c];
                }
              }
          for (int64_t c = 0; c < width; ++c) put(out[t * layout.channels + first + c], best[c]);
          for (int64_t c = 0; c < width; ++c) places[t * layout.channels + first + c] = which[c];
        }
      }
    });
  });
}

void region_max_backward(const char*, const RegionArgs& args, const Tensor& dy, const Tensor& boxes, const Tensor& place, Tensor& dx) {
  const Layout layout(args, dx);
  with_floating("region_max_backward", dx.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    const T* const grad = dy.data<T>();
    const C* const box = boxes.data<C>();
    const int32_t* const places = place.data<int32_t>();
    Sums<T> sums(dx, true);
    C* const images = sums.get();
    for_blocks_of_images(layout, dx.shape()[0], [&](int64_t n, int64_t from, int64_t width) {
      C* const image = images + n * layout.places * layout.pixel + from;
      for (int64_t k = 0; k < boxes.shape()[0]; ++k) {
        if (int64_t(box[k * 5]) != n) continue;
        for (int64_t t = k * layout.bins; t < (k + 1) * layout.bins; ++t)
          for (int64_t c = 0; c < width; ++c) {
            const int64_t i = t * layout.channels + from + c;
            if (places[i] >= 0) image[places[i] * layout.pixel + c] += C(grad[i]);
          }
      }
    });
    sums.store();
  });
}

}  // namespace retape::RETAPE_LEVEL
