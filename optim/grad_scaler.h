// Loss scaling for training in f16, whose smallest numbers are too large for many gradients.
//
//     GradScaler scaler;
//     for (...) {
//       optimizer.zero_grad();
//       Tensor loss = [&] { const Autocast amp(DType::f16); return model.loss(x, y); }();
//       backward(scaler.scale(loss));
//       scaler.unscale_(optimizer);                        // only if something reads the gradients, such as
//       clip_grad_norm(model.parameters(), 1);
//       scaler.step(optimizer);                            // skipped if a gradient is inf or nan
//       scaler.update();
//     }
#pragma once
#include <map>
#include <vector>

#include <retape/optim/optimizer.h>

namespace retape {

struct GradScalerOptions {
  double init_scale = 65536;
  double growth_factor = 2;        ///< what the scale is multiplied by after growth_interval successful steps in a row
  double backoff_factor = 0.5;     ///< what it is multiplied by after a skipped one
  int64_t growth_interval = 2000;  ///< counts steps that were not skipped
  bool enabled = true;             ///< false: scale() and unscale_() do nothing, step() steps
};

/// Multiplies losses by a scale, so that small gradients do not become 0 in f16, divides the gradients by it again, skips steps whose
/// gradients are not finite, and finds the largest scale that works. What was found stays on the device: nothing waits for it but
/// get_scale() and state_dict(). One scaler serves several losses and optimizers: step each optimizer, then update() once. The methods
/// throw Error, and change nothing, if they are called in another order. torch: amp.GradScaler.
class GradScaler {
 public:
  /// Throws Error unless init_scale is positive and finite, growth_factor above 1, backoff_factor between 0 and 1 and growth_interval
  /// at least 1.
  explicit GradScaler(const GradScalerOptions& options = {});

  /// The loss or losses, of any shape, times the scale: f32 for a loss without dims, in whatever dtype it comes.
  Tensor scale(const Tensor& outputs);
  std::vector<Tensor> scale(const std::vector<Tensor>& outputs);
  /// Divides the gradients of an optimizer's parameters by the scale, in place, and notes whether one is not finite. step() does it
  /// unless it has been done. Throws Error if that was done since the last update(), or if a gradient is f16 (keep weights in f32).
  void unscale_(Optimizer& optimizer);
  /// optimizer.step(), which changes nothing if a gradient was not finite. Throws Error if it has been called since the last update(),
  /// or if no parameter has a gradient.
  void step(Optimizer& optimizer);
  /// Makes the scale smaller if a step was skipped, larger after growth_interval successful ones. To be called once an iteration,
  /// after the last step(). Throws Error if no gradient was looked at since the last update().
  void update();
  /// Sets the scale instead; steps counted so far stay. Throws Error unless it is positive and finite.
  void update(double new_scale);

  double get_scale() const;  ///< 1 if not enabled
  bool is_enabled() const { return options_.enabled; }
  const GradScalerOptions& options() const { return options_; }

  /// scale, growth_factor, backoff_factor, growth_interval and _growth_tracker, each a number; empty if not enabled.
  NamedTensors state_dict() const;
  /// Continues from a state_dict(). Throws Error, and changes nothing, if a number is missing, unknown or out of range. Does nothing if
  /// not enabled.
  void load_state_dict(const NamedTensors& state);

 private:
  enum class Stage : uint8_t { ready, unscaled, stepped };
  struct Seen {
    Stage stage = Stage::ready;
    std::vector<Tensor> found_inf;  // one a device
  };
  void check_scaled(const char* method) const;
  Tensor total(const std::vector<Tensor>& found_inf) const;
  GradScalerOptions options_;
  Tensor scale_, tracker_;  // made by the first scale(), where its loss is
  int64_t tracked_ = 0;     // the tracker before that
  std::map<const Optimizer*, Seen> seen_;
};

}  // namespace retape
