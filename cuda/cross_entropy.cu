// Cross-entropy of logits and class numbers, from the logits alone: forward keeps the logarithm of each row's sum of exponentials,
// backward computes the probabilities from it. A wrong class is reported; its row counts as ignored.
#include <retape/cuda/log_sum_exp.h>

namespace retape::cuda {
namespace {

// Every thread of a row asks, so that all agree.
__device__ __forceinline__ bool has_target(int64_t target, int64_t classes, int64_t ignore_index, Fault* fault, const char* op) {
  if (target == ignore_index) return false;
  if (target >= 0 && target < classes) return true;
  if (threadIdx.x == 0) report(fault, op, target, -1, classes);
  return false;
}

template <class T>
__global__ void __launch_bounds__(threads_for_rows, 2)
    cross_entropy_rows(const T* logits, const int64_t* target, int64_t rows, int64_t n, int64_t ignore_index, compute_t<T> smoothing,
                       bool packed, Fault* fault, const char* op, compute_t<T>* losses, compute_t<T>* lse) {
  using C = compute_t<T>;
  __shared__ C shared[33];
  for (int64_t r = first_row(); r < rows; r += row_step()) {
    const int64_t wanted = target[r];
    C loss = 0, log_sum_exp_of_row = 0;
    if (has_target(wanted, n, ignore_index, fault, op)) {
      const Rows<T, 1> row({logits + r * n}, n, packed);
      const LogSumExp<C> of = log_sum_exp(row, shared);
      const C log_sum = m::log(of.sum);
      log_sum_exp_of_row = of.max + log_sum;
      C gap = of.max - C(logits[r * n + wanted]);  // differences to the maximum lose nothing when logits are large
      if (smoothing > C(0)) {
        C gaps = 0;
        row.each([&](const Place& place, const Values<T>* v) {
#pragma unroll
          for (int j = 0; j < pack_width<T>; ++j)
            if (place.has(j)) gaps += of.max - v->at[j];
        });
        gaps = block_reduce(gaps, shared, Plus{});
        gap = (C(1) - smoothing) * gap + smoothing * (gaps / C(n));
      }
      loss = gap + log_sum;
    }
    if (threadIdx.x == 0) losses[r] = loss, lse[r] = log_sum_exp_of_row;
  }
}

// dlogits = dloss (softmax(logits) - wanted), 0 where the target is ignored
template <class T>
__global__ void __launch_bounds__(threads_for_rows, 2)
    cross_entropy_backward_rows(const compute_t<T>* dlosses, const T* logits, const int64_t* target, const compute_t<T>* lse, int64_t rows,
                                int64_t n, int64_t ignore_index, compute_t<T> everywhere, compute_t<T> at_target, bool packed, Fault* fault,
                                const char* op, T* dlogits) {
  using C = compute_t<T>;
  for (int64_t r = first_row(); r < rows; r += row_step()) {
    const int64_t wanted = target[r];
    const bool counts = has_target(wanted, n, ignore_index, fault, op);
    const C log_sum = lse[r], g = dlosses[r];
    for (int64_t k = 0;; ++k) {
      const Place place(k, pack_width<T>, n, packed);
      if (!place.left) break;
      Values<T> out{};
      if (counts) {
        const Values<T> v = load(logits + r * n, place);
#pragma unroll
        for (int j = 0; j < pack_width<T>; ++j)
          out.at[j] = g * (m::exp(v.at[j] - log_sum) - everywhere - (place.at(j) == wanted ? at_target : C(0)));
      }
      store(out, dlogits + r * n, place);
    }
  }
}

}  // namespace

// logits (rows, classes); target, losses, lse (rows). The wanted distribution is 1 - s at the target plus s / classes everywhere.
void cross_entropy(const Tensor& logits, const Tensor& target, int64_t ignore_index, double label_smoothing, Tensor& losses, Tensor& lse) {
  const int64_t n = logits.shape()[-1], rows = target.numel();
  with_floating("cross_entropy", logits.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    const T* const in = data<T>(logits);
    const RowGrid shape(rows, n, pack_width<T>);
    launch(cross_entropy_rows<T>, shape.grid, shape.block, 0, in, data<int64_t>(target), rows, n, ignore_index, C(label_smoothing),
           rows_are_packed<T>(n, {in}), faults(), "cross_entropy", data<C>(losses), data<C>(lse));
  });
}

void cross_entropy_backward(const Tensor& dlosses, const Tensor& logits, const Tensor& target, const Tensor& lse, int64_t ignore_index,
                            double label_smoothing, Tensor& dlogits) {
  const int64_t n = logits.shape()[-1], rows = target.numel();
  with_floating("cross_entropy_backward", logits.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    const T* const in = data<T>(logits);
    T* const out = data<T>(dlogits);
    const RowGrid shape(rows, n, pack_width<T>);
    launch(cross_entropy_backward_rows<T>, shape.grid, shape.block, 0, data<C>(dlosses), in, data<int64_t>(target), data<C>(lse), rows, n,
           ignore_index, C(label_smoothing) / C(n), C(1.0 - label_smoothing), rows_are_packed<T>(n, {in, out}), faults(), "cross_entropy",
           out);
  });
}

}  // namespace retape::cuda
