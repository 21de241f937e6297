// Cross-entropy of logits and class numbers, from the logits alone: forward reads them once and keeps the logarithm of each row's
// sum of exponentials; backward computes the probabilities from it. The probabilities never exist in memory.
#include <retape/core/log_sum_exp.h>

namespace retape::RETAPE_LEVEL {
namespace {

RETAPE_INLINE void check_targets(const int64_t* target, int64_t rows, int64_t classes, int64_t ignore_index) {
  for (int64_t r = 0; r < rows; ++r)
    if (target[r] != ignore_index && (target[r] < 0 || target[r] >= classes))
      detail::index_out_of_range("cross_entropy", target[r], classes);
}

}  // namespace

// logits (rows, classes); target, losses, lse (rows). The wanted distribution is 1 - s at the target plus s / classes everywhere.
void cross_entropy(const Tensor& logits, const Tensor& target, int64_t ignore_index, double label_smoothing, Tensor& losses, Tensor& lse) {
  const int64_t n = logits.shape()[-1], rows = target.numel();
  const int64_t* classes = target.data<int64_t>();
  check_targets(classes, rows, n, ignore_index);
  with_floating("cross_entropy", logits.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    const T* in = logits.data<T>();
    C *loss = losses.mutable_data<C>(), *log_sums = lse.mutable_data<C>();
    const C smoothing = C(label_smoothing);
    parallel_for(rows, row_grain(n), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        loss[r] = log_sums[r] = 0;
        if (classes[r] == ignore_index) continue;
        const T* row = in + r * n;
        const LogSumExp<C> s = log_sum_exp(row, n);
        const C log_sum = m::log(s.sum);
        log_sums[r] = s.max + log_sum;
        C gap = s.max - C(row[classes[r]]);  // differences to the maximum lose nothing when logits are large
        if (smoothing > C(0)) {
          C gaps = 0;
#pragma omp simd reduction(+ : gaps)
          for (int64_t i = 0; i < n; ++i) gaps += s.max - C(row[i]);
          gap = (C(1) - smoothing) * gap + smoothing * (gaps / C(n));
        }
        loss[r] = gap + log_sum;
      }
    });
  });
}

// dlogits = dloss (softmax(logits) - wanted), 0 where the target is ignored
void cross_entropy_backward(const Tensor& dlosses, const Tensor& logits, const Tensor& target, const Tensor& lse, int64_t ignore_index,
                            double label_smoothing, Tensor& dlogits) {
  const int64_t n = logits.shape()[-1], rows = target.numel();
  const int64_t* classes = target.data<int64_t>();
  check_targets(classes, rows, n, ignore_index);
  with_floating("cross_entropy_backward", logits.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    const T* in = logits.data<T>();
    T* out = dlogits.mutable_data<T>();
    const C *dloss = dlosses.data<C>(), *log_sums = lse.data<C>();
    parallel_for(rows, row_grain(n), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const T* row = in + r * n;
        T* to = out + r * n;
        if (classes[r] == ignore_index) {
          for (int64_t i = 0; i < n; ++i) put(to[i], C(0));
          continue;
        }
        const C log_sum = log_sums[r], g = dloss[r], everywhere = C(label_smoothing) / C(n);
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) put(to[i], g * (exp_nonpositive(C(row[i]) - log_sum) - everywhere));
        const int64_t at = classes[r];
        put(to[at], g * (exp_nonpositive(C(row[at]) - log_sum) - everywhere - C(1.0 - label_smoothing)));
      }
    });
  });
}

}  // namespace retape::RETAPE_LEVEL
