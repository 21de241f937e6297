// Automatic mixed precision: while an Autocast lives, ops run in the precision that each states for itself.
//
//     {
//       const Autocast amp(DType::bf16);
//       loss = model.loss(x, y);    // products in bf16, losses and norms in f32, weights stay as they are
//     }
//     backward(loss);               // in the dtypes that forward chose; gradients arrive in their parameter's
#pragma once
#include <memory>
#include <tuple>
#include <vector>

#include <retape/core/context.h>
#include <retape/core/tensor.h>

namespace retape {

/// What an op wants its floating inputs to be under autocast; stated in the op: `static constexpr auto precision = Precision::low;`,
/// or a member where one struct serves a family. Only f32, f16 and bf16 inputs are cast: f64 stays, as in PyTorch.
enum class Precision : uint8_t {
  any,    ///< as they are
  low,    ///< the region's dtype: products, which processors do much faster in half types
  full,   ///< f32: sums, exponentials, norms and losses, whose results half types cannot hold
  widest  ///< the widest of the op's own inputs
};

/// While it lives, ops of this thread run in mixed precision: products in `dtype`, and what would suffer in f32. Results are of the
/// dtype that their op ran in. With enabled = false it is the off switch inside another region. Weights (leaves that want a gradient)
/// are cast once and kept until the outermost region ends, or until somebody writes into them. backward() turns autocast off.
/// Throws Error unless dtype is bf16 or f16. torch: autocast.
struct Autocast {
  explicit Autocast(DType dtype, bool enabled = true);
  ~Autocast();
  Autocast(const Autocast&) = delete;
  const DType low;

 private:
  struct Cache;
  friend Tensor autocast_input(const Tensor& x, DType to);
  friend void forget_casts(const Region* region);
  static thread_local Cache* cache_;
  std::unique_ptr<Cache> owned_;  // of the outermost region
  Scoped<Autocast*> scope_;
};

// What ops are written with. A function that looks at dtypes before its op does, to promote or check them, first asks for the casts
// that the op's gate would make:
//
//     if (autocasting()) return under_autocast(Linear::precision, [](auto&... x) { return linear(x...); }, x, weight, bias);

/// Whether ops cast their inputs here: a region is on, and no op's forward runs.
inline bool autocasting() { return ctx.autocast && !ctx.inside_forward; }

/// x in dtype `to`, if it is floating, not f64 and not in it already; through the cache if x is a weight.
Tensor autocast_input(const Tensor& x, DType to);
inline std::vector<Tensor> autocast_input(const std::vector<Tensor>& xs, DType to) {
  std::vector<Tensor> ys;
  for (auto& x : xs) ys.push_back(autocast_input(x, to));
  return ys;
}
/// Called when a checkpoint ends: its casts are recipes of its own.
void forget_casts(const Region* region);
struct ForgetCasts {
  const Region* region;
  ~ForgetCasts() { forget_casts(region); }
};

namespace detail {
void widen(DType& to, const Tensor& x);
inline void widen(DType& to, const std::vector<Tensor>& xs) {
  for (auto& x : xs) widen(to, x);
}
}  // namespace detail

/// f of the inputs (Tensor or std::vector<Tensor>), cast as `precision` says; autocast is off inside. To be called while it is on.
template <class F, class... In> auto under_autocast(Precision precision, F&& f, const In&... in) {
  DType to = precision == Precision::full ? DType::f32 : ctx.autocast->low;
  if (precision == Precision::widest) (detail::widen(to, in), ...);
  const std::tuple<In...> inputs{autocast_input(in, to)...};
  const Scoped off(ctx.autocast, nullptr);
  return std::apply(f, inputs);
}

}  // namespace retape
