// Normalisation of (samples, positions, channels) by the moments of groups of channels over all positions of a sample. A block takes 32
// channels of a chunk of positions, and what chunks come to is joined in an order that the shape determines.
#include <retape/cuda/column_sums.h>

namespace retape::cuda {
namespace {

struct Sizes {
  int64_t samples, rows, channels, groups, per_group, chunks;
  Sizes(const Tensor& x, int64_t groups_)
      : samples(x.shape()[0]), rows(x.shape()[1]), channels(x.shape()[2]), groups(groups_), per_group(channels / groups_) {
    const int64_t wanted = 2048 / max_of(int64_t{1}, samples * tiles());
    chunks = max_of(int64_t{1}, min_of((rows + 31) / 32, wanted));
  }
  int64_t tiles() const { return (channels + column_lanes - 1) / column_lanes; }
  dim3 grid() const { return dim3(unsigned(tiles()), unsigned(chunks), unsigned(min_of(samples, int64_t{65535}))); }
  static dim3 block() { return dim3(column_lanes, column_rows); }
  __device__ __forceinline__ int64_t begin(int64_t chunk) const { return chunk * rows / chunks; }
};
// The channel of a thread; beyond the last ones there is nothing to do but to wait at barriers.
__device__ __forceinline__ int64_t own_channel() { return int64_t(blockIdx.x) * column_lanes + threadIdx.x; }

// parts (samples, chunks, 2, channels): means, and sums of squared differences to them
template <class T, class C> __global__ void moments_of_chunks(Sizes s, const T* x, C* parts) {
  __shared__ C shared[column_rows][column_lanes];
  const int64_t c = own_channel(), begin = s.begin(blockIdx.y), end = s.begin(blockIdx.y + 1);
  const bool there = c < s.channels;
  for (int64_t sample = blockIdx.z; sample < s.samples; sample += gridDim.z) {
    const T* const in = x + sample * s.rows * s.channels + c;
    const C pivot = there ? C(in[begin * s.channels]) : C(0);  // differences to any element are as small as the deviations
    C sum = 0, squares = 0;
    for (int64_t r = begin + threadIdx.y; there && r < end; r += column_rows) sum += C(in[r * s.channels]) - pivot;
    const C mean = pivot + sum_of_column(sum, shared) / C(end - begin);
    for (int64_t r = begin + threadIdx.y; there && r < end; r += column_rows)
      squares += (C(in[r * s.channels]) - mean) * (C(in[r * s.channels]) - mean);
    squares = sum_of_column(squares, shared);
    if (threadIdx.y == 0 && there) {
      C* const out = parts + (sample * s.chunks + blockIdx.y) * 2 * s.channels + c;
      out[0] = mean, out[s.channels] = squares;
    }
  }
}
// A block for each group of each sample.
template <class C> __global__ void join_moments(Sizes s, const C* parts, C* means, C* vars) {
  __shared__ C shared[33];
  for (int64_t i = blockIdx.x; i < s.samples * s.groups; i += gridDim.x) {
    const C* const of_sample = parts + i / s.groups * s.chunks * 2 * s.channels + i % s.groups * s.per_group;
    const C all = C(s.rows) * C(s.per_group), pivot = of_sample[0];
    C sum = 0, squares = 0;
    for (int64_t p = threadIdx.x; p < s.per_group * s.chunks; p += blockDim.x) {
      const int64_t k = p / s.per_group;
      sum += C(s.begin(k + 1) - s.begin(k)) * (of_sample[k * 2 * s.channels + p % s.per_group] - pivot);
    }
    const C mean = pivot + block_reduce(sum, shared, Plus{}) / all;
    for (int64_t p = threadIdx.x; p < s.per_group * s.chunks; p += blockDim.x) {
      const int64_t k = p / s.per_group;
      const C* const part = of_sample + k * 2 * s.channels + p % s.per_group;
      squares += part[s.channels] + C(s.begin(k + 1) - s.begin(k)) * (part[0] - mean) * (part[0] - mean);
    }
    squares = block_reduce(squares, shared, Plus{});
    if (threadIdx.x == 0) means[i] = mean, vars[i] = squares / all;
  }
}
template <class T, class C>
__global__ void normalize(Sizes s, const T* x, const C* weight, const C* bias, const C* means, const C* vars, C eps, T* y) {
  const int64_t c = own_channel(), begin = s.begin(blockIdx.y), end = s.begin(blockIdx.y + 1);
  if (c >= s.channels) return;
  const C shift = bias ? bias[c] : C(0), scale = weight ? weight[c] : C(1);
  for (int64_t sample = blockIdx.z; sample < s.samples; sample += gridDim.z) {
    const int64_t g = sample * s.groups + c / s.per_group;
    const C mean = means[g], factor = scale / m::sqrt(vars[g] + eps);
    for (int64_t r = sample * s.rows + begin + threadIdx.y; r < sample * s.rows + end; r += column_rows)
      y[r * s.channels + c] = T((C(x[r * s.channels + c]) - mean) * factor + shift);
  }
}

// parts (samples, chunks, 2, channels): sums of dy, and of dy hat
template <class T, class C>
__global__ void gradients_of_chunks(Sizes s, const T* dy, const T* x, const C* means, const C* vars, C eps, C* parts) {
  __shared__ C shared[column_rows][column_lanes];
  const int64_t c = own_channel(), begin = s.begin(blockIdx.y), end = s.begin(blockIdx.y + 1);
  const bool there = c < s.channels;
  for (int64_t sample = blockIdx.z; sample < s.samples; sample += gridDim.z) {
    const int64_t g = sample * s.groups + (there ? c / s.per_group : 0);
    const C mean = means[g], rstd = C(1) / m::sqrt(vars[g] + eps);
    C plain = 0, with_hat = 0;
    for (int64_t r = sample * s.rows + begin + threadIdx.y; there && r < sample * s.rows + end; r += column_rows) {
      const C d = C(dy[r * s.channels + c]);
      plain += d;
      with_hat += d * ((C(x[r * s.channels + c]) - mean) * rstd);
    }
    plain = sum_of_column(plain, shared);
    with_hat = sum_of_column(with_hat, shared);
    if (threadIdx.y == 0 && there) {
      C* const out = parts + (sample * s.chunks + blockIdx.y) * 2 * s.channels + c;
      out[0] = plain, out[s.channels] = with_hat;
    }
  }
}
// y (outer, n) = sums of x (outer, count, n) over the middle
template <class C> __global__ void add_up_middle(const C* x, int64_t outer, int64_t count, int64_t n, int64_t row, C* y) {
  for (int64_t i = thread_index(); i < outer * n; i += thread_count()) {
    C sum = 0;
    for (int64_t k = 0; k < count; ++k) sum += x[(i / n * count + k) * row + i % n];
    y[i] = sum;
  }
}
// totals (samples, 2, channels) to means over groups of weight times them, (samples, groups, 2)
template <class C> __global__ void means_of_groups(Sizes s, const C* totals, const C* weight, C* y) {
  __shared__ C shared[33];
  for (int64_t i = blockIdx.x; i < s.samples * s.groups; i += gridDim.x) {
    const int64_t first = i % s.groups * s.per_group;
    const C* const total = totals + i / s.groups * 2 * s.channels;
    C plain = 0, with_hat = 0;
    for (int64_t c = first + threadIdx.x; c < first + s.per_group; c += blockDim.x) {
      const C w = weight ? weight[c] : C(1);
      plain += w * total[c];
      with_hat += w * total[s.channels + c];
    }
    plain = block_reduce(plain, shared, Plus{});
    with_hat = block_reduce(with_hat, shared, Plus{});
    const C all = C(s.rows) * C(s.per_group);
    if (threadIdx.x == 0) y[2 * i] = plain / all, y[2 * i + 1] = with_hat / all;
  }
}
// A null `of_groups`: the moments were given.
template <class T, class C>
__global__ void gradient_of_input(Sizes s, const T* dy, const T* x, const C* weight, const C* means, const C* vars, C eps,
                                  const C* of_groups, T* dx) {
  const int64_t c = own_channel(), begin = s.begin(blockIdx.y), end = s.begin(blockIdx.y + 1);
  if (c >= s.channels) return;
  const C scale = weight ? weight[c] : C(1);
  for (int64_t sample = blockIdx.z; sample < s.samples; sample += gridDim.z) {
    const int64_t g = sample * s.groups + c / s.per_group;
    const C mean = means[g], rstd = C(1) / m::sqrt(vars[g] + eps), plain = of_groups ? of_groups[2 * g] : C(0),
            with_hat = of_groups ? of_groups[2 * g + 1] : C(0);
    for (int64_t r = sample * s.rows + begin + threadIdx.y; r < sample * s.rows + end; r += column_rows) {
      const int64_t i = r * s.channels + c;
      dx[i] = T(rstd * (C(dy[i]) * scale - plain - (C(x[i]) - mean) * rstd * with_hat));
    }
  }
}

}  // namespace

void group_norm(const Tensor& x, int64_t groups, bool given, const Tensor& weight, const Tensor& bias, double eps, Tensor& y, Tensor& mean,
                Tensor& var) {
  if (x.numel() == 0) return;
  const Sizes s(x, groups);
  with_floating("group_norm", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    if (!given) {
      const Scratch<C> parts(s.samples * s.chunks * 2 * s.channels);
      launch(moments_of_chunks<T, C>, s.grid(), Sizes::block(), 0, s, data<T>(x), static_cast<C*>(parts));
      launch(join_moments<C>, blocks_for(s.samples * s.groups, 1), 128, 0, s, static_cast<C*>(parts), data<C>(mean), data<C>(var));
    }
    launch(normalize<T, C>, s.grid(), Sizes::block(), 0, s, data<T>(x), data<C>(weight), data<C>(bias), data<C>(mean), data<C>(var), C(eps),
           data<T>(y));
  });
}

// With hat = (x - mean) rstd and g = dy weight: dx = rstd (g - mean(g) - hat mean(g hat)), or rstd g if the moments are given; means over
// a group. dweight and dbias may be undefined.
void group_norm_backward(const Tensor& dy, const Tensor& x, int64_t groups, bool given, const Tensor& weight, const Tensor& mean,
                         const Tensor& var, double eps, Tensor& dx, Tensor& dweight, Tensor& dbias) {
  if (x.numel() == 0) return;
  const Sizes s(x, groups);
  with_floating("group_norm_backward", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    const int64_t n = s.channels;
    const bool sums = !given || dweight || dbias;
    const Scratch<C> parts(sums ? s.samples * s.chunks * 2 * n : 0), totals_of_samples(sums ? s.samples * 2 * n : 0),
        groups_of_samples(given ? 0 : s.samples * s.groups * 2);
    C* const totals = totals_of_samples;
    if (sums) {
      launch(gradients_of_chunks<T, C>, s.grid(), Sizes::block(), 0, s, data<T>(dy), data<T>(x), data<C>(mean), data<C>(var), C(eps),
             static_cast<C*>(parts));
      launch(add_up_middle<C>, blocks_for(s.samples * 2 * n), 256, 0, static_cast<C*>(parts), s.samples, s.chunks, 2 * n, 2 * n, totals);
      if (dbias) launch(add_up_middle<C>, blocks_for(n), 256, 0, totals, int64_t{1}, s.samples, n, 2 * n, data<C>(dbias));
      if (dweight) launch(add_up_middle<C>, blocks_for(n), 256, 0, totals + n, int64_t{1}, s.samples, n, 2 * n, data<C>(dweight));
    }
    if (!given)
      launch(means_of_groups<C>, blocks_for(s.samples * s.groups, 1), 128, 0, s, totals, data<C>(weight),
             static_cast<C*>(groups_of_samples));
    launch(gradient_of_input<T, C>, s.grid(), Sizes::block(), 0, s, data<T>(dy), data<T>(x), data<C>(weight), data<C>(mean), data<C>(var),
           C(eps), given ? nullptr : static_cast<C*>(groups_of_samples), data<T>(dx));
  });
}

}  // namespace retape::cuda
