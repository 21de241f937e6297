// Averages of weights: of all that training has come through (SWA), or fading ones (EMA).
#pragma once
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <retape/core/tensor.h>

namespace retape {

struct AveragedModelOptions {
  std::optional<double> decay = {};  ///< of an exponential moving average, such as 0.999; without it every update counts the same
  bool use_buffers = false;          ///< average floating buffers, too; else they are copied
};

namespace detail {
class WeightAverage {
 public:
  explicit WeightAverage(const AveragedModelOptions& options);  // throws Error unless decay is between 0 and 1
  const AveragedModelOptions& options() const { return options_; }
  // averages[i] takes in current[i], or becomes it if nothing was averaged yet. The two lists end with `buffers` buffers.
  void update(const std::vector<Tensor>& averages, const std::vector<Tensor>& current, size_t buffers);
  int64_t count() const;
  Tensor entry() const;
  void set_count(const Tensor& entry);

 private:
  AveragedModelOptions options_;
  int64_t loaded_ = 0;         // the count before the first update
  std::vector<Tensor> steps_;  // of each tensor, where it lies: in a captured graph the device counts
};
NamedTensors prefixed(const std::string& prefix, const NamedTensors& of);
// The entries with the prefix, without it, and "n_averaged"; throws Error for any other.
std::pair<NamedTensors, Tensor> without_prefix(const std::string& prefix, const NamedTensors& of);
}  // namespace detail

/// A copy of a model whose weights are the average of those that update_parameters() was given.
///
///     AveragedModel ema(model, {.decay = 0.999});
///     ...
///     optimizer.step();
///     ema.update_parameters(model);
///     ...
///     ema.module.eval();
///     ema(x);
///
/// The first update copies. The average has the dtype of `module`: for a model in a half type convert that, `ema.module.to(DType::f32)`, since
/// small changes would be lost. Tan et al. 2020, Izmailov et al. 2018 (SWA). torch: optim.swa_utils.AveragedModel; with decay,
/// get_ema_multi_avg_fn(decay). Throws Error unless decay is between 0 and 1.
template <class Model> class AveragedModel {
 public:
  explicit AveragedModel(const Model& model, const AveragedModelOptions& options = {}) : module(model.clone()), average_(options) {}

  Model module;
  template <class... A> decltype(auto) operator()(A&&... a) { return module(std::forward<A>(a)...); }

  /// One pass over all parameters. Throws Error if the model has others than the one this was made from.
  void update_parameters(const Model& model) {
    std::vector<Tensor> averages = module.parameters(), current = model.parameters();
    const size_t parameters = averages.size();
    for (const auto& [name, t] : module.named_buffers()) averages.push_back(t);
    for (const auto& [name, t] : model.named_buffers()) current.push_back(t);
    average_.update(averages, current, averages.size() - parameters);
  }
  int64_t n_averaged() const { return average_.count(); }

  /// "n_averaged", and the module's entries as "module.NAME".
  NamedTensors state_dict() const {
    NamedTensors out = detail::prefixed("module.", module.state_dict());
    out.emplace_back("n_averaged", average_.entry());
    return out;
  }
  void load_state_dict(const NamedTensors& state) {
    const auto [mine, count] = detail::without_prefix("module.", state);
    detail::WeightAverage loaded(average_.options());
    loaded.set_count(count);
    module.load_state_dict(mine);
    average_ = loaded;
  }

 private:
  detail::WeightAverage average_;
};

}  // namespace retape
