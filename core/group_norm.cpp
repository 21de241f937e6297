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

// ---- down the columns: what belongs to a column stays in a register ----

#if defined(__AVX512F__)
constexpr int vector_bytes = 64;
#elif defined(__AVX2__)
constexpr int vector_bytes = 32;
#else
constexpr int vector_bytes = 16;
#endif
template <class C> struct Wide { typedef C V __attribute__((vector_size(vector_bytes))); };

template <class V, class T> RETAPE_INLINE V load(const T* p) {
  if constexpr (std::is_same_v<V, compute_t<T>>) return V(*p);
  else {
    V v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
  }
}
template <class V, class T> RETAPE_INLINE void store(T* p, V v) {
  if constexpr (std::is_same_v<V, compute_t<T>>) *p = T(v);
  else __builtin_memcpy(p, &v, sizeof v);
}
// Calls f.template run<V, count>(c) for `count` vectors V of columns from c on: four, one, and single columns where none fits. Half types
// go by columns, a cache line's worth at a time.
template <class T, class F> RETAPE_INLINE void for_columns(int64_t n, const F& f) {
  using C = compute_t<T>;
  int64_t c = 0;
  if constexpr (std::is_same_v<T, C>) {
    using V = typename Wide<C>::V;
    constexpr int64_t lanes = vector_bytes / int64_t(sizeof(C));
    for (; c + 4 * lanes <= n; c += 4 * lanes) f.template run<V, 4>(c);
    for (; c + lanes <= n; c += lanes) f.template run<V, 1>(c);
  } else {
    for (; c + 32 <= n; c += 32) f.template run<C, 32>(c);
  }
  for (; c < n; ++c) f.template run<C, 1>(c);
}
template <class V, class C> constexpr int64_t step_of = int64_t(sizeof(V) / sizeof(C));

// The means of columns of x (rows, n), and the sums of squared differences to them.
template <class T, class C> struct ColumnMoments {
  const T* x;
  int64_t rows, n;
  C *mean, *squares;
  template <class V, int count> RETAPE_INLINE void run(int64_t c) const {
    constexpr int64_t step = step_of<V, C>;
    V pivot[count], sum[count] = {}, square[count] = {};
    for (int v = 0; v < count; ++v) pivot[v] = load<V>(x + c + v * step);  // differences are as small as the deviations
    for (int64_t r = 1; r < rows; ++r) {
#pragma GCC unroll 32
      for (int v = 0; v < count; ++v) sum[v] += load<V>(x + r * n + c + v * step) - pivot[v];
    }
    for (int v = 0; v < count; ++v) pivot[v] += sum[v] / C(rows);
    for (int64_t r = 0; r < rows; ++r) {
#pragma GCC unroll 32
      for (int v = 0; v < count; ++v) {
        const V d = load<V>(x + r * n + c + v * step) - pivot[v];
        square[v] += d * d;
      }
    }
    for (int v = 0; v < count; ++v) store(mean + c + v * step, pivot[v]), store(squares + c + v * step, square[v]);
  }
};
// y = (x - center) factor + shift
template <class T, class C> struct Normalize {
  const T* x;
  int64_t rows, n;
  const C *center, *factor, *shift;
  T* y;
  template <class V, int count> RETAPE_INLINE void run(int64_t c) const {
    constexpr int64_t step = step_of<V, C>;
    V m[count], f[count], b[count];
    for (int v = 0; v < count; ++v)
      m[v] = load<V>(center + c + v * step), f[v] = load<V>(factor + c + v * step), b[v] = load<V>(shift + c + v * step);
    for (int64_t i = c; i < rows * n + c; i += n) {
#pragma GCC unroll 32
      for (int v = 0; v < count; ++v) store(y + i + v * step, V((load<V>(x + i + v * step) - m[v]) * f[v] + b[v]));
    }
  }
};
// The sums of dy, and of dy (x - center).
template <class T, class C> struct ColumnSums {
  const T *dy, *x;
  int64_t rows, n;
  const C* center;
  C *plain, *product;
  template <class V, int count> RETAPE_INLINE void run(int64_t c) const {
    constexpr int64_t step = step_of<V, C>;
    V m[count], sum[count] = {}, products[count] = {};
    for (int v = 0; v < count; ++v) m[v] = load<V>(center + c + v * step);
    for (int64_t i = c; i < rows * n + c; i += n) {
#pragma GCC unroll 32
      for (int v = 0; v < count; ++v) {
        const V d = load<V>(dy + i + v * step);
        sum[v] += d;
        products[v] += d * (load<V>(x + i + v * step) - m[v]);
      }
    }
    for (int v = 0; v < count; ++v) store(plain + c + v * step, sum[v]), store(product + c + v * step, products[v]);
  }
};
// dx = dy a - (x - center) b - rest; b and rest are null where they are 0
template <class T, class C> struct Gradient {
  const T *dy, *x;
  int64_t rows, n;
  const C *center, *a, *b, *rest;
  T* dx;
  template <class V, int count> RETAPE_INLINE void run(int64_t c) const {
    constexpr int64_t step = step_of<V, C>;
    V m[count], f[count], g[count], e[count];
    for (int v = 0; v < count; ++v) m[v] = load<V>(center + c + v * step), f[v] = load<V>(a + c + v * step);
    if (!b) {
      for (int64_t i = c; i < rows * n + c; i += n) {
#pragma GCC unroll 32
        for (int v = 0; v < count; ++v) store(dx + i + v * step, V(load<V>(dy + i + v * step) * f[v]));
      }
      return;
    }
    for (int v = 0; v < count; ++v) g[v] = load<V>(b + c + v * step), e[v] = load<V>(rest + c + v * step);
    for (int64_t i = c; i < rows * n + c; i += n) {
#pragma GCC unroll 32
      for (int v = 0; v < count; ++v)
        store(dx + i + v * step, V(load<V>(dy + i + v * step) * f[v] - (load<V>(x + i + v * step) - m[v]) * g[v] - e[v]));
    }
  }
};

// mean, var (samples, groups). Means and squares of parts are joined pairwise (Chan et al. 1979).
template <class T, class C> void moments(const T* x, const Sizes& s, C* mean, C* var) {
  const int64_t n = s.channels;
  const Scratch<C> parts(s.samples * s.chunks * 2 * n);
  C* const all = parts;
  for_row_chunks(s, [&](int64_t sample, int64_t begin, int64_t end, int64_t t) {
    for_columns<T>(n, ColumnMoments<T, C>{x + (sample * s.rows + begin) * n, end - begin, n, all + t * 2 * n, all + t * 2 * n + n});
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
      const int64_t first = (sample * s.rows + begin) * n;
      for_columns<T>(n, Normalize<T, C>{in + first, end - begin, n, by.center + sample * n, by.rstd + sample * n, shift, out + first});
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
    const Scratch<C> parts(sums ? s.samples * s.chunks * pair : 0), coefficients(s.samples * 3 * n);
    C *const all = parts, *const factors = coefficients;  // a, b and rest of every channel
    if (sums) {
      for_row_chunks(s, [&](int64_t sample, int64_t begin, int64_t end, int64_t t) {
        const int64_t first = (sample * s.rows + begin) * n;
        C *const plain = all + t * pair, *const with_hat = plain + n;
        for_columns<T>(n, ColumnSums<T, C>{d + first, in + first, end - begin, n, by.center + sample * n, plain, with_hat});
        for (int64_t c = 0; c < n; ++c) with_hat[c] *= by.rstd[sample * n + c];
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
            for (int64_t c = g * s.per_group; c < (g + 1) * s.per_group; ++c) {
              const C rstd = by.rstd[i * n + c];
              factors[i * 3 * n + n + c] = rstd * rstd * of_hat * share;
              factors[i * 3 * n + pair + c] = rstd * of_g * share;
            }
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
    for (int64_t i = 0; i < s.samples; ++i)
      for (int64_t c = 0; c < n; ++c) factors[i * 3 * n + c] = by.rstd[i * n + c] * scale[c];
    for_row_chunks(s, [&](int64_t sample, int64_t begin, int64_t end, int64_t) {
      const int64_t first = (sample * s.rows + begin) * n;
      const C* const a = factors + sample * 3 * n;
      for_columns<T>(n, Gradient<T, C>{d + first, in + first, end - begin, n, by.center + sample * n, a, given ? nullptr : a + n, a + pair,
                                       out + first});
    });
  });
}

}  // namespace retape::RETAPE_LEVEL
