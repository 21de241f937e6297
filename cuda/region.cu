// Means and largest elements of the bins of regions. Weights of pixels are listed once a box; a pixel's gradient is summed by one thread a channel, which
// looks at all boxes in their order.
#include <retape/cuda/launch.h>

#include <retape/core/regions.h>

namespace retape::cuda {
namespace {

// Sizes of x (N, in, parts, C), boxes (K, 5) and y (K, out, C).
struct Layout {
  RegionArgs args;
  int64_t images, boxes, channels, parts;
  Layout(const RegionArgs& args, const Tensor& x, const Tensor& boxes)
      : args(args), images(x.shape()[0]), boxes(boxes.shape()[0]), channels(x.shape()[-1]), parts(x.shape()[-2]) {}
  RETAPE_HD int64_t places() const { return args.in[0] * args.in[1]; }
  RETAPE_HD int64_t bins() const { return args.out[0] * args.out[1]; }
  RETAPE_HD int64_t ranges() const { return args.out[0] + args.out[1]; }
};

// Of every box: `image`, -1 for one that is not there; the pixels of its bins in rows, then columns; and, of means, their weights.
template <class C> struct Bins {
  int64_t* image;
  Range* range;     // (K, out[0] + out[1])
  C *row, *column;  // (K, out[0], in[0]), (K, out[1], in[1])
};
template <class C> class ScratchBins {
 public:
  explicit ScratchBins(const Layout& l, bool weights)
      : image_(l.boxes),
        range_(l.boxes * l.ranges()),
        row_(weights ? l.boxes * l.args.out[0] * l.args.in[0] : 0),
        column_(weights ? l.boxes * l.args.out[1] * l.args.in[1] : 0) {}
  operator Bins<C>() const { return {image_, range_, row_, column_}; }

 private:
  Scratch<int64_t> image_;
  Scratch<Range> range_;
  Scratch<C> row_, column_;
};

// A thread for every bin in each dim.
template <class C> __global__ void find_bins(Layout l, bool mean, const C* boxes, Fault* fault, const char* op, Bins<C> bins) {
  for (int64_t t = thread_index(); t < l.boxes * l.ranges(); t += thread_count()) {
    const int64_t k = t / l.ranges(), bin = t % l.ranges();
    const C* const box = boxes + k * 5;
    const C n = box[0];
    const bool there = n > -1 && n < C(l.images);
    if (bin == 0) {
      if (!there) report(fault, op, n == n && n > C(-1e15) && n < C(1e15) ? int64_t(n) : -1, -1, l.images);
      bins.image[k] = there ? int64_t(n) : -1;
    }
    const int d = bin < l.args.out[0] ? 0 : 1;
    const int64_t b = d == 0 ? bin : bin - l.args.out[0];
    const C low = box[d == 0 ? 2 : 1], high = box[d == 0 ? 4 : 3];
    if (mean) bins.range[t] = mean_bin(l.args, d, low, high, b, (d == 0 ? bins.row : bins.column) + (k * l.args.out[d] + b) * l.args.in[d]);
    else bins.range[t] = max_bin(l.args, d, low, high, b);
  }
}
template <class C> void find(const Layout& l, bool mean, const Tensor& boxes, const char* op, const Bins<C>& bins) {
  launch(find_bins<C>, blocks_for(l.boxes * l.ranges()), 256, 0, l, mean, data<C>(boxes), faults(), op, bins);
}

template <class T, class C> __global__ void means(Layout l, Bins<C> bins, int64_t n, const T* x, T* y) {
  for (int64_t t = thread_index(); t < n; t += thread_count()) {
    const int64_t c = t % l.channels, b = t / l.channels % l.bins(), k = t / l.channels / l.bins();
    const int64_t b0 = b / l.args.out[1], b1 = b % l.args.out[1], part = l.parts == 1 ? 0 : b;
    const Range rows = bins.range[k * l.ranges() + b0], columns = bins.range[k * l.ranges() + l.args.out[0] + b1];
    const C *const row = bins.row + (k * l.args.out[0] + b0) * l.args.in[0], *const column =
                                                                                 bins.column + (k * l.args.out[1] + b1) * l.args.in[1];
    C sum = 0;
    if (bins.image[k] >= 0)
      for (int64_t i = rows.begin; i < rows.end; ++i)
        for (int64_t j = columns.begin; j < columns.end; ++j)
          if (const C weight = row[i] * column[j]; weight != 0)
            sum += weight * C(x[((bins.image[k] * l.places() + i * l.args.in[1] + j) * l.parts + part) * l.channels + c]);
    y[t] = T(sum);
  }
}
// Calls f(k, bin) for the bins of boxes that have this pixel.
template <class C, class F>
__device__ __forceinline__ void for_bins_around(const Layout& l, const Bins<C>& bins, int64_t image, int64_t i, int64_t j, const F& f) {
  for (int64_t k = 0; k < l.boxes; ++k) {
    if (bins.image[k] != image) continue;
    const Range *const rows = bins.range + k * l.ranges(), *const columns = rows + l.args.out[0];
    for (int64_t b0 = 0; b0 < l.args.out[0]; ++b0) {
      if (i < rows[b0].begin || i >= rows[b0].end) continue;
      for (int64_t b1 = 0; b1 < l.args.out[1]; ++b1)
        if (j >= columns[b1].begin && j < columns[b1].end) f(k, b0, b1);
    }
  }
}
template <class T, class C> __global__ void means_backward(Layout l, Bins<C> bins, int64_t n, const T* dy, T* dx) {
  for (int64_t t = thread_index(); t < n; t += thread_count()) {
    const int64_t c = t % l.channels, part = t / l.channels % l.parts, p = t / l.channels / l.parts;
    const int64_t i = p % l.places() / l.args.in[1], j = p % l.args.in[1];
    C sum = 0;
    for_bins_around(l, bins, p / l.places(), i, j, [&](int64_t k, int64_t b0, int64_t b1) {
      const int64_t b = b0 * l.args.out[1] + b1;
      if (l.parts > 1 && b != part) return;
      const C weight = bins.row[(k * l.args.out[0] + b0) * l.args.in[0] + i] * bins.column[(k * l.args.out[1] + b1) * l.args.in[1] + j];
      if (weight != 0) sum += weight * C(dy[(k * l.bins() + b) * l.channels + c]);
    });
    dx[t] = T(sum);
  }
}

template <class T, class C> __global__ void largest(Layout l, Bins<C> bins, const C* boxes, int64_t n, const T* x, T* y, int32_t* place) {
  for (int64_t t = thread_index(); t < n; t += thread_count()) {
    const int64_t c = t % l.channels, b = t / l.channels % l.bins(), k = t / l.channels / l.bins();
    const Range rows = bins.range[k * l.ranges() + b / l.args.out[1]];
    const Range columns = bins.range[k * l.ranges() + l.args.out[0] + b % l.args.out[1]];
    const C *const box = boxes + k * 5, empty = box[1] + box[2] + box[3] + box[4];
    C best = empty != empty ? empty : C(0);
    int32_t which = -1;
    if (bins.image[k] >= 0 && empty == empty)
      for (int64_t i = rows.begin; i < rows.end; ++i)
        for (int64_t j = columns.begin; j < columns.end; ++j) {
          const int64_t at = i * l.args.in[1] + j;
          const C v = C(x[(bins.image[k] * l.places() + at) * l.channels + c]);
          if (which < 0 || v > best || v != v) best = v, which = int32_t(at);  // nan wins
        }
    y[t] = T(best), place[t] = which;
  }
}
template <class T, class C> __global__ void largest_backward(Layout l, Bins<C> bins, int64_t n, const T* dy, const int32_t* place, T* dx) {
  for (int64_t t = thread_index(); t < n; t += thread_count()) {
    const int64_t c = t % l.channels, p = t / l.channels, at = p % l.places();
    C sum = 0;
    for_bins_around(l, bins, p / l.places(), at / l.args.in[1], at % l.args.in[1], [&](int64_t k, int64_t b0, int64_t b1) {
      const int64_t from = (k * l.bins() + b0 * l.args.out[1] + b1) * l.channels + c;
      if (place[from] == at) sum += C(dy[from]);
    });
    dx[t] = T(sum);
  }
}

}  // namespace

void region_mean(const char* op, const RegionArgs& args, const Tensor& x, const Tensor& boxes, Tensor& y) {
  const Layout l(args, x, boxes);
  with_floating("region_mean", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    const ScratchBins<C> bins(l, true);
    find<C>(l, true, boxes, op, bins);
    launch(means<T, C>, blocks_for(y.numel()), 256, 0, l, Bins<C>(bins), y.numel(), data<T>(x), data<T>(y));
  });
}
void region_mean_backward(const char* op, const RegionArgs& args, const Tensor& dy, const Tensor& boxes, Tensor& dx) {
  const Layout l(args, dx, boxes);
  with_floating("region_mean_backward", dx.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    const ScratchBins<C> bins(l, true);
    find<C>(l, true, boxes, op, bins);
    launch(means_backward<T, C>, blocks_for(dx.numel()), 256, 0, l, Bins<C>(bins), dx.numel(), data<T>(dy), data<T>(dx));
  });
}
void region_max(const char* op, const RegionArgs& args, const Tensor& x, const Tensor& boxes, Tensor& y, Tensor& place) {
  const Layout l(args, x, boxes);
  with_floating("region_max", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    const ScratchBins<C> bins(l, false);
    find<C>(l, false, boxes, op, bins);
    launch(largest<T, C>, blocks_for(y.numel()), 256, 0, l, Bins<C>(bins), data<C>(boxes), y.numel(), data<T>(x), data<T>(y),
           data<int32_t>(place));
  });
}
void region_max_backward(const char* op, const RegionArgs& args, const Tensor& dy, const Tensor& boxes, const Tensor& place, Tensor& dx) {
  const Layout l(args, dx, boxes);
  with_floating("region_max_backward", dx.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    const ScratchBins<C> bins(l, false);
    find<C>(l, false, boxes, op, bins);
    launch(largest_backward<T, C>, blocks_for(dx.numel()), 256, 0, l, Bins<C>(bins), dx.numel(), data<T>(dy), data<int32_t>(place),
           data<T>(dx));
  });
}

}  // namespace retape::cuda
