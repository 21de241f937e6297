// Layer normalisation over the last dimension: y = (x - mean) * rstd * weight + bias with rstd = 1 / sqrt(variance + eps).
// Forward keeps mean and rstd, one number a row, so that backward reads x once.
#include <retape/core/column_sums.h>

namespace retape::RETAPE_LEVEL {
namespace {

template <class C> struct Moments { C mean, rstd; };

// x, weight, bias, y (n)
template <class T, class C> Moments<C> layer_norm_row(const T* x, const C* weight, const C* bias, C eps, int64_t n, T* y) {
  const C pivot = n ? C(x[0]) : C(0);  // differences to any element are as small as the deviations, however large the mean is
  C sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += C(x[i]) - pivot;
  const C mean = pivot + sum / C(n);
#pragma omp simd reduction(+ : squares)
  for (int64_t i = 0; i < n; ++i) squares += (C(x[i]) - mean) * (C(x[i]) - mean);
  const C rstd = C(1) / m::sqrt(squares / C(n) + eps);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) put(y[i], (C(x[i]) - mean) * rstd * weight[i] + bias[i]);
  return {mean, rstd};
}

// With hat = (x - mean) rstd and g = dy weight: dx = rstd (g - mean(g) - hat mean(g hat)). dy hat is added to dweight and dy to
// dbias, unless those are null.
template <class T, class C>
void layer_norm_backward_row(const T* dy, const T* x, const C* weight, C mean, C rstd, int64_t n, T* dx, C* dweight, C* dbias) {
  C sum = 0, dot = 0;
#pragma omp simd reduction(+ : sum, dot)
  for (int64_t i = 0; i < n; ++i) {
    sum += C(dy[i]) * weight[i];
    dot += C(dy[i]) * weight[i] * ((C(x[i]) - mean) * rstd);
  }
  const C mean_g = sum / C(n), mean_gh = dot / C(n);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) put(dx[i], rstd * (C(dy[i]) * weight[i] - mean_g - (C(x[i]) - mean) * rstd * mean_gh));
  if (dweight) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) dweight[i] += C(dy[i]) * ((C(x[i]) - mean) * rstd);
  }
  if (dbias) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) dbias[i] += C(dy[i]);
  }
}

}  // namespace

// x, y (rows, n); weight, bias (n) or undefined; mean, rstd (rows)
void layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps, Tensor& y, Tensor& mean, Tensor& rstd) {
  const int64_t n = x.shape()[-1], rows = mean.numel();
  with_floating("layer_norm", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    const Widened<T> w(weight, n, C(1)), b(bias, n, C(0));
    const T* in = x.data<T>();
    T* out = y.mutable_data<T>();
    C *means = mean.mutable_data<C>(), *rstds = rstd.mutable_data<C>();
    parallel_for(rows, row_grain(n), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const Moments<C> of = layer_norm_row<T, C>(in + r * n, w, b, C(eps), n, out + r * n);
        means[r] = of.mean;
        rstds[r] = of.rstd;
      }
    });
  });
}

// dweight and dbias may be undefined
void layer_norm_backward(const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& mean, const Tensor& rstd, Tensor& dx,
                         Tensor& dweight, Tensor& dbias) {
  const int64_t n = x.shape()[-1], rows = mean.numel();
  with_floating("layer_norm_backward", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    const Widened<T> w(weight, n, C(1));
    const C *means = mean.data<C>(), *rstds = rstd.data<C>();
    const T *in = x.data<T>(), *grad = dy.data<T>();
    T* out = dx.mutable_data<T>();
    const RowChunks chunks(rows, n);
    const PartialSums<C> dw(bool(dweight), chunks.count, n), db(bool(dbias), chunks.count, n);
    parallel_for(chunks.count, 1, [&](int64_t chunk, int64_t) {
      C *const weight_sums = dw.start(chunk), *const bias_sums = db.start(chunk);
      for (int64_t r = chunks.begin(chunk); r < chunks.begin(chunk + 1); ++r)
        layer_norm_backward_row<T, C>(grad + r * n, in + r * n, w, means[r], rstds[r], n, out + r * n, weight_sums, bias_sums);
    });
    if (dweight) dw.add_up(dweight.mutable_data<T>());
    if (dbias) db.add_up(dbias.mutable_data<T>());
  });
}

}  // namespace retape::RETAPE_LEVEL
