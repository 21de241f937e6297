// Layer normalisation over the last dimension: y = (x - mean) * rstd * weight + bias with rstd = 1 / sqrt(variance + eps).
// Forward keeps mean and rstd, one number a row, so that backward reads x once for dx and once for the weights.
#include <retape/cuda/column_sums.h>

namespace retape::cuda {
namespace {

template <class T>
__global__ void __launch_bounds__(threads_for_rows, 2)
    layer_norm_rows(const T* x, const T* weight, const T* bias, compute_t<T> eps, int64_t rows, int64_t n, bool packed, T* y,
                    compute_t<T>* means, compute_t<T>* rstds) {
  using C = compute_t<T>;
  __shared__ C shared[33];
  for (int64_t r = first_row(); r < rows; r += row_step()) {
    const Rows<T, 1> row({x + r * n}, n, packed);
    const C pivot = n ? C(x[r * n]) : C(0);  // differences to any element are as small as the deviations, however large the mean is
    C sum = 0, squares = 0;
    row.each([&](const Place& place, const Values<T>* v) {
#pragma unroll
      for (int j = 0; j < pack_width<T>; ++j)
        if (place.has(j)) sum += v->at[j] - pivot;
    });
    const C mean = pivot + block_reduce(sum, shared, Plus{}) / C(n);
    row.each([&](const Place& place, const Values<T>* v) {
#pragma unroll
      for (int j = 0; j < pack_width<T>; ++j)
        if (place.has(j)) squares += (v->at[j] - mean) * (v->at[j] - mean);
    });
    const C rstd = C(1) / m::sqrt(block_reduce(squares, shared, Plus{}) / C(n) + eps);
    row.each([&](const Place& place, const Values<T>* v) {
      const Values<T> w = load_or(weight, place, C(1)), b = load_or(bias, place, C(0));
      Values<T> out;
#pragma unroll
      for (int j = 0; j < pack_width<T>; ++j) out.at[j] = (v->at[j] - mean) * rstd * w.at[j] + b.at[j];
      store(out, y + r * n, place);
    });
    if (threadIdx.x == 0) means[r] = mean, rstds[r] = rstd;
  }
}

// With hat = (x - mean) rstd and g = dy weight: dx = rstd (g - mean(g) - hat mean(g hat)).
template <class T>
__global__ void __launch_bounds__(threads_for_rows, 2)
    layer_norm_backward_rows(const T* dy, const T* x, const T* weight, const compute_t<T>* means, const compute_t<T>* rstds, int64_t rows,
                             int64_t n, bool packed, T* dx) {
  using C = compute_t<T>;
  __shared__ C shared[33];
  for (int64_t r = first_row(); r < rows; r += row_step()) {
    const Rows<T, 2> row({dy + r * n, x + r * n}, n, packed);
    const C mean = means[r], rstd = rstds[r];
    C sum = 0, dot = 0;
    row.each([&](const Place& place, const Values<T>* v) {
      const Values<T> w = load_or(weight, place, C(1));
#pragma unroll
      for (int j = 0; j < pack_width<T>; ++j) {
        if (!place.has(j)) continue;
        const C g = v[0].at[j] * w.at[j];
        sum += g;
        dot += g * ((v[1].at[j] - mean) * rstd);
      }
    });
    const C mean_g = block_reduce(sum, shared, Plus{}) / C(n), mean_gh = block_reduce(dot, shared, Plus{}) / C(n);
    row.each([&](const Place& place, const Values<T>* v) {
      const Values<T> w = load_or(weight, place, C(1));
      Values<T> out;
#pragma unroll
      for (int j = 0; j < pack_width<T>; ++j) out.at[j] = rstd * (v[0].at[j] * w.at[j] - mean_g - (v[1].at[j] - mean) * rstd * mean_gh);
      store(out, dx + r * n, place);
    });
  }
}

}  // namespace

// x, y (rows, n); weight, bias (n) or undefined; mean, rstd (rows)
void layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps, Tensor& y, Tensor& mean, Tensor& rstd) {
  const int64_t n = x.shape()[-1], rows = mean.numel();
  with_floating("layer_norm", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    const T *const in = data<T>(x), *const w = data<T>(weight), *const b = data<T>(bias);
    T* const out = data<T>(y);
    const RowGrid shape(rows, n, pack_width<T>);
    launch(layer_norm_rows<T>, shape.grid, shape.block, 0, in, w, b, C(eps), rows, n, rows_are_packed<T>(n, {in, w, b, out}), out,
           data<C>(mean), data<C>(rstd));
  });
}

// dweight and dbias may be undefined
void layer_norm_backward(const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& mean, const Tensor& rstd, Tensor& dx,
                         Tensor& dweight, Tensor& dbias) {
  const int64_t n = x.shape()[-1], rows = mean.numel();
  with_floating("layer_norm_backward", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    const T *const d = data<T>(dy), *const in = data<T>(x), *const w = data<T>(weight);
    const C *const means = data<C>(mean), *const rstds = data<C>(rstd);
    T* const out = data<T>(dx);
    const RowGrid shape(rows, n, pack_width<T>);
    launch(layer_norm_backward_rows<T>, shape.grid, shape.block, 0, d, in, w, means, rstds, rows, n, rows_are_packed<T>(n, {d, in, w, out}),
           out);
    norm_column_sums<T>(dy, x, means, rstds, rows, n, dweight, dbias);
  });
}

}  // namespace retape::cuda
