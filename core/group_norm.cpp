// Normalisation of (samples, positions, channels) by the moments of groups of channels over all positions of a sample: group norm, instance
// norm (a group a channel), and batch norm (which has one sample of all positions). Sums run down columns, over chunks of rows that the
// shape alone determines.
#include <retape/core/column_sums.h>

namespace retape::RETAPE_LEVEL {
namespace {

// Rows of one sample, cut so that a chunk stays in the cache for a second pass.
struct Sizes {
  int64_t samples, rows, channels, groups, per_group, chunks;
  Sizes(const Tensor& x, int64_t groups_)
      : samples(x.shape()[0]),
        rows(x.shape()[1]),
        channels(x.shape()[2]),
        groups(groups_),
        per_group(channels / groups_),
        chunks(max_of(int64_t{1}, min_of(int64_t{256}, min_of(rows / 16, rows * channels / 16384)))) {}
  RETAPE_INLINE int64_t begin(int64_t chunk) const { return chunk * rows / chunks; }
};

// Calls f(sample, first row, last row, number of the chunk among all) for every chunk.
template <class F> RETAPE_INLINE void for_row_chunks(const Sizes& s, const F& f) {
  const int64_t size = max_of(int64_t{1}, s.rows * s.channels / s.chunks);
  parallel_for(s.samples * s.chunks, max_of(int64_t{1}, 16384 / size), [&](int64_t from, int64_t to) {
    for (int64_t t = from; t < to; ++t) f(t / s.chunks, s.begin(t % s.chunks), s.begin(t % s.chunks + 1), t);
  });
}

// The means of columns of x (rows, n), and the sums of squared differences to them.
template <class T, class C> void column_moments(const T* x, int64_t rows, int64_t n, C* mean, C* squares) {
  for (int64_t c = 0; c < n; ++c) mean[c] = squares[c] = 0;
  for (int64_t r = 1; r < rows; ++r) {
    const T* const row = x + r * n;
#pragma omp simd
    for (int64_t c = 0; c < n; ++c) mean[c] += C(row[c]) - C(x[c]);  // as small as the deviations, however large the mean is
  }
#pragma omp simd
  for (int64_t c = 0; c < n; ++c) mean[c] = C(x[c]) + mean[c] / C(rows);
  for (int64_t r = 0; r < rows; ++r) {
    const T* const row = x + r * n;
#pragma omp simd
    for (int64_t c = 0; c < n; ++c) squares[c] += (C(row[c]) - mean[c]) * (C(row[c]) - mean[c]);
  }
}

// mean, var (samples, groups). Means and squares of parts are joined pairwise (Chan et al. 1979).
template <class T, class C> void moments(const T* x, const Sizes& s, C* mean, C* var) {
  const int64_t n = s.channels;
  const Scratch<C> parts(s.samples * s.chunks * 2 * n);
  C* const all = parts;
  for_row_chunks(s, [&](int64_t sample, int64_t begin, int64_t end, int64_t t) {
    column_moments<T, C>(x + (sample * s.rows + begin) * n, end - begin, n, all + t * 2 * n, all + t * 2 * n + n);
  });
  parallel_for(s.samples, max_of(int64_t{1}, 16384 / (s.chunks * n + 1)), [&](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i) {
      C *const center = all + i * s.chunks * 2 * n, *const squares = center + n;  // the first chunk's become all chunks'
      for (int64_t k = 1; k < s.chunks; ++k) {
        const C *const other = center + k * 2 * n, *const more = other + n;
        const C before = C(s.begin(k)), now = C(s.begin(k + 1) - s.begin(k)), share = now / (before + now);
#pragma omp simd
        for (int64_t c = 0; c < n; ++c) {
          const C d = other[c] - center[c];
          center[c] += d * share;
          squares[c] += more[c] + d * d * before * share;
        }
      }
      for (int64_t g = 0; g < s.groups; ++g) {
        const C *const of_group = center + g * s.per_group, *const spread = squares + g * s.per_group;
        C sum = 0, square = 0;
        for (int64_t c = 0; c < s.per_group; ++c) sum += of_group[c] - of_group[0];
        const C m = of_group[0] + sum / C(s.per_group);
        for (int64_t c = 0; c < s.per_group; ++c) square += spread[c] + C(s.rows) * (of_group[c] - m) * (of_group[c] - m);
        mean[i * s.groups + g] = m;
        var[i * s.groups + g] = square / (C(s.rows) * C(s.per_group));
      }
    }
  });
}

// What each channel of each sample is centred and scaled by: (samples, channels) each.
template <class C> struct Channels {
  Scratch<C> center_values, rstd_values;
  C *center, *rstd;
  Channels(const Sizes& s, const C* mean, const C* var, C eps)
      : center_values(s.samples * s.channels), rstd_values(s.samples * s.channels), center(center_values), rstd(rstd_values) {
    for (int64_t i = 0; i < s.samples * s.groups; ++i) {
      const C r = C(1) / m::sqrt(var[i] + eps);
      for (int64_t c = i * s.per_group; c < (i + 1) * s.per_group; ++c) center[c] = mean[i], rstd[c] = r;
    }
  }
};

}  // namespace

void group_norm(const Tensor& x, int64_t groups, bool given, const Tensor& weight, const Tensor& bias, double eps, Tensor& y, Tensor& mean,
                Tensor& var) {
  const Sizes s(x, groups);
  if (x.numel() == 0) return;
  with_floating("group_norm", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    const int64_t n = s.channels;
    const T* const in = x.data<T>();
    T* const out = y.mutable_data<T>();
    if (!given) moments<T, C>(in, s, mean.mutable_data<C>(), var.mutable_data<C>());
    const Widened<C> w(weight, n, C(1)), b(bias, n, C(0));
    const Channels<C> by(s, mean.data<C>(), var.data<C>(), C(eps));
    const C* const shift = b;
    for (int64_t i = 0; i < s.samples; ++i)
      for (int64_t c = 0; c < n; ++c) by.rstd[i * n + c] *= static_cast<const C*>(w)[c];
    for_row_chunks(s, [&](int64_t sample, int64_t begin, int64_t end, int64_t) {
      const C *const center = by.center + sample * n, *const factor = by.rstd + sample * n;
      for (int64_t r = sample * s.rows + begin; r < sample * s.rows + end; ++r) {
#pragma omp simd
        for (int64_t c = 0; c < n; ++c) put(out[r * n + c], (C(in[r * n + c]) - center[c]) * factor[c] + shift[c]);
      }
    });
  });
}

// With hat = (x - mean) rstd and g = dy weight: dx = rstd (g - mean(g) - hat mean(g hat)), or rstd g if the moments are given; means over
// a group. dweight and dbias may be undefined.
void group_norm_backward(const Tensor& dy, const Tensor& x, int64_t groups, bool given, const Tensor& weight, const Tensor& mean,
                         const Tensor& var, double eps, Tensor& dx, Tensor& dweight, Tensor& dbias) {
  const Sizes s(x, groups);
  with_floating("group_norm_backward", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    const int64_t n = s.channels, pair = 2 * n;
    const T *const d = dy.data<T>(), *const in = x.data<T>();
    T* const out = dx.mutable_data<T>();
    const Widened<C> w(weight, n, C(1));
    const C* const scale = w;
    const Channels<C> by(s, mean.data<C>(), var.data<C>(), C(eps));
    const bool sums = !given || dweight || dbias;
    const Scratch<C> parts(sums ? s.samples * s.chunks * pair : 0), coefficients(s.samples * pair);
    C *const all = parts, *const means = coefficients;  // of g and of g hat, for every channel
    if (sums) {
      for_row_chunks(s, [&](int64_t sample, int64_t begin, int64_t end, int64_t t) {
        const C *const center = by.center + sample * n, *const rstd = by.rstd + sample * n;
        C *const plain = all + t * pair, *const with_hat = plain + n;
        for (int64_t c = 0; c < pair; ++c) plain[c] = 0;
        for (int64_t r = sample * s.rows + begin; r < sample * s.rows + end; ++r) {
#pragma omp simd
          for (int64_t c = 0; c < n; ++c) {
            plain[c] += C(d[r * n + c]);
            with_hat[c] += C(d[r * n + c]) * (C(in[r * n + c]) - center[c]);
          }
        }
        for (int64_t c = 0; c < n; ++c) with_hat[c] *= rstd[c];
      });
      parallel_for(s.samples, max_of(int64_t{1}, 16384 / (s.chunks * pair + 1)), [&](int64_t from, int64_t to) {
        for (int64_t i = from; i < to; ++i) {
          C* const total = all + i * s.chunks * pair;  // the first chunk's become all chunks'
          for (int64_t k = 1; k < s.chunks; ++k) {
#pragma omp simd
            for (int64_t c = 0; c < pair; ++c) total[c] += total[k * pair + c];
          }
          for (int64_t g = 0; g < s.groups; ++g) {
            C of_g = 0, of_hat = 0;
            for (int64_t c = g * s.per_group; c < (g + 1) * s.per_group; ++c)
              of_g += scale[c] * total[c], of_hat += scale[c] * total[n + c];
            const C share = C(1) / (C(s.rows) * C(s.per_group));
            for (int64_t c = g * s.per_group; c < (g + 1) * s.per_group; ++c)
              means[i * pair + c] = of_g * share, means[i * pair + n + c] = of_hat * share;
          }
        }
      });
      const auto add_up = [&](Tensor& to, const C* first) {
        C* const sum = to.mutable_data<C>();
        for (int64_t c = 0; c < n; ++c) {
          C total = 0;
          for (int64_t i = 0; i < s.samples; ++i) total += first[i * s.chunks * pair + c];
          sum[c] = total;
        }
      };
      if (dbias) add_up(dbias, all);
      if (dweight) add_up(dweight, all + n);
    }
    for_row_chunks(s, [&](int64_t sample, int64_t begin, int64_t end, int64_t) {
      const C *const center = by.center + sample * n, *const rstd = by.rstd + sample * n;
      const C *const of_g = means + sample * pair, *const of_hat = of_g + n;
      for (int64_t r = sample * s.rows + begin; r < sample * s.rows + end; ++r) {
        const T *const dr = d + r * n, *const xr = in + r * n;
        T* const to = out + r * n;
        if (given) {
#pragma omp simd
          for (int64_t c = 0; c < n; ++c) put(to[c], C(dr[c]) * scale[c] * rstd[c]);
        } else {
#pragma omp simd
          for (int64_t c = 0; c < n; ++c)
            put(to[c], rstd[c] * (C(dr[c]) * scale[c] - of_g[c] - (C(xr[c]) - center[c]) * rstd[c] * of_hat[c]));
        }
      }
    });
  });
}

}  // namespace retape::RETAPE_LEVEL
