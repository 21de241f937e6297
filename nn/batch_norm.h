// Batch and instance normalisation.
#pragma once
#include <optional>

#include <retape/autograd/group_norm.h>
#include <retape/nn/module.h>

namespace retape::nn {

struct BatchNormOptions {
  double eps = 1e-5;
  std::optional<double> momentum = 0.1;  ///< absent: running moments are the mean of all batches so far
  bool affine = true;                    ///< weight and bias
  bool track_running_stats = true;
};
struct InstanceNormOptions {
  double eps = 1e-5;
  double momentum = 0.1;
  bool affine = false;
  bool track_running_stats = false;
};

/// What they share: weight (C) starts at 1, bias (C) at 0, running_mean (C) at 0 and running_var (C) at 1, num_batches_tracked (i64) at 0.
struct RunningNorm : Module {
  int64_t num_features;
  double eps;
  std::optional<double> momentum;
  Parameter weight, bias;
  Buffer running_mean, running_var, num_batches_tracked;
  /// Running moments as at the start.
  void reset_running_stats();
  RETAPE_FIELDS(weight, bias, running_mean, running_var, num_batches_tracked)

 protected:
  RunningNorm(int64_t num_features, const BatchNormOptions& options);
  /// Counts a batch and moves the running moments to its own, in place and outside of the tape: once, whatever is replayed.
  void track(const NormWithMoments& batch, int64_t count) const;
  void check_features(const char* name, const Tensor& x, int least, int most) const;
};

/// Normalises each channel by its mean and variance over the batch and all positions while training, and moves the running ones towards
/// them (running_var with divisor n - 1); afterwards, or where there are no moments of a batch to take, by the running ones. Without
/// running ones always by the batch's. Throws Error for another number of dims or channels, and in training for a single value a channel.
/// Ioffe & Szegedy 2015; torch: nn.BatchNorm1d, ...
struct BatchNorm : RunningNorm {
  Tensor forward(const Tensor& x) const;
  RETAPE_MODULE_BODY
 protected:
  BatchNorm(const char* name, int least, int most, int64_t num_features, const BatchNormOptions& options)
      : RunningNorm(num_features, options), name_(name), least_(least), most_(most) {}

 private:
  const char* name_;
  int least_, most_;
};
/// x (N, C) or (N, C, L).
struct BatchNorm1d : BatchNorm {
  BatchNorm1d(int64_t num_features, const BatchNormOptions& options = {}) : BatchNorm("BatchNorm1d", 2, 3, num_features, options) {}
  RETAPE_MODULE_BODY
};
/// x (N, C, H, W).
struct BatchNorm2d : BatchNorm {
  BatchNorm2d(int64_t num_features, const BatchNormOptions& options = {}) : BatchNorm("BatchNorm2d", 4, 4, num_features, options) {}
  RETAPE_MODULE_BODY
};
/// x (N, C, D, H, W).
struct BatchNorm3d : BatchNorm {
  BatchNorm3d(int64_t num_features, const BatchNormOptions& options = {}) : BatchNorm("BatchNorm3d", 5, 5, num_features, options) {}
  RETAPE_MODULE_BODY
};

/// Normalises each channel of each sample by its own mean and variance; where it tracks running moments, it uses them in evaluation. x as
/// for BatchNorm, or without N. Ulyanov et al. 2016; torch: nn.InstanceNorm1d, ...
struct InstanceNorm : RunningNorm {
  Tensor forward(const Tensor& x) const;
  RETAPE_MODULE_BODY
 protected:
  InstanceNorm(const char* name, int dims, int64_t num_features, const InstanceNormOptions& o)
      : RunningNorm(num_features, {.eps = o.eps, .momentum = o.momentum, .affine = o.affine, .track_running_stats = o.track_running_stats}),
        name_(name),
        dims_(dims) {}

 private:
  const char* name_;
  int dims_;
};
/// x (N, C, L) or (C, L).
struct InstanceNorm1d : InstanceNorm {
  InstanceNorm1d(int64_t num_features, const InstanceNormOptions& options = {})
      : InstanceNorm("InstanceNorm1d", 3, num_features, options) {}
  RETAPE_MODULE_BODY
};
/// x (N, C, H, W) or (C, H, W).
struct InstanceNorm2d : InstanceNorm {
  InstanceNorm2d(int64_t num_features, const InstanceNormOptions& options = {})
      : InstanceNorm("InstanceNorm2d", 4, num_features, options) {}
  RETAPE_MODULE_BODY
};
/// x (N, C, D, H, W) or (C, D, H, W).
struct InstanceNorm3d : InstanceNorm {
  InstanceNorm3d(int64_t num_features, const InstanceNormOptions& options = {})
      : InstanceNorm("InstanceNorm3d", 5, num_features, options) {}
  RETAPE_MODULE_BODY
};

namespace detail {
// Every BatchNorm below `model` begins anew, trains, and counts all batches the same, while it lives and records nothing.
class FreshMoments {
 public:
  explicit FreshMoments(Module& model);
  ~FreshMoments();
  FreshMoments(const FreshMoments&) = delete;

 private:
  Scoped<bool> off_{ctx.recording, false};
  std::vector<std::pair<BatchNorm*, std::optional<double>>> momenta_;
  ModeScope mode_;
};
struct Itself {
  template <class T> const T& operator()(const T& x) const { return x; }
};
}  // namespace detail

/// Makes the running moments of all BatchNorms in a model those of `batches`, by model(input(batch)) for each: for averaged weights, which no
/// training has given moments, `update_bn(batches, average.module)`. torch: optim.swa_utils.update_bn.
template <class Batches, class Model, class Input = detail::Itself> void update_bn(Batches&& batches, Model& model, Input input = {}) {
  const detail::FreshMoments fresh(model);
  for (auto&& batch : batches) model(input(batch));
}

}  // namespace retape::nn
