// Root mean square normalisation over the last dimension (Zhang & Sennrich 2019): y = x * rstd * weight with
// rstd = 1 / sqrt(mean(x^2) + eps), which forward keeps for backward, one number a row.
#include <retape/core/column_sums.h>

namespace retape::RETAPE_LEVEL {
namespace {

// x, weight, y (n); returns rstd
template <class T, class C> C rms_norm_row(const T* x, const C* weight, C eps, int64_t n, T* y) {
  C squares = 0;
#pragma omp simd reduction(+ : squares)
  for (int64_t i = 0; i < n; ++i) squares += C(x[i]) * C(x[i]);
  const C rstd = C(1) / m::sqrt(squares / C(n) + eps);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) put(y[i], C(x[i]) * rstd * weight[i]);
  return rstd;
}

// With hat = x rstd and g = dy weight: dx = rstd (g - hat mean(g hat)), and dy hat is added to dweight unless that is null.
template <class T, class C> void rms_norm_backward_row(const T* dy, const T* x, const C* weight, C rstd, int64_t n, T* dx, C* dweight) {
  C dot = 0;
#pragma omp simd reduction(+ : dot)
  for (int64_t i = 0; i < n; ++i) dot += C(dy[i]) * weight[i] * (C(x[i]) * rstd);
  const C mean = dot / C(n);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) put(dx[i], rstd * (C(dy[i]) * weight[i] - C(x[i]) * rstd * mean));
  if (!dweight) return;
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) dweight[i] += C(dy[i]) * (C(x[i]) * rstd);
}

}  // namespace

// x, y (rows, n); weight (n) or undefined; rstd (rows)
void rms_norm(const Tensor& x, const Tensor& weight, double eps, Tensor& y, Tensor& rstd) {
  const int64_t n = x.shape()[-1], rows = rstd.numel();
  with_floating("rms_norm", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    const Widened<T> w(weight, n, C(1));
    const T* in = x.data<T>();
    T* out = y.mutable_data<T>();
    C* rstds = rstd.mutable_data<C>();
    parallel_for(rows, row_grain(n), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) rstds[r] = rms_norm_row<T, C>(in + r * n, w, C(eps), n, out + r * n);
    });
  });
}

// dweight may be undefined
void rms_norm_backward(const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& rstd, Tensor& dx, Tensor& dweight) {
  const int64_t n = x.shape()[-1], rows = rstd.numel();
  with_floating("rms_norm_backward", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    const Widened<T> w(weight, n, C(1));
    const C* rstds = rstd.data<C>();
    const T *in = x.data<T>(), *grad = dy.data<T>();
    T* out = dx.mutable_data<T>();
    const RowChunks chunks(rows, n);
    const PartialSums<C> dw(bool(dweight), chunks.count, n);
    parallel_for(chunks.count, 1, [&](int64_t chunk, int64_t) {
      C* const sums = dw.start(chunk);
      for (int64_t r = chunks.begin(chunk); r < chunks.begin(chunk + 1); ++r)
        rms_norm_backward_row<T, C>(grad + r * n, in + r * n, w, rstds[r], n, out + r * n, sums);
    });
    if (dweight) dw.add_up(dweight.mutable_data<T>());
  });
}

}  // namespace retape::RETAPE_LEVEL
