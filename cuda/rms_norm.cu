// Root mean square normalisation over the last dimension (Zhang & Sennrich 2019): y = x * rstd * weight with
// rstd = 1 / sqrt(mean(x^2) + eps), which forward keeps for backward, one number a row.
#include <retape/cuda/column_sums.h>

namespace retape::cuda {
namespace {

template <class T>
__global__ void __launch_bounds__(threads_for_rows, 2)
    rms_norm_rows(const T* x, const T* weight, compute_t<T> eps, int64_t rows, int64_t n, bool packed, T* y, compute_t<T>* rstds) {
  using C = compute_t<T>;
  __shared__ C shared[33];
  for (int64_t r = first_row(); r < rows; r += row_step()) {
    const Rows<T, 1> row({x + r * n}, n, packed);
    C squares = 0;
    row.each([&](const Place& place, const Values<T>* v) {
#pragma unroll
      for (int j = 0; j < pack_width<T>; ++j)
        if (place.has(j)) squares += v->at[j] * v->at[j];
    });
    const C rstd = C(1) / m::sqrt(block_reduce(squares, shared, Plus{}) / C(n) + eps);
    row.each([&](const Place& place, const Values<T>* v) {
      const Values<T> w = load_or(weight, place, C(1));
      Values<T> out;
#pragma unroll
      for (int j = 0; j < pack_width<T>; ++j) out.at[j] = v->at[j] * rstd * w.at[j];
      store(out, y + r * n, place);
    });
    if (threadIdx.x == 0) rstds[r] = rstd;
  }
}

// With hat = x rstd and g = dy weight: dx = rstd (g - hat mean(g hat)).
template <class T>
__global__ void __launch_bounds__(threads_for_rows, 2)
    rms_norm_backward_rows(const T* dy, const T* x, const T* weight, const compute_t<T>* rstds, int64_t rows, int64_t n, bool packed,
                           T* dx) {
  using C = compute_t<T>;
  __shared__ C shared[33];
  for (int64_t r = first_row(); r < rows; r += row_step()) {
    const Rows<T, 2> row({dy + r * n, x + r * n}, n, packed);
    const C rstd = rstds[r];
    C dot = 0;
    row.each([&](const Place& place, const Values<T>* v) {
      const Values<T> w = load_or(weight, place, C(1));
#pragma unroll
      for (int j = 0; j < pack_width<T>; ++j)
        if (place.has(j)) dot += v[0].at[j] * w.at[j] * (v[1].at[j] * rstd);
    });
    const C mean = block_reduce(dot, shared, Plus{}) / C(n);
    row.each([&](const Place& place, const Values<T>* v) {
      const Values<T> w = load_or(weight, place, C(1));
      Values<T> out;
#pragma unroll
      for (int j = 0; j < pack_width<T>; ++j) out.at[j] = rstd * (v[0].at[j] * w.at[j] - v[1].at[j] * rstd * mean);
      store(out, dx + r * n, place);
    });
  }
}

}  // namespace

// x, y (rows, n); weight (n) or undefined; rstd (rows)
void rms_norm(const Tensor& x, const Tensor& weight, double eps, Tensor& y, Tensor& rstd) {
  const int64_t n = x.shape()[-1], rows = rstd.numel();
  with_floating("rms_norm", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    const T *const in = data<T>(x), *const w = data<T>(weight);
    T* const out = data<T>(y);
    const RowGrid shape(rows, n, pack_width<T>);
    launch(rms_norm_rows<T>, shape.grid, shape.block, 0, in, w, C(eps), rows, n, rows_are_packed<T>(n, {in, w, out}), out, data<C>(rstd));
  });
}

// dweight may be undefined
void rms_norm_backward(const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& rstd, Tensor& dx, Tensor& dweight) {
  const int64_t n = x.shape()[-1], rows = rstd.numel();
  with_floating("rms_norm_backward", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    const T *const d = data<T>(dy), *const in = data<T>(x), *const w = data<T>(weight);
    const C* const rstds = data<C>(rstd);
    T* const out = data<T>(dx);
    const RowGrid shape(rows, n, pack_width<T>);
    launch(rms_norm_backward_rows<T>, shape.grid, shape.block, 0, d, in, w, rstds, rows, n, rows_are_packed<T>(n, {d, in, w, out}), out);
    norm_column_sums<T>(dy, x, static_cast<const C*>(nullptr), rstds, rows, n, dweight, Tensor{});
  });
}

}  // namespace retape::cuda
