// Softmax and log-softmax over the last dimension. A row that is -inf everywhere gives 0 (log: -inf), so that a masked query
// attends to nothing.
#include <retape/core/log_sum_exp.h>

namespace retape::RETAPE_LEVEL {
namespace {

RETAPE_INLINE int64_t row_size(const Tensor& x) { return x.dim() ? x.shape()[-1] : 1; }

template <class T> RETAPE_INLINE void softmax_row(const T* x, int64_t n, T* y) {
  using C = compute_t<T>;
  if constexpr (std::is_same_v<T, C>) {  // y holds the exponentials until their sum is known
    const C infinity = C(__builtin_inf());
    C top = -infinity, sum = 0;
#pragma omp simd reduction(max : top)
    for (int64_t i = 0; i < n; ++i) top = x[i] > top ? x[i] : top;
    if (top == -infinity) top = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; ++i) {
      const C e = exp_nonpositive(x[i] - top);
      y[i] = e;
      sum += e;
    }
    const C scale = sum == C(0) ? C(0) : C(1) / sum;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) y[i] *= scale;
  } else {
    const LogSumExp<C> row = log_sum_exp(x, n);
    const C scale = row.sum == C(0) ? C(0) : C(1) / row.sum;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) put(y[i], exp_nonpositive(C(x[i]) - row.max) * scale);
  }
}
template <class T> RETAPE_INLINE void log_softmax_row(const T* x, int64_t n, T* y) {
  using C = compute_t<T>;
  const LogSumExp<C> row = log_sum_exp(x, n);
  const C log_sum = row.sum == C(0) ? C(0) : m::log(row.sum);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) put(y[i], (C(x[i]) - row.max) - log_sum);
}
// dx = y (dy - sum(dy y))
template <class T> RETAPE_INLINE void softmax_backward_row(const T* dy, const T* y, int64_t n, T* dx) {
  using C = compute_t<T>;
  C dot = 0;
#pragma omp simd reduction(+ : dot)
  for (int64_t i = 0; i < n; ++i) dot += C(dy[i]) * C(y[i]);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) put(dx[i], C(y[i]) * (C(dy[i]) - dot));
}
// dx = dy - e^y sum(dy)
template <class T> RETAPE_INLINE void log_softmax_backward_row(const T* dy, const T* y, int64_t n, T* dx) {
  using C = compute_t<T>;
  C total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t i = 0; i < n; ++i) total += C(dy[i]);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) put(dx[i], C(dy[i]) - exp_nonpositive(C(y[i])) * total);
}

}  // namespace

// x, y (..., n)
void softmax(const Tensor& x, bool log, Tensor& y) {
  const int64_t n = row_size(x);
  if (x.numel() == 0) return;
  with_floating("softmax", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T* in = x.data<T>();
    T* out = y.mutable_data<T>();
    parallel_for(x.numel() / n, row_grain(n), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        if (log) log_softmax_row(in + r * n, n, out + r * n);
        else softmax_row(in + r * n, n, out + r * n);
      }
    });
  });
}

// dy, y, dx (..., n)
void softmax_backward(const Tensor& dy, const Tensor& y, bool log, Tensor& dx) {
  const int64_t n = row_size(y);
  if (y.numel() == 0) return;
  with_floating("softmax_backward", y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T *d = dy.data<T>(), *p = y.data<T>();
    T* out = dx.mutable_data<T>();
    parallel_for(y.numel() / n, row_grain(n), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        if (log) log_softmax_backward_row(d + r * n, p + r * n, n, out + r * n);
        else softmax_backward_row(d + r * n, p + r * n, n, out + r * n);
      }
    });
  });
}

}  // namespace retape::RETAPE_LEVEL
