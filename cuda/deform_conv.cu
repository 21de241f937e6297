// Windows whose elements are moved, as the rows of a matrix, and back. A pixel's gradient is summed by one thread a channel: what goes to a pixel is
// first sorted to lie together, in the order of the samples.
#include <retape/cuda/launch.h>

#include <retape/core/bilinear.h>
#include <retape/core/windows.h>
#include <retape/cuda/libraries/sort.h>

namespace retape::cuda {
namespace {

// What is sampled: x (N, in, C), offset, mask and columns as core/kernel_list.inc says. A window has `each` samples, (offset groups, elements).
template <class T> struct Samples {
  using C = compute_t<T>;
  WindowArgs w;
  int64_t batch, channels, elements, each, run, offset_run;
  const T *x, *offset, *mask;

  Samples(const WindowArgs& window, int64_t groups, const Tensor& x, const Tensor& by, const Tensor& share)
      : w(window),
        batch(x.shape()[0]),
        channels(x.shape()[-1]),
        elements(w.elements()),
        each(by.shape()[-1] / 2),
        run(channels / groups),
        offset_run(channels / (each / elements)),
        x(data<T>(x)),
        offset(data<T>(by)),
        mask(data<T>(share)) {}
  int64_t windows() const { return batch * w.places_out(); }
  // Sample s of window r of all images.
  __device__ __forceinline__ Bilinear<C> at(int64_t r, int64_t s) const {
    const int64_t e = s % elements, o = r % w.places_out();
    const T* const by = offset + (r * each + s) * 2;
    return bilinear_at<C>(C(place(w, 1, o / w.out[2], e / w.kernel[2])) + C(by[0]),
                          C(place(w, 2, o % w.out[2], e % w.kernel[2])) + C(by[1]), w.in[1], w.in[2]);
  }
  __device__ __forceinline__ C share(int64_t r, int64_t s) const { return mask ? C(mask[r * each + s]) : C(1); }
  __device__ __forceinline__ const T* image(int64_t r) const { return x + r / w.places_out() * w.places_in() * channels; }
  // Where channel c of element e of window r lies in columns.
  __device__ __forceinline__ int64_t column(int64_t r, int64_t e, int64_t c) const {
    return r * elements * channels + (c / run * elements + e) * run + c % run;
  }
};

template <class T> __global__ void sample_columns(Samples<T> samples, int64_t n, T* columns) {
  using C = compute_t<T>;
  for (int64_t t = thread_index(); t < n; t += thread_count()) {
    const int64_t channels = samples.channels, c = t % channels, e = t / channels % samples.elements, r = t / channels / samples.elements;
    const int64_t s = c / samples.offset_run * samples.elements + e;
    const Bilinear<C> b = samples.at(r, s);
    const T* const image = samples.image(r) + c;
    C sum = b.unknown;
    for (int k = 0; k < 4; ++k)
      if (b.place[k] >= 0) sum += b.weight(k) * C(image[b.place[k] * channels]);
    columns[samples.column(r, e, c)] = T(samples.share(r, s) * sum);
  }
}

// A warp for every sample.
template <class T> __global__ void differentiate_offsets(Samples<T> samples, int64_t n, const T* dcolumns, T* doffset, T* dmask) {
  using C = compute_t<T>;
  const int lane = int(threadIdx.x) % 32;
  for (int64_t t = thread_index() / 32; t < n; t += thread_count() / 32) {
    const int64_t r = t / samples.each, s = t % samples.each, first = s / samples.elements * samples.offset_run;
    const Bilinear<C> b = samples.at(r, s);
    const T* const image = samples.image(r);
    C dot[4] = {};
    if (b.inside)
      for (int64_t c = first + lane; c < first + samples.offset_run; c += 32) {
        const C d = C(dcolumns[samples.column(r, s % samples.elements, c)]);
        for (int k = 0; k < 4; ++k)
          if (b.place[k] >= 0) dot[k] += d * C(image[b.place[k] * samples.channels + c]);
      }
    for (int k = 0; k < 4; ++k) dot[k] = warp_reduce(dot[k], Plus{});
    if (lane) continue;
    const C m = samples.share(r, s);
    if (doffset) doffset[2 * t] = T(m * b.along_y(dot) + b.unknown), doffset[2 * t + 1] = T(m * b.along_x(dot) + b.unknown);
    if (dmask) dmask[t] = T(b.weight(0) * dot[0] + b.weight(1) * dot[1] + b.weight(2) * dot[2] + b.weight(3) * dot[3] + b.unknown);
  }
}

// The pixels of all samples: pixel 4 t + k of sample t. Keys are (image, offset group, place), `keys_end` for a pixel that is not there.
template <class T, class K> __global__ void list_pixels(Samples<T> samples, int64_t n, K keys_end, K* keys, uint32_t* pixels) {
  for (int64_t t = thread_index(); t < n; t += thread_count()) {
    const int64_t r = t / samples.each, s = t % samples.each, places = samples.w.places_in();
    const auto b = samples.at(r, s);
    const int64_t first = (r / samples.w.places_out() * (samples.each / samples.elements) + s / samples.elements) * places;
    for (int k = 0; k < 4; ++k) {
      keys[4 * t + k] = b.place[k] < 0 ? keys_end : K(first + b.place[k]);
      pixels[4 * t + k] = uint32_t(4 * t + k);
    }
  }
}
// The first of n sorted keys that is not below this one.
template <class K> __device__ __forceinline__ int64_t first_of(const K* keys, int64_t n, K key) {
  int64_t begin = 0;
  while (n > 0) {
    const int64_t half = n / 2;
    if (keys[begin + half] < key) begin += half + 1, n -= half + 1;
    else n = half;
  }
  return begin;
}
template <class T, class K>
__global__ void sum_pixels(Samples<T> samples, const T* dcolumns, const K* keys, const uint32_t* pixels, int64_t n, int64_t elements,
                           T* dx) {
  using C = compute_t<T>;
  for (int64_t t = thread_index(); t < elements; t += thread_count()) {
    const int64_t c = t % samples.channels, p = t / samples.channels, places = samples.w.places_in();
    const K key = K((p / places * (samples.each / samples.elements) + c / samples.offset_run) * places + p % places);
    C sum = 0;
    for (int64_t i = first_of(keys, n, key); i < n && keys[i] == key; ++i) {
      const int64_t r = pixels[i] / 4 / samples.each, s = pixels[i] / 4 % samples.each;
      sum += samples.share(r, s) * samples.at(r, s).weight(int(pixels[i] % 4)) * C(dcolumns[samples.column(r, s % samples.elements, c)]);
    }
    dx[t] = T(sum);
  }
}
template <class T, class K> void image_backward(const Samples<T>& samples, const T* dcolumns, int64_t keys_end, Tensor& dx) {
  const int64_t n = samples.windows() * samples.each;
  const Scratch<K> keys(8 * n);
  const Scratch<uint32_t> pixels(8 * n);
  launch(list_pixels<T, K>, blocks_for(n), 256, 0, samples, n, K(keys_end), static_cast<K*>(keys), static_cast<uint32_t*>(pixels));
  int bits = 1;
  while (keys_end >> bits) ++bits;
  library::Pairs<K> pairs{keys, keys + 4 * n, pixels, pixels + 4 * n};
  if (n > 0) library::sort(pairs, 4 * n, bits);
  launch(sum_pixels<T, K>, blocks_for(dx.numel()), 256, 0, samples, dcolumns, pairs.keys, pairs.values, 4 * n, dx.numel(), data<T>(dx));
}

}  // namespace

void deformable_columns(const WindowArgs& w, int64_t groups, const Tensor& x, const Tensor& offset, const Tensor& mask, Tensor& columns) {
  const int64_t n = columns.numel();
  with_floating("deformable_columns", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    launch(sample_columns<T>, blocks_for(n), 256, 0, Samples<T>(w, groups, x, offset, mask), n, data<T>(columns));
  });
}
void deformable_columns_backward(const WindowArgs& w, int64_t groups, const Tensor& dcolumns, const Tensor& x, const Tensor& offset,
                                 const Tensor& mask, Tensor& dx, Tensor& doffset, Tensor& dmask) {
  with_floating("deformable_columns_backward", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const Samples<T> samples(w, groups, x, offset, mask);
    const int64_t n = samples.windows() * samples.each;
    if (doffset || dmask)
      launch(differentiate_offsets<T>, blocks_for(n * 32), 256, 0, samples, n, data<T>(dcolumns), data<T>(doffset), data<T>(dmask));
    if (!dx) return;
    if (n >= int64_t{1} << 29)
      retape::detail::kernel_error("deform_conv2d: an image has more samples than are sorted at once; its backward on CUDA takes 2^29");
    const int64_t keys_end = samples.batch * (samples.each / samples.elements) * w.places_in();
    if (keys_end < int64_t{0xffffffff}) image_backward<T, uint32_t>(samples, data<T>(dcolumns), keys_end, dx);
    else image_backward<T, uint64_t>(samples, data<T>(dcolumns), keys_end, dx);
  });
}

}  // namespace retape::cuda
