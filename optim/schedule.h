// Learning rates as functions of the step, counted from 0: plain structs, to be called.
//
//     const WarmupCosine schedule{.lr = 1e-3, .min_lr = 1e-4, .warmup = 100, .steps = 2000};
//     optimizer.set_lr(schedule(step));
//
// All of them warm up the same way: step s < warmup has lr * (s + 1) / (warmup + 1), so that the first step is not lost and step
// `warmup` has lr itself. From step `steps` on the rate is min_lr.
#pragma once
#include <cstdint>

namespace retape {

struct WarmupConstant {
  double lr = 1e-3;
  int64_t warmup = 0;
  double operator()(int64_t step) const;
};
/// A straight line from lr at step `warmup` to min_lr at step `steps`.
struct WarmupLinear {
  double lr = 1e-3, min_lr = 0;
  int64_t warmup = 0, steps = 0;
  double operator()(int64_t step) const;
};
/// Half a cosine from lr at step `warmup` to min_lr at step `steps` (Loshchilov & Hutter 2017, without restarts).
struct WarmupCosine {
  double lr = 1e-3, min_lr = 0;
  int64_t warmup = 0, steps = 0;
  double operator()(int64_t step) const;
};
/// factor * dim^-0.5 * min(s^-0.5, s * warmup^-1.5) for s = step + 1: up in a straight line for `warmup` steps, then down with the root of
/// the step; there is no last step (Vaswani et al. 2017, "Noam").
struct Noam {
  double factor = 1;
  int64_t dim = 512, warmup = 4000;
  double operator()(int64_t step) const;
};

}  // namespace retape
