#include <retape/nn/batch_norm.h>

#include <fmt/format.h>

#include <retape/autograd/reduce.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/views.h>
#include <retape/nn/init.h>

namespace retape::nn {

RunningNorm::RunningNorm(int64_t features, const BatchNormOptions& o) : num_features(features), eps(o.eps), momentum(o.momentum) {
  if (features <= 0) throw Error(fmt::format("BatchNorm: num_features is {}; it must be above 0", features));
  if (o.affine) {
    weight = empty_parameter({features}), bias = empty_parameter({features});
    init::ones(weight), init::zeros(bias);
  }
  if (!o.track_running_stats) return;
  const Options options = DefaultOptions::current;
  running_mean = Buffer(zeros({features}, options));
  running_var = Buffer(ones({features}, options));
  num_batches_tracked = Buffer(zeros({}, {DType::i64, options.device}));
}
void RunningNorm::reset_running_stats() {
  if (!running_mean) return;
  const NoGrad off;
  copy_into(zeros_like(running_mean), running_mean);
  copy_into(ones_like(running_var), running_var);
  copy_into(zeros_like(num_batches_tracked), num_batches_tracked);
}
void RunningNorm::track(const NormWithMoments& batch, int64_t count) const {
  if (!running_mean) return;
  const NoGrad off;
  const Tensor batches = num_batches_tracked + 1;
  copy_into(batches, num_batches_tracked);
  if (momentum) update_running_moments(batch, count, *momentum, running_mean, running_var);
  else update_running_moments(batch, count, div(1, cast(batches, batch.mean.dtype())), running_mean, running_var);
}
void RunningNorm::check_features(const char* name, const Tensor& x, int least, int most) const {
  if (!x) throw Error(fmt::format("{}: the input is an undefined tensor", name));
  if (x.dim() < least || x.dim() > most)
    throw Error(fmt::format("{}: the input is {}; it must have {} dims", name, x.shape().str(),
                            least == most ? std::to_string(least) : fmt::format("{} or {}", least, most)));
}

Tensor BatchNorm::forward(const Tensor& x) const {
  check_features(name_, x, least_, most_);
  if (x.shape()[1] != num_features)
    throw Error(fmt::format("{}: the input is {}, with {} channels; it must have {}", name_, x.shape().str(), x.shape()[1], num_features));
  if (!is_training() && running_mean) return norm_by_moments(x, running_mean, running_var, weight, bias, eps);
  const NormWithMoments all = batch_norm_with_moments(x, weight, bias, eps);
  if (is_training()) track(all, x.numel() / num_features);
  return all.y;
}

Tensor InstanceNorm::forward(const Tensor& x) const {
  check_features(name_, x, dims_ - 1, dims_);
  if (x.dim() < dims_) return squeeze(forward(unsqueeze(x, 0)), 0);
  if (x.shape()[1] != num_features)
    throw Error(fmt::format("{}: the input is {}, with {} channels; it must have {}", name_, x.shape().str(), x.shape()[1], num_features));
  if (!is_training() && running_mean) return norm_by_moments(x, running_mean, running_var, weight, bias, eps);
  const NormWithMoments all = instance_norm_with_moments(x, weight, bias, eps);
  if (is_training() && running_mean) {
    const NoGrad off;
    update_running_moments({{}, mean(all.mean, {0}), mean(all.var, {0})}, x.numel() / (x.shape()[0] * num_features), *momentum,
                           running_mean,
                           running_var);  // PyTorch counts no batches here
  }
  return all.y;
}

namespace detail {
FreshMoments::FreshMoments(Module& model) : mode_(model, true) {
  model.apply<BatchNorm>([&](BatchNorm& norm) {
    norm.reset_running_stats();
    momenta_.emplace_back(&norm, norm.momentum);
    norm.momentum.reset();
  });
}
FreshMoments::~FreshMoments() {
  for (auto& [norm, momentum] : momenta_) norm->momentum = momentum;
}
}  // namespace detail

}  // namespace retape::nn
