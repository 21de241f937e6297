// Every optimizer with its defaults and with other options, under the names of tests/golden/make_optim.py. A new optimizer gets a row here:
// its numbers, half types, devices, graphs, skipped steps and state are tested by that.
#pragma once
#include <functional>
#include <memory>

#include "../nn/golden.h"

namespace retape::testing {

struct OptimizerCase {
  const char* name;
  std::function<std::unique_ptr<Optimizer>(const std::vector<Tensor>&)> make;
  bool only_matrices = false;
  double f32 = 1e-5, f64 = 1e-12;  // how far ||a - b|| / ||b|| may be from the golden numbers
};

template <class O, class Options> auto making(const Options& options) {
  return [options](const std::vector<Tensor>& params) -> std::unique_ptr<Optimizer> { return std::make_unique<O>(params, options); };
}
/// An optimizer together with the one that it works around.
struct LookaheadCase : Lookahead {
  std::unique_ptr<SGD> fast;
  LookaheadCase(std::unique_ptr<SGD> of, const LookaheadOptions& options) : Lookahead(*of, options), fast(std::move(of)) {}
};

inline const std::vector<OptimizerCase>& optimizer_cases() {
  // Muon's iteration is in bf16: where sums that come in another order are rounded to another neighbour, elements move by 2^-8.
  constexpr double bf16 = 1e-3;
  static const std::vector<OptimizerCase> cases = {
      {"sgd", making<SGD>(SGDOptions{})},
      {"sgd.momentum", making<SGD>(SGDOptions{.lr = 0.05, .momentum = 0.9, .dampening = 0.3, .weight_decay = 0.1})},
      {"sgd.nesterov", making<SGD>(SGDOptions{.lr = 0.05, .momentum = 0.9, .nesterov = true, .maximize = true})},
      {"adam", making<Adam>(AdamOptions{})},
      {"adam.amsgrad", making<Adam>(AdamOptions{.lr = 0.05, .betas = {0.8, 0.9}, .weight_decay = 0.1, .amsgrad = true})},
      {"adam.decoupled", making<Adam>(AdamOptions{.lr = 0.05, .weight_decay = 0.1, .decoupled_weight_decay = true})},
      {"adamw", making<AdamW>(AdamWOptions{})},
      {"adamw.amsgrad", making<AdamW>(AdamWOptions{.lr = 0.05, .eps = 1e-3, .amsgrad = true, .maximize = true})},
      {"nadam", making<NAdam>(NAdamOptions{})},
      {"nadam.coupled",
       making<NAdam>(NAdamOptions{.lr = 0.05, .betas = {0.8, 0.95}, .weight_decay = 0.1, .momentum_decay = 0.02, .maximize = true})},
      {"nadam.decoupled", making<NAdam>(NAdamOptions{.lr = 0.05, .weight_decay = 0.1, .decoupled_weight_decay = true})},
      {"radam", making<RAdam>(RAdamOptions{})},
      {"radam.coupled", making<RAdam>(RAdamOptions{.lr = 0.05, .betas = {0.8, 0.95}, .eps = 1e-3, .weight_decay = 0.1, .maximize = true})},
      {"radam.decoupled", making<RAdam>(RAdamOptions{.lr = 0.05, .weight_decay = 0.1, .decoupled_weight_decay = true})},
      {"adamax", making<Adamax>(AdamaxOptions{})},
      {"adamax.decay", making<Adamax>(AdamaxOptions{.lr = 0.05, .betas = {0.8, 0.95}, .eps = 1e-3, .weight_decay = 0.1, .maximize = true})},
      {"adadelta", making<Adadelta>(AdadeltaOptions{})},
      {"adadelta.decay", making<Adadelta>(AdadeltaOptions{.lr = 0.5, .rho = 0.8, .eps = 1e-3, .weight_decay = 0.1, .maximize = true})},
      {"adagrad", making<Adagrad>(AdagradOptions{})},
      {"adagrad.decay", making<Adagrad>(AdagradOptions{.lr = 0.1, .lr_decay = 0.1, .weight_decay = 0.1, .initial_accumulator_value = 0.2})},
      {"rmsprop", making<RMSprop>(RMSpropOptions{})},
      {"rmsprop.momentum",
       making<RMSprop>(RMSpropOptions{.lr = 0.02, .alpha = 0.9, .weight_decay = 0.1, .momentum = 0.8, .maximize = true})},
      {"rmsprop.centered", making<RMSprop>(RMSpropOptions{.lr = 0.02, .alpha = 0.9, .eps = 1e-3, .centered = true})},
      {"rmsprop.both", making<RMSprop>(RMSpropOptions{.lr = 0.02, .alpha = 0.9, .eps = 1e-3, .momentum = 0.5, .centered = true})},
      {"rprop", making<Rprop>(RpropOptions{})},
      {"rprop.etas", making<Rprop>(RpropOptions{.lr = 0.05, .etas = {0.4, 1.5}, .step_sizes = {0.01, 0.1}, .maximize = true})},
      {"asgd", making<ASGD>(ASGDOptions{})},
      {"asgd.average", making<ASGD>(ASGDOptions{.lr = 0.1, .lambd = 0.1, .alpha = 0.6, .t0 = 3, .weight_decay = 0.1, .maximize = true})},
      {"lion", making<Lion>(LionOptions{})},
      {"lion.decay", making<Lion>(LionOptions{.lr = 0.02, .betas = {0.8, 0.95}, .weight_decay = 0.3, .maximize = true})},
      {"lamb", making<LAMB>(LAMBOptions{})},
      {"lamb.decay", making<LAMB>(LAMBOptions{.lr = 0.05, .betas = {0.8, 0.999}, .eps = 1e-3, .weight_decay = 0.2, .maximize = true})},
      {"lamb.plain", making<LAMB>(LAMBOptions{.lr = 0.05, .adapt = false})},
      {"lars", making<LARS>(LARSOptions{})},
      {"lars.decay", making<LARS>(LARSOptions{.lr = 1, .weight_decay = 0.1, .trust_coefficient = 0.1, .maximize = true})},
      {"lars.plain", making<LARS>(LARSOptions{.lr = 0.1, .adapt = false})},
      {"adafactor", making<Adafactor>(AdafactorOptions{})},
      {"adafactor.decay", making<Adafactor>(AdafactorOptions{
                              .lr = 0.5, .beta2_decay = -0.6, .eps = {1e-4, 0.1}, .d = 1.5, .weight_decay = 0.1, .maximize = true})},
      {"muon", making<Muon>(MuonOptions{}), true, bf16, bf16},
      {"muon.match", making<Muon>(MuonOptions{.lr = 0.05, .momentum = 0.8, .nesterov = false, .adjust_lr_fn = AdjustLr::match_rms_adamw}),
       true, bf16, bf16},
      {"schedule_free", making<AdamWScheduleFree>(AdamWScheduleFreeOptions{})},
      {"schedule_free.warmup",
       making<AdamWScheduleFree>(AdamWScheduleFreeOptions{
           .lr = 0.05, .betas = {0.8, 0.95}, .weight_decay = 0.1, .warmup_steps = 4, .r = 1, .weight_lr_power = 1})},
      {"lookahead",
       [](const std::vector<Tensor>& params) -> std::
                                                 unique_ptr<Optimizer> {
                                                   return std::make_unique<LookaheadCase>(
                                                       std::make_unique<SGD>(params, SGDOptions{.lr = 0.1}),
                                                       LookaheadOptions{.k = 3, .alpha = 0.4});
                                                 }},
  };
  return cases;
}

/// What make_optim.py steps on.
struct OptimizerRun {
  std::vector<Tensor> params;
  bool bent;
  explicit OptimizerRun(bool only_matrices, DType dtype, Device device = {}) : bent(only_matrices) {
    const std::vector<Shape> shapes = only_matrices ? std::vector<Shape>{{4, 6}, {7, 3}} : std::vector<Shape>{{4, 6}, {3, 2, 2, 2}, {5}};
    for (size_t i = 0; i < shapes.size(); ++i)
      params.push_back(to(cast(values_of(shapes[i], 0.1 * double(i + 1)), dtype), device).set_requires_grad());
  }
  Tensor values_of(const Shape& shape, double k) const {
    if (!bent) return wave(shape, k);
    std::vector<double> v(size_t(shape.numel()));
    for (size_t i = 0; i < v.size(); ++i) v[i] = std::sin(0.3 * double(i * i) + k);
    return tensor(v, shape);
  }
  std::vector<Tensor> tables(int step) const {
    std::vector<Tensor> out;
    for (size_t i = 0; i < params.size(); ++i)
      out.push_back(to(cast(values_of(params[i].shape(), 1.3 * step + 0.1 * double(i + 1)), params[i].dtype()), params[i].device()));
    return out;
  }
  void set_grads(const std::vector<Tensor>& tables) const {
    const NoGrad off;
    for (size_t i = 0; i < params.size(); ++i) params[i].set_grad(tables[i] + params[i].detach() * 0.5);
  }
  void steps(Optimizer& optimizer, int begin, int end) const {
    for (int t = begin; t < end; ++t) {
      set_grads(tables(t));
      optimizer.step();
    }
  }
  std::vector<Tensor> values() const {
    std::vector<Tensor> out;
    for (auto& p : params) out.push_back(to(clone(p.detach()), Device::cpu()));
    return out;
  }
};

/// ||a - b|| / ||b||, of all of them together; nan if they have not the same shapes.
inline double relative_difference(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  if (a.size() != b.size()) return NAN;
  double square = 0, whole = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (!(a[i].shape() == b[i].shape())) return NAN;
    const auto x = a[i].to_vector<double>(), y = b[i].to_vector<double>();
    for (size_t k = 0; k < x.size(); ++k) square += (x[k] - y[k]) * (x[k] - y[k]), whole += y[k] * y[k];
  }
  return std::sqrt(square) / (whole == 0 ? 1 : std::sqrt(whole));
}

}  // namespace retape::testing
