#include <retape/optim/averaged_model.h>

#include <retape/autograd/tape.h>
#include <retape/autograd/views.h>
#include <retape/optim/entries.h>
#include <retape/optim/optimizer.h>

namespace retape::detail {

WeightAverage::WeightAverage(const AveragedModelOptions& options) : options_(options) {
  if (options.decay && !(*options.decay >= 0 && *options.decay <= 1))
    throw Error(fmt::format("averaged_model: decay {} is not valid; it must be between 0 and 1", *options.decay));
}

void WeightAverage::update(const std::vector<Tensor>& averages, const std::vector<Tensor>& current, size_t buffers) {
  const NoGrad no_grad;
  if (averages.size() != current.size())
    throw Error(fmt::format("averaged_model: the model has {} parameters and buffers, the average {}; give a model of the same structure",
                            current.size(), averages.size()));
  for (size_t i = 0; i < averages.size(); ++i)
    if (!(averages[i].shape() == current[i].shape()))
      throw Error(fmt::format("averaged_model: tensor {} is {} in the model and {} in the average; give a model of the same structure", i,
                              describe(current[i]), describe(averages[i])));
  if (steps_.empty())
    for (const Tensor& t : averages) steps_.push_back(to(count_entry(loaded_), t.device()));
  std::vector<OptimizerSlot> slots;
  for (size_t i = 0; i < averages.size(); ++i) {
    const Tensor& average = averages[i];
    const Tensor now = to(current[i].detach(), average.device());
    const bool copies = i + buffers >= averages.size() && !(options_.use_buffers && is_floating(average.dtype()));
    if (copies) copy_into(cast(now, average.dtype()), average);
    else slots.push_back({.value = average, .grad = cast(now, average.dtype()), .state = {}, .step = steps_[i]});
  }
  update_everywhere(UpdateKind::average, {.other = {options_.decay.value_or(0)}, .option = options_.decay.has_value()}, {}, slots);
}

Tensor WeightAverage::entry() const { return steps_.empty() ? count_entry(loaded_) : steps_.front(); }
int64_t WeightAverage::count() const { return steps_.empty() ? loaded_ : steps_.front().item<int64_t>(); }
void WeightAverage::set_count(const Tensor& entry) {
  loaded_ = Entries("averaged_model", {}).count("n_averaged", entry);
  steps_.clear();
}

NamedTensors prefixed(const std::string& prefix, const NamedTensors& of) {
  NamedTensors out;
  for (auto& [name, value] : of) out.emplace_back(prefix + name, value);
  return out;
}
std::pair<NamedTensors, Tensor> without_prefix(const std::string& prefix, const NamedTensors& of) {
  NamedTensors out;
  Tensor count;
  const Entries entries("averaged_model", {});
  for (auto& [name, value] : of) {
    if (name.starts_with(prefix)) out.emplace_back(name.substr(prefix.size()), value);
    else if (name == "n_averaged" && value && !count) count = value;
    else entries.fail(fmt::format("unknown entry {}; names are n_averaged and {}NAME", name, prefix));
  }
  if (!count) entries.fail("entry n_averaged is missing");
  return {out, count};
}

}  // namespace retape::detail
