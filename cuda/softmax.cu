// Softmax and log-softmax over the last dimension. A row that is -inf everywhere gives 0 (log: -inf), so that a masked query
// attends to nothing.
#include <retape/cuda/log_sum_exp.h>

namespace retape::cuda {
namespace {

// y = e^(x - max) / sum, or its logarithm
template <class T>
__global__ void __launch_bounds__(threads_for_rows, 2) softmax_rows(const T* x, int64_t rows, int64_t n, bool log, bool packed, T* y) {
  using C = compute_t<T>;
  __shared__ C shared[33];
  for (int64_t r = first_row(); r < rows; r += row_step()) {
    const Rows<T, 1> row({x + r * n}, n, packed);
    const LogSumExp<C> of = log_sum_exp(row, shared);
    const C scale = of.sum == C(0) ? C(0) : C(1) / of.sum, log_sum = of.sum == C(0) ? C(0) : m::log(of.sum);
    row.each([&](const Place& place, const Values<T>* v) {
      Values<T> out;
#pragma unroll
      for (int j = 0; j < pack_width<T>; ++j) {
        const C shifted = v->at[j] - of.max;
        out.at[j] = log ? shifted - log_sum : m::exp(shifted) * scale;
      }
      store(out, y + r * n, place);
    });
  }
}

// dx = y (dy - sum(dy y)), or of the logarithm: dx = dy - e^y sum(dy)
template <class T>
__global__ void __launch_bounds__(threads_for_rows, 2)
    softmax_backward_rows(const T* dy, const T* y, int64_t rows, int64_t n, bool log, bool packed, T* dx) {
  using C = compute_t<T>;
  __shared__ C shared[33];
  for (int64_t r = first_row(); r < rows; r += row_step()) {
    const Rows<T, 2> row({dy + r * n, y + r * n}, n, packed);
    C sum = 0;
    row.each([&](const Place& place, const Values<T>* v) {
#pragma unroll
      for (int j = 0; j < pack_width<T>; ++j)
        if (place.has(j)) sum += v[0].at[j] * (log ? C(1) : v[1].at[j]);
    });
    sum = block_reduce(sum, shared, Plus{});
    row.each([&](const Place& place, const Values<T>* v) {
      Values<T> out;
#pragma unroll
      for (int j = 0; j < pack_width<T>; ++j) {
        const C d = v[0].at[j], p = v[1].at[j];
        out.at[j] = log ? d - m::exp(p) * sum : p * (d - sum);
      }
      store(out, dx + r * n, place);
    });
  }
}

int64_t row_size(const Tensor& x) { return x.dim() ? x.shape()[-1] : 1; }

}  // namespace

// x, y (..., n)
void softmax(const Tensor& x, bool log, Tensor& y) {
  if (x.numel() == 0) return;
  const int64_t n = row_size(x), rows = x.numel() / n;
  with_floating("softmax", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T* const in = data<T>(x);
    T* const out = data<T>(y);
    const RowGrid shape(rows, n, pack_width<T>);
    launch(softmax_rows<T>, shape.grid, shape.block, 0, in, rows, n, log, rows_are_packed<T>(n, {in, out}), out);
  });
}

// dy, y, dx (..., n)
void softmax_backward(const Tensor& dy, const Tensor& y, bool log, Tensor& dx) {
  if (y.numel() == 0) return;
  const int64_t n = row_size(y), rows = y.numel() / n;
  with_floating("softmax_backward", y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T *const d = data<T>(dy), *const p = data<T>(y);
    T* const out = data<T>(dx);
    const RowGrid shape(rows, n, pack_width<T>);
    launch(softmax_backward_rows<T>, shape.grid, shape.block, 0, d, p, rows, n, log, rows_are_packed<T>(n, {d, p, out}), out);
  });
}

}  // namespace retape::cuda
