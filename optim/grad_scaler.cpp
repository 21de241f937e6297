#include <retape/optim/grad_scaler.h>

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include <retape/autograd/binary.h>
#include <retape/autograd/sparse.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/views.h>
#include <retape/optim/device.h>

namespace retape {
namespace {

void check_scale(double scale) {
  if (!(scale > 0 && std::isfinite(float(scale))))
    throw Error(fmt::format("grad_scaler: a scale of {} is not valid; it must be positive and finite in f32", scale));
}
void check(const GradScalerOptions& o) {
  check_scale(o.init_scale);
  if (!(o.growth_factor > 1 && std::isfinite(o.growth_factor)))
    throw Error(fmt::format("grad_scaler: growth_factor {} is not valid; it must be above 1", o.growth_factor));
  if (!(o.backoff_factor > 0 && o.backoff_factor < 1))
    throw Error(fmt::format("grad_scaler: backoff_factor {} is not valid; it must be between 0 and 1", o.backoff_factor));
  if (o.growth_interval < 1)
    throw Error(fmt::format("grad_scaler: growth_interval {} is not valid; it must be at least 1", o.growth_interval));
}

// The gradients by device. One that is not contiguous is replaced, which is done last: an Error before it has changed nothing.
std::vector<std::vector<Tensor>> gradients(const Optimizer& optimizer) {
  const auto params = optimizer.parameters();
  std::vector<Tensor> grads;
  for (size_t i = 0; i < params.size(); ++i) {
    const Tensor grad = detail::gradient_values(params[i]);
    if (grad && grad.dtype() == DType::f16)
      throw Error(
          fmt::format("grad_scaler: the gradient of parameter {} is f16, in which it cannot be unscaled; keep weights in f32 and "
                      "compute in f16 under Autocast",
                      i));
  }
  for (auto& p : params) {
    Tensor grad = detail::gradient_values(p);
    if (!grad) continue;
    if (!grad.is_contiguous()) {
      grad = contiguous(grad);
      p.set_grad(grad);
    }
    grads.push_back(grad);
  }
  return detail::split_by_device(grads, [](const Tensor& t) { return t.device(); });
}

}  // namespace

GradScaler::GradScaler(const GradScalerOptions& options) : options_(options) { check(options); }

Tensor GradScaler::scale(const Tensor& outputs) {
  if (!outputs) throw Error("grad_scaler: scale: the loss is an undefined tensor");
  if (!is_floating(outputs.dtype()))
    throw Error(fmt::format("grad_scaler: scale: a loss of {} has no gradient; it must be floating", name_of(outputs.dtype())));
  if (!options_.enabled) return outputs;
  if (!scale_) {
    const Device device = outputs.device().is_meta() ? Device{} : outputs.device();
    const Tensor tracker = full({}, double(tracked_), {DType::i32, device});
    scale_ = full({}, options_.init_scale, {DType::f32, device});
    tracker_ = tracker;
  }
  return outputs * to(scale_, outputs.device());
}
std::vector<Tensor> GradScaler::scale(const std::vector<Tensor>& outputs) {
  std::vector<Tensor> scaled;
  for (auto& t : outputs) scaled.push_back(scale(t));
  return scaled;
}

void GradScaler::check_scaled(const char* method) const {
  if (!scale_) throw Error(fmt::format("grad_scaler: {} before scale(); call backward(scaler.scale(loss)) first", method));
}
// Not 0 if one of them is.
Tensor GradScaler::total(const std::vector<Tensor>& found_inf) const {
  Tensor sum = to(found_inf.front(), scale_.device());
  for (size_t i = 1; i < found_inf.size(); ++i) sum = sum + to(found_inf[i], scale_.device());
  return sum;
}

void GradScaler::unscale_(Optimizer& optimizer) {
  if (!options_.enabled) return;
  check_scaled("unscale_()");
  const NoGrad no_grad;
  const auto known = seen_.find(&optimizer);
  if (known != seen_.end() && known->second.stage == Stage::unscaled)
    throw Error("grad_scaler: unscale_() was already called for this optimizer since the last update(); its gradients are unscaled");
  if (known != seen_.end() && known->second.stage == Stage::stepped)
    throw Error("grad_scaler: unscale_() after step(); call it before step(), or update() first");
  Seen seen{Stage::unscaled, {}};
  for (auto& grads : gradients(optimizer)) {
    const Device device = grads.front().device();
    Tensor found = zeros({}, {DType::f32, device.is_meta() ? scale_.device() : device});
    const Tensor scale = to(scale_, device);
    RETAPE_DISPATCH(device, unscale(scale, grads, found));
    seen.found_inf.push_back(found);
  }
  seen_[&optimizer] = std::move(seen);
}

void GradScaler::step(Optimizer& optimizer) {
  if (!options_.enabled) return optimizer.step();
  check_scaled("step()");
  const NoGrad no_grad;
  const auto known = seen_.find(&optimizer);
  if (known != seen_.end() && known->second.stage == Stage::stepped)
    throw Error("grad_scaler: step() was already called for this optimizer since the last update(); call update() once an iteration");
  if (known == seen_.end()) unscale_(optimizer);
  Seen& seen = seen_.at(&optimizer);
  if (seen.found_inf.empty()) {
    seen_.erase(&optimizer);
    throw Error("grad_scaler: no parameter of this optimizer has a gradient, so none could be checked; call backward() before step()");
  }
  optimizer.step(total(seen.found_inf));
  seen.stage = Stage::stepped;
}

void GradScaler::update() {
  if (!options_.enabled) return;
  check_scaled("update()");
  const NoGrad no_grad;
  std::vector<Tensor> found;
  for (auto& [optimizer, seen] : seen_) found.insert(found.end(), seen.found_inf.begin(), seen.found_inf.end());
  if (found.empty()) throw Error("grad_scaler: update() without a step(): no gradient was looked at since the last update()");
  const Tensor found_inf = total(found);
  const LossScaleArgs args{options_.growth_factor, options_.backoff_factor, options_.growth_interval};
  RETAPE_DISPATCH(scale_.device(), update_loss_scale(args, found_inf, scale_, tracker_));
  seen_.clear();
}
void GradScaler::update(double new_scale) {
  if (!options_.enabled) return;
  check_scaled("update()");
  check_scale(new_scale);
  copy_into(full({}, new_scale, scale_.options()), scale_);  // a captured graph knows this tensor
  seen_.clear();
}

double GradScaler::get_scale() const { return !options_.enabled ? 1 : scale_ ? scale_.item() : options_.init_scale; }

NamedTensors GradScaler::state_dict() const {
  if (!options_.enabled) return {};
  const auto number = [](double v) { return full({}, v, {DType::f64}); };
  const auto count = [](int64_t v) { return full({}, double(v), {DType::i64}); };
  return {{"scale", number(get_scale())},
          {"growth_factor", number(options_.growth_factor)},
          {"backoff_factor", number(options_.backoff_factor)},
          {"growth_interval", count(options_.growth_interval)},
          {"_growth_tracker", count(tracker_ ? tracker_.item<int32_t>() : tracked_)}};
}

void GradScaler::load_state_dict(const NamedTensors& state) {
  if (!options_.enabled) return;
  if (state.empty()) throw Error("grad_scaler: load_state_dict: the state is empty; was it saved by a scaler that was not enabled?");
  const char* const names[] = {"scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"};
  std::map<std::string, double> values;
  for (auto& [name, value] : state) {
    if (std::find(std::begin(names), std::end(names), name) == std::end(names))
      throw Error(fmt::format("grad_scaler: load_state_dict: unknown entry {}", name));
    if (!value || value.numel() != 1) throw Error(fmt::format("grad_scaler: load_state_dict: {} must be one number", name));
    values[name] = value.item();
  }
  for (const char* name : names)
    if (!values.contains(name)) throw Error(fmt::format("grad_scaler: load_state_dict: entry {} is missing", name));
  for (const char* name : {"growth_interval", "_growth_tracker"})
    if (const double v = values[name]; !(v >= 0 && v <= 0x1p31 - 1 && v == std::floor(v)))
      throw Error(fmt::format("grad_scaler: load_state_dict: {} is {}; it must be a whole number", name, v));
  if (values["_growth_tracker"] >= values["growth_interval"])
    throw Error(fmt::format("grad_scaler: load_state_dict: _growth_tracker {} is not below growth_interval {}", values["_growth_tracker"],
                            values["growth_interval"]));
  GradScalerOptions loaded = options_;
  loaded.init_scale = values["scale"], loaded.growth_factor = values["growth_factor"], loaded.backoff_factor = values["backoff_factor"];
  loaded.growth_interval = int64_t(values["growth_interval"]);
  check(loaded);
  options_ = loaded;
  tracked_ = int64_t(values["_growth_tracker"]);
  scale_ = tracker_ = {};  // the next loss makes them, from these numbers
  seen_.clear();
}

}  // namespace retape
