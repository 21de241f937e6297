#include <retape/optim/schedule.h>

#include <cmath>
#include <numbers>

namespace retape {
namespace {

double warm_up(double lr, int64_t warmup, int64_t step) { return lr * double(step + 1) / double(warmup + 1); }
// How much of the way from step `warmup` to step `steps` is behind; both ends are before and after it.
double progress(int64_t warmup, int64_t steps, int64_t step) { return double(step - warmup) / double(steps - warmup); }

}  // namespace

double WarmupConstant::operator()(int64_t step) const { return step < warmup ? warm_up(lr, warmup, step) : lr; }
double WarmupLinear::operator()(int64_t step) const {
  if (step < warmup) return warm_up(lr, warmup, step);
  if (step >= steps) return min_lr;
  return lr + (min_lr - lr) * progress(warmup, steps, step);
}
double WarmupCosine::operator()(int64_t step) const {
  if (step < warmup) return warm_up(lr, warmup, step);
  if (step >= steps) return min_lr;
  return min_lr + (lr - min_lr) * (1 + std::cos(std::numbers::pi * progress(warmup, steps, step))) / 2;
}

double Noam::operator()(int64_t step) const {
  const double s = double(step + 1), w = double(warmup);
  return factor / std::sqrt(double(dim)) * (s < w ? s / (w * std::sqrt(w)) : 1 / std::sqrt(s));
}

}  // namespace retape
