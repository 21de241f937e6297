// A training step as one launch: CUDA records what a function gives the device to do, and repeats it without the host's part.
#pragma once
#include <functional>
#include <memory>
#include <vector>

#include <retape/core/tensor.h>

namespace retape::cuda {

/// A function whose work on a device is captured the second time it is called, and from then on only launched again, with new inputs:
///
///     cuda::Graph step([&](const std::vector<Tensor>& in) -> std::vector<Tensor> {
///       optimizer.zero_grad();
///       Tensor loss = model.loss(in[0], in[1]);
///       backward(scaler.scale(loss));
///       scaler.step(optimizer);
///       scaler.update();
///       return {loss};
///     });
///     for (...) {
///       optimizer.set_lr(schedule(i));
///       Tensor loss = step({x, y})[0];
///     }
///
/// The first call runs the function as it is, so that what it makes once (an optimizer's state) exists before. Each later call has the same
/// effects on tensors as the function would have: learning rates, other options of optimizers and random numbers are those of the call.
/// What the function does on the host (CPU tensors, counters, a branch on a value) happens in the first two calls only.
/// Gradients must be made or zeroed inside, since a launch writes where the captured call wrote. Tensors that the launches read are kept; those
/// that they return are written again by the next call: clone() what is to stay. Memory that the function takes is the graph's until it goes.
/// Optimizers and modules must outlive the calls.
///
/// Throws Error if the function waits for the device (item(), a copy to or from the CPU), or uses another device; and, when it is called
/// with other shapes, dtypes or numbers of inputs than it was captured with. After an Error in the capture it is as if it had been called
/// once. Inputs may be on the CPU. torch: cuda.CUDAGraph, cuda.make_graphed_callables.
class Graph {
 public:
  using Function = std::function<std::vector<Tensor>(const std::vector<Tensor>&)>;
  /// Throws Error if there is no such device.
  explicit Graph(Function function, Device device = Device::cuda());
  Graph(Graph&&) noexcept;
  ~Graph();

  /// On this thread's current stream. Results have no history.
  const std::vector<Tensor>& operator()(const std::vector<Tensor>& inputs = {});
  bool is_captured() const;
  /// Forgets the capture, as after construction.
  void reset();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace retape::cuda
