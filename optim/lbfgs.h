// L-BFGS: quasi-Newton steps from the last gradients, for full batches.
#pragma once
#include <retape/optim/optimizer.h>

namespace retape {

enum class LineSearch : uint8_t { none, strong_wolfe };

struct LBFGSOptions {
  double lr = 1;
  int64_t max_iter = 20;                 ///< iterations a step()
  std::optional<int64_t> max_eval = {};  ///< calls of the closure a step(), by default max_iter * 5 / 4
  double tolerance_grad = 1e-7;          ///< a step() ends when no element of the gradient is larger,
  double tolerance_change = 1e-9;        ///< or when neither weights nor loss change by more
  int64_t history_size = 100;
  LineSearch line_search_fn = LineSearch::none;
  bool maximize = false;

  static constexpr auto optimizer = "lbfgs";
  void check() const;
};
/// Nocedal 1980, with a line search for the strong Wolfe conditions (Nocedal & Wright 2006, algorithms 3.5 and 3.6, cubic interpolation) if
/// asked for. Takes all parameters as one vector, so that they must have one dtype and device, and needs 2 history_size + 3 copies of them.
/// What a step does depends on its losses, which it waits for: it cannot be captured, nor skipped by a GradScaler. Sparse gradients are made
/// dense; parameters without gradient have zero. torch: optim.LBFGS; its state is under parameter 0.
class LBFGS : public OptimizerWith<LBFGSOptions> {
 public:
  /// Throws Error as other optimizers do, and for parameters of several dtypes or devices.
  explicit LBFGS(const std::vector<Tensor>& params, const LBFGSOptions& options = {});
  /// Calls closure() up to max_eval times, which computes loss and gradients anew; returns the loss of the first call. If closure() throws,
  /// the weights may be those of a trial.
  Tensor step(const Closure& closure) override;
  /// Throws Error: there is no step without a closure.
  void step(const Tensor& found_inf = {}) override;

  NamedTensors state_dict() const override;
  void load_state_dict(const NamedTensors& state) override;

 protected:
  std::vector<const char*> state_names() const override { return {}; }
  void update(int, Device, const Tensor&, const std::vector<OptimizerSlot>&) override {}

 private:
  struct Point {  // on the line: how far, the loss, the gradient, its slope along the line
    double t, loss;
    Tensor grad;
    double slope;
  };
  double call(const Closure& closure, Tensor* first = nullptr) const;
  Tensor gather_grad() const;
  void move(const Tensor& direction, double t) const;
  Point search(const Closure& closure, const Point& start, double t, const Tensor& direction, int64_t max_calls, int64_t& calls) const;

  struct Memory {
    int64_t func_evals = 0, n_iter = 0;
    Tensor d;  // the direction, defined with all below
    double t = 0, h_diag = 1, prev_loss = 0;
    Tensor prev_flat_grad;
    std::vector<Tensor> old_dirs, old_stps, ro;  // changes of the gradient, of the weights, and 1 / (their product)
  };
  Memory memory_;
  std::vector<Tensor> params_;
};

}  // namespace retape
