// What a training step will take, found without running it.
#pragma once
#include <functional>
#include <type_traits>
#include <utility>
#include <vector>

#include <retape/core/random.h>
#include <retape/nn/module.h>

namespace retape {

/// Bytes on the CPU, in blocks as the allocator gives them.
struct MemoryEstimate {
  int64_t parameters = 0, buffers = 0, inputs = 0;
  int64_t activations = 0;      ///< what the forward has made and backward needs
  int64_t gradients = 0;        ///< of the parameters
  int64_t optimizer_state = 0;  ///< there from the end of the first step on
  int64_t first_peak = 0;       ///< the most at any moment of the first step: forward, backward, update
  int64_t peak = 0;             ///< the same of any later step, which has the optimizer's state from its start
};
struct EstimateOptions {
  int optimizer_states = 2;  ///< values that the optimizer keeps for each parameter: 2 for AdamW and Adam, 1 for SGD with momentum
  int accumulate = 1;        ///< backward passes in a step, whose gradients add up
};

namespace detail {
// One estimate: counts from where it was made to its end; what it counts is on meta.
class EstimateRun {
 public:
  EstimateRun();
  ~EstimateRun();
  EstimateRun(const EstimateRun&) = delete;
  Tensor input(const Tensor& x);
  MemoryEstimate measure(const nn::Module& model, const std::function<Tensor()>& step, EstimateOptions options);

 private:
  int64_t before_;
  RandomState generator_;
  MemoryEstimate estimate_;
};
template <class M> M clone_on_meta(const M& model) {
  const nn::detail::CloneScope scope(true);
  return M(model);
}
}  // namespace detail

/// The memory of a training step: clears the gradients, runs forward and backward, updates. The step runs on meta tensors through the
/// real tape, with checkpoints and all, so nothing is computed and no data is touched: model and random generator stay as they are.
/// `step` gets a copy of the model on meta and the inputs' shapes there, and returns the loss:
///
///     estimate_memory(model, &Gpt::loss, {ids, targets}).peak
///     estimate_memory(model, [](Net& net, const Tensor& x) { return mean(square(net(x))); }, {x}, {.optimizer_states = 0})
///
/// Ops of one's own must make their outputs on meta, too, and leave their data alone. Of the scratch memory inside kernels that of attention
/// and matrix products is counted, for as many threads as run now. A MemoryBudget in force is not
/// considered: the estimate says what the step takes without one.
/// Throws what the step throws, such as an Error for asking a meta tensor for its value.
template <class M, class F, size_t N>
requires std::is_base_of_v<nn::Module, M> MemoryEstimate estimate_memory(const M& model, F&& step, const Tensor (&inputs)[N],
                                                                         EstimateOptions options = {}) {
  detail::EstimateRun run;
  M on_meta = detail::clone_on_meta(model);
  std::vector<Tensor> x;
  for (auto& input : inputs) x.push_back(run.input(input));
  return run.measure(
      on_meta,
      [&] {
        return [&]<size_t... I>(std::index_sequence<I...>)->Tensor { return std::invoke(step, on_meta, x[I]...); }
        (std::make_index_sequence<N>{});
      },
      options);
}
/// The same for backward from model(input), every element of which gets a gradient.
template <class M>
requires std::is_base_of_v<nn::Module, M> MemoryEstimate estimate_memory(const M& model, const Tensor& input,
                                                                         EstimateOptions options = {}) {
  return estimate_memory(
      model, [](M& m, const Tensor& x) -> Tensor { return m(x); }, {input}, options);
}

}  // namespace retape
