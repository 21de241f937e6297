// Word vectors (Mikolov et al. 2013): steps of gradient descent on windows. All pairs of a window are one product of two small matrices
// (Ji et al. 2016, "HogBatch"). Threads take windows and change rows that others read and change at the same time ("Hogwild", Recht et
// al. 2011): with several threads the result depends on their order, by little, and is not reproducible.
#include <retape/core/kernel.h>

namespace retape::RETAPE_LEVEL {
namespace {

#if defined(__AVX512F__)
constexpr int64_t lanes = 16;
#elif defined(__AVX2__)
constexpr int64_t lanes = 8;
#else
constexpr int64_t lanes = 4;
#endif
#if defined(__clang__)
#define RETAPE_UNROLL _Pragma("clang loop unroll(full)")
#else
#define RETAPE_UNROLL _Pragma("GCC unroll 16")
#endif
typedef float V __attribute__((vector_size(lanes * 4), may_alias));
typedef float Unaligned __attribute__((vector_size(lanes * 4), may_alias, aligned(4)));
RETAPE_INLINE V& vec(float* p) { return *reinterpret_cast<V*>(p); }
RETAPE_INLINE const V& vec(const float* p) { return *reinterpret_cast<const V*>(p); }

constexpr int64_t block_targets = lanes / 2;  // with two contexts: as many sums as a vector has lanes

RETAPE_INLINE int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

// Neighbours added: a's in the first half, b's in the second.
template <int... I> RETAPE_INLINE V add_pairs(V a, V b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, (2 * I)...) + __builtin_shufflevector(a, b, (2 * I + 1)...);
}
// Lane i of the result is the sum of v[i].
RETAPE_INLINE V sums_of(V (&v)[lanes]) {
  RETAPE_UNROLL
  for (int64_t n = lanes / 2; n; n /= 2) {
    RETAPE_UNROLL
    for (int64_t i = 0; i < n; ++i) v[i] = add_pairs(v[2 * i], v[2 * i + 1], std::make_integer_sequence<int, int(lanes)>{});
  }
  return v[0];
}

// e (2, block_targets): products of two rows of x with n rows of o.
template <int n> RETAPE_INLINE void products(const float* x, const float* o, int64_t width, float* e) {
  V sum[lanes];
  RETAPE_UNROLL
  for (int i = 0; i < int(lanes); ++i) sum[i] = V{};
  for (int64_t k = 0; k < width; k += lanes) {
    const V first = vec(x + k), second = vec(x + width + k);
    RETAPE_UNROLL
    for (int t = 0; t < n; ++t) {
      const V y = vec(o + t * width + k);
      sum[t] += first * y;
      sum[t + block_targets] += second * y;
    }
  }
  vec(e) = sums_of(sum);
}

// dx (contexts) += e o and d_o (n) = e^T x for n targets; e (contexts, block_targets).
template <int n>
RETAPE_INLINE void deltas(const float* x, const float* o, const float* e, int64_t contexts, int64_t width, float* dx, float* d_o) {
  for (int64_t k = 0; k < width; k += lanes) {
    V y[n], dy[n];
    RETAPE_UNROLL
    for (int t = 0; t < n; ++t) y[t] = vec(o + t * width + k), dy[t] = V{};
    for (int64_t c = 0; c < contexts; ++c) {
      const V u = vec(x + c * width + k);
      V du = vec(dx + c * width + k);
      RETAPE_UNROLL
      for (int t = 0; t < n; ++t) {
        const float s = e[c * block_targets + t];
        du += s * y[t];
        dy[t] += s * u;
      }
      vec(dx + c * width + k) = du;
    }
    RETAPE_UNROLL
    for (int t = 0; t < n; ++t) vec(d_o + t * width + k) = dy[t];
  }
}
template <int n = 1, class F> RETAPE_INLINE void with_count(int64_t count, const F& f) {
  if constexpr (n < block_targets) {
    if (count != n) return with_count<n + 1>(count, f);
  }
  f(std::integral_constant<int, n>{});
}

// `to` has room for whole vectors; what is past the row is 0.
RETAPE_INLINE void read_row(const float* row, int64_t dim, float* to, int64_t width) {
  int64_t k = 0;
  for (; k + lanes <= dim; k += lanes) vec(to + k) = *reinterpret_cast<const Unaligned*>(row + k);
  if (k == width) return;
  vec(to + k) = V{};
  for (; k < dim; ++k) to[k] = row[k];
}
RETAPE_INLINE void add_row(const float* delta, int64_t dim, float* row) {
  int64_t k = 0;
  for (; k + lanes <= dim; k += lanes) *reinterpret_cast<Unaligned*>(row + k) += vec(delta + k);
  for (; k < dim; ++k) row[k] += delta[k];
}
RETAPE_INLINE void prefetch_row(const float* row, int64_t dim) {
  for (int64_t k = 0; k < dim; k += 16) __builtin_prefetch(row + k, 1);
}

// Scratch of one window; the rows of contexts are padded to an even number, all rows to whole vectors.
struct Buffers {
  float *x, *o, *dx, *d_o, *e;
};

struct Problem {
  const int32_t *contexts, *context_begin, *targets, *target_begin;
  const float* labels;
  float *in, *out;
  int64_t dim, width;
  float lr;
  bool mean, with_loss;
};

// Reads the rows of a window and computes what is to be added to them; returns the loss.
RETAPE_INLINE double window_deltas(const Problem& p, int64_t w, const Buffers& b) {
  const int64_t c0 = p.context_begin[w], contexts = p.context_begin[w + 1] - c0, t0 = p.target_begin[w],
                targets = p.target_begin[w + 1] - t0, width = p.width;
  if (contexts == 0 || targets == 0) return 0;
  const int64_t rows = p.mean ? 1 : contexts;
  if (p.mean) {
    for (int64_t k = 0; k < width; ++k) b.dx[k] = 0;
    for (int64_t c = 0; c < contexts; ++c) {
      read_row(p.in + p.contexts[c0 + c] * p.dim, p.dim, b.x, width);
      for (int64_t k = 0; k < width; k += lanes) vec(b.dx + k) += vec(b.x + k);
    }
    const float share = 1 / float(contexts);
    for (int64_t k = 0; k < width; k += lanes) vec(b.x + k) = vec(b.dx + k) * share;
  } else {
    for (int64_t c = 0; c < contexts; ++c) read_row(p.in + p.contexts[c0 + c] * p.dim, p.dim, b.x + c * width, width);
  }
  for (int64_t k = 0; k < round_up(rows, 2) * width; k += lanes) vec(b.dx + k) = V{};
  if (rows % 2)
    for (int64_t k = 0; k < width; k += lanes) vec(b.x + rows * width + k) = V{};
  for (int64_t t = 0; t < targets; ++t) read_row(p.out + p.targets[t0 + t] * p.dim, p.dim, b.o + t * width, width);

  double loss = 0;
  for (int64_t first = 0; first < targets; first += block_targets) {
    const int64_t count = min_of(block_targets, targets - first);
    const float* const label = p.labels + t0 + first;
    float* const e = b.e;
    with_count(count, [&](auto n) {
      for (int64_t c = 0; c < rows; c += 2) products<n()>(b.x + c * width, b.o + first * width, width, e + c * block_targets);
      if (p.with_loss)
        for (int64_t c = 0; c < rows; ++c)
          for (int64_t t = 0; t < count; ++t) {
            const double z = label[t] > 0.5f ? double(-e[c * block_targets + t]) : double(e[c * block_targets + t]);
            loss += (z > 0 ? z : 0) + ::log1p(::exp(z > 0 ? -z : z));  // softplus
          }
      float wanted[lanes];  // by two contexts
      for (int64_t i = 0; i < lanes; ++i) wanted[i] = i % block_targets < count ? label[i % block_targets] : 0.5f;
      const float lr = p.lr;
      for (int64_t i = 0; i < rows * block_targets; i += lanes) {
#pragma omp simd
        for (int64_t j = 0; j < lanes; ++j) e[i + j] = lr * (wanted[j] - 1 / (1 + m::exp(-e[i + j])));
      }
      deltas<n()>(b.x, b.o + first * width, e, rows, width, b.dx, b.d_o + first * width);
    });
  }
  return loss;
}
RETAPE_INLINE void apply(const Problem& p, int64_t w, const Buffers& b) {
  const int64_t c0 = p.context_begin[w], contexts = p.context_begin[w + 1] - c0, t0 = p.target_begin[w],
                targets = p.target_begin[w + 1] - t0, width = p.width;
  if (contexts == 0 || targets == 0) return;
  if (p.mean) {
    const float share = 1 / float(contexts);
    for (int64_t k = 0; k < width; k += lanes) vec(b.dx + k) *= share;
  }
  for (int64_t c = 0; c < contexts; ++c) add_row(b.dx + (p.mean ? 0 : c * width), p.dim, p.in + p.contexts[c0 + c] * p.dim);
  for (int64_t t = 0; t < targets; ++t) add_row(b.d_o + t * width, p.dim, p.out + p.targets[t0 + t] * p.dim);
}

void check_ids(const int32_t* ids, int64_t n, int64_t rows) {
  for (int64_t i = 0; i < n; ++i)
    if (ids[i] < 0 || ids[i] >= rows) detail::index_out_of_range("word2vec", ids[i], rows);
}
// The largest number of entries of a window. Throws unless windows follow each other from 0 to n.
int64_t check_windows(const int32_t* begin, int64_t windows, int64_t n) {
  int64_t most = 0;
  bool ordered = begin[0] == 0 && begin[windows] == n;
  for (int64_t w = 0; w < windows; ++w) {
    const int64_t count = int64_t(begin[w + 1]) - begin[w];
    ordered &= count >= 0;
    most = max_of(most, count);
  }
  if (!ordered) detail::kernel_error("word2vec: context_begin and target_begin must rise from 0 to the number of contexts and of targets");
  return most;
}

}  // namespace

void word2vec(const Word2VecWindows& windows, bool mean, int64_t batch, double lr, Tensor& in, Tensor& out, Tensor& loss) {
  if (in.dtype() != DType::f32) detail::unsupported_dtype("word2vec", in.dtype());
  const int64_t count = windows.context_begin.numel() - 1, dim = in.shape()[1];
  Problem p{.contexts = windows.contexts.data<int32_t>(),
            .context_begin = windows.context_begin.data<int32_t>(),
            .targets = windows.targets.data<int32_t>(),
            .target_begin = windows.target_begin.data<int32_t>(),
            .labels = windows.labels.data<float>(),
            .in = in.mutable_data<float>(),
            .out = out.mutable_data<float>(),
            .dim = dim,
            .width = round_up(dim, lanes),
            .lr = float(lr),
            .mean = mean,
            .with_loss = bool(loss)};
  check_ids(p.contexts, windows.contexts.numel(), in.shape()[0]);
  check_ids(p.targets, windows.targets.numel(), out.shape()[0]);
  const int64_t most_contexts = round_up(check_windows(p.context_begin, count, windows.contexts.numel()), 2),
                most_targets = check_windows(p.target_begin, count, windows.targets.numel());

  const int64_t batches = (count + batch - 1) / batch, grain = batch >= 64 ? 1 : 64 / batch;
  Scratch<double> losses(batches);
  parallel_for(batches, grain, [&](int64_t begin, int64_t end) {
    const int64_t together = min_of(batch, count), per_window = 2 * (most_contexts + most_targets) * p.width;
    Scratch<float> room(together * per_window + most_contexts * block_targets);
    float* const floats = room;
    const auto buffers = [&](int64_t i) {
      float* const x = floats + i * per_window;
      float* const o = x + most_contexts * p.width;
      float* const dx = o + most_targets * p.width;
      return Buffers{x, o, dx, dx + most_contexts * p.width, floats + together * per_window};
    };
    for (int64_t b = begin; b < end; ++b) {
      const int64_t first = b * batch, last = min_of(first + batch, count);
      double sum = 0;
      for (int64_t w = first; w < last; ++w) {
        if (w + 1 < count) {
          for (int64_t t = p.target_begin[w + 1]; t < p.target_begin[w + 2]; ++t) prefetch_row(p.out + p.targets[t] * p.dim, dim);
          if (p.context_begin[w + 1] < p.context_begin[w + 2]) prefetch_row(p.in + p.contexts[p.context_begin[w + 2] - 1] * p.dim, dim);
        }
        sum += window_deltas(p, w, buffers(w - first));
      }
      for (int64_t w = first; w < last; ++w) apply(p, w, buffers(w - first));
      losses[b] = sum;
    }
  });
  if (!loss) return;
  double total = 0;
  for (int64_t b = 0; b < batches; ++b) total += losses[b];
  *loss.mutable_data<double>() = total;
}

}  // namespace retape::RETAPE_LEVEL
