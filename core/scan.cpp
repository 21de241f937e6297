// Running sums, products, extremes and log-sum-exps along one dim. Each line along the dim is one task's, from its first element
// to its last (or back): nothing depends on the number of threads. float adds up in double.
#include <retape/core/elementwise.h>

namespace retape::RETAPE_LEVEL {
namespace {

constexpr int64_t columns = 128;  // neighbouring lines that are scanned together

// A contiguous tensor around one dim: lines of `size` elements, `inner` apart.
struct Lines {
  int64_t outer = 1, size = 1, inner = 1;
  RETAPE_INLINE Lines(const Shape& shape, int dim) {
    for (int d = 0; d < shape.rank(); ++d) (d < dim ? outer : d == dim ? size : inner) *= shape[d];
  }
};

// Calls f(first element, lines side by side) for groups of neighbouring lines.
template <class F> RETAPE_INLINE void for_lines(const Lines& l, const F& f) {
  const int64_t groups = (l.inner + columns - 1) / columns, work = l.size * min_of(columns, l.inner);
  if (l.size == 0) return;
  parallel_for(l.outer * groups, work >= 16384 ? 1 : 16384 / max_of(work, int64_t{1}), [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t from = task % groups * columns;
      f(task / groups * l.size * l.inner + from, min_of(columns, l.inner - from));
    }
  });
}

template <class T> using sum_t = std::conditional_t<std::is_floating_point_v<compute_t<T>>, double, compute_t<T>>;

struct LogSumExp {
  template <class T> static RETAPE_INLINE T value(T a, T b) { return functor::Logaddexp::value(a, b); }
};

// A line whose elements lie side by side: the running values of 8 elements come about in log2(8) shifts, and only what the last of
// them carries on has to wait for the elements before.
template <class Join, bool reverse, class T, class A> RETAPE_INLINE void scan_line(const T* x, int64_t n, A start, T* y) {
  using C = compute_t<T>;
  constexpr int lanes = 8;
  typedef functor::wrapping<A> Vector __attribute__((vector_size(lanes * sizeof(A))));  // unsigned, since sums may wrap
  typedef C Narrow __attribute__((vector_size(lanes * sizeof(C))));
  const auto join = [](Vector& to, const Vector& with) {
    if constexpr (std::is_same_v<Join, functor::Add>) to += with;
    else to *= with;
  };
  Vector neutral, carry;
  for (int k = 0; k < lanes; ++k) neutral[k] = carry[k] = start;
  const int64_t whole = n / lanes * lanes;
  for (int64_t i = 0; i < whole; i += lanes) {
    const int64_t at = reverse ? n - lanes - i : i;
    C held[lanes];
    for (int k = 0; k < lanes; ++k) held[k] = C(x[at + k]);
    Narrow narrow;
    __builtin_memcpy(&narrow, held, sizeof held);
    Vector v = __builtin_convertvector(narrow, Vector), last;
    if constexpr (reverse) {
      join(v, __builtin_shufflevector(v, neutral, 1, 2, 3, 4, 5, 6, 7, 8));
      join(v, __builtin_shufflevector(v, neutral, 2, 3, 4, 5, 6, 7, 8, 8));
      join(v, __builtin_shufflevector(v, neutral, 4, 5, 6, 7, 8, 8, 8, 8));
      last = __builtin_shufflevector(v, v, 0, 0, 0, 0, 0, 0, 0, 0);
    } else {
      join(v, __builtin_shufflevector(v, neutral, 8, 0, 1, 2, 3, 4, 5, 6));
      join(v, __builtin_shufflevector(v, neutral, 8, 8, 0, 1, 2, 3, 4, 5));
      join(v, __builtin_shufflevector(v, neutral, 8, 8, 8, 8, 0, 1, 2, 3));
      last = __builtin_shufflevector(v, v, 7, 7, 7, 7, 7, 7, 7, 7);
    }
    join(v, carry);
    join(carry, last);
    narrow = __builtin_convertvector(v, Narrow);
    __builtin_memcpy(held, &narrow, sizeof held);
    for (int k = 0; k < lanes; ++k) put(y[at + k], held[k]);
  }
  A running = carry[0];
  for (int64_t i = whole; i < n; ++i) {
    const int64_t at = reverse ? n - 1 - i : i;
    running = Join::value(running, A(C(x[at])));
    put(y[at], C(running));
  }
}

template <class Join, class T> void scan_as(const Tensor& x, int dim, bool reverse, sum_t<T> start, Tensor& y) {
  using A = sum_t<T>;
  const Lines l(x.shape(), dim);
  const T* in = reinterpret_cast<const T*>(bytes_of(x));
  T* out = reinterpret_cast<T*>(bytes_of(y));
  if constexpr (!std::is_same_v<Join, LogSumExp>) {
    if (l.inner == 1 && l.size > 0) {
      parallel_for(l.outer, row_grain(l.size), [&](int64_t begin, int64_t end) {
        for (int64_t line = begin; line < end; ++line) {
          if (reverse) scan_line<Join, true>(in + line * l.size, l.size, start, out + line * l.size);
          else scan_line<Join, false>(in + line * l.size, l.size, start, out + line * l.size);
        }
      });
      return;
    }
  }
  for_lines(l, [&](int64_t base, int64_t width) {
    A running[columns];
    for (int64_t k = 0; k < width; ++k) running[k] = start;
    for (int64_t i = 0; i < l.size; ++i) {
      const int64_t at = base + (reverse ? l.size - 1 - i : i) * l.inner;
      const int64_t ahead = (reverse ? -4 : 4) * l.inner;  // the processor does not guess where the next row is
      for (int64_t k = 0; k < width; k += 64 / int64_t(sizeof(T))) {
        __builtin_prefetch(in + at + k + ahead);
        __builtin_prefetch(out + at + k + ahead, 1);
      }
#pragma omp simd
      for (int64_t k = 0; k < width; ++k) {
        running[k] = Join::value(running[k], A(compute_t<T>(in[at + k])));
        put(out[at + k], compute_t<T>(running[k]));
      }
    }
  });
}

}  // namespace

void scan(ScanKind op, const Tensor& x, int dim, bool reverse, Tensor& y) {
  if (op == ScanKind::logsumexp) {
    with_floating("scan", x.dtype(), [&](auto zero) { scan_as<LogSumExp, decltype(zero)>(x, dim, reverse, -__builtin_inf(), y); });
    return;
  }
  with_any(x.dtype(), [&](auto zero) {
    using T = std::conditional_t<std::is_same_v<decltype(zero), bool>, uint8_t, decltype(zero)>;
    if (op == ScanKind::sum) scan_as<functor::Add, T>(x, dim, reverse, 0, y);
    else scan_as<functor::Mul, T>(x, dim, reverse, 1, y);
  });
}

void scan_arg(ArgKind op, const Tensor& x, int dim, Tensor& index) {
  const Lines l(x.shape(), dim);
  int64_t* out = index.mutable_data<int64_t>();
  with_any(x.dtype(), [&](auto zero) {
    using T = std::conditional_t<std::is_same_v<decltype(zero), bool>, uint8_t, decltype(zero)>;
    using C = compute_t<T>;
    const T* in = reinterpret_cast<const T*>(bytes_of(x));
    for_lines(l, [&](int64_t base, int64_t width) {
      for (int64_t k = 0; k < width; ++k) {
        int64_t best = 0;
        for (int64_t i = 0; i < l.size; ++i) {
          const C v = C(in[base + i * l.inner + k]), b = C(in[base + best * l.inner + k]);
          if (v != v || (b == b && (op == ArgKind::max ? v >= b : v <= b))) best = i;
          out[base + i * l.inner + k] = best;
        }
      }
    });
  });
}

// dx_k = sum over i >= k of dy_i e^(x_k - y_i). No term overflows, since y_i >= x_k; from the end on, the sum for k + 1 shrinks by
// e^(y_k - y_(k+1)) and takes dy_k in.
void logcumsumexp_backward(const Tensor& dy, const Tensor& x, const Tensor& y, int dim, Tensor& dx) {
  const Lines l(x.shape(), dim);
  with_floating("logcumsumexp_backward", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T *g = dy.data<T>(), *in = x.data<T>(), *out = y.data<T>();
    T* to = dx.mutable_data<T>();
    for_lines(l, [&](int64_t base, int64_t width) {
      for (int64_t k = 0; k < width; ++k) {
        double sum = 0, above = 0;  // sum over i >= k of dy_i e^(y_k - y_i)
        for (int64_t i = l.size; i-- > 0;) {
          const int64_t at = base + i * l.inner + k;
          const double here = double(compute_t<T>(out[at]));
          const double factor = i + 1 == l.size || here == above ? 1.0 : ::exp(here - above);
          sum = (sum == 0 ? 0 : sum * factor) + double(compute_t<T>(g[at]));
          above = here;
          const double weight = double(compute_t<T>(in[at])) - here;
          put(to[at], compute_t<T>(weight == weight ? sum * ::exp(weight) : here == -__builtin_inf() ? 0.0 : weight));
        }
      }
    });
  });
}

}  // namespace retape::RETAPE_LEVEL
