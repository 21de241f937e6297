// What is timed on Retape and on a peer in turn. Each later kernel, layer or trainer adds its rows in works.cpp, and its other side
// in peer_torch.py.
#pragma once
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <examples/lm/model.h>

namespace retape::bench {

/// A GPT's training step; the defaults are nanoGPT's CPU settings, with the vocabulary of its character data set.
struct StepSettings {
  int64_t vocab = 65, layers = 4, heads = 4, width = 128, block = 64, batch = 12;
};
/// One training step of a GPT on random tokens: forward (under Autocast if `amp` says so), backward, clip, AdamW.
class GptStep {
 public:
  explicit GptStep(const StepSettings& settings, Device device = {}, std::optional<DType> amp = {});
  void run() { run(inputs()); }
  /// Takes {ids, targets} and returns {loss}, as a cuda::Graph does.
  std::vector<Tensor> run(const std::vector<Tensor>& inputs);
  std::vector<Tensor> inputs() const { return {ids_, targets_}; }
  void recompute(const std::string& how) { lm::recompute(model_, how); }
  MemoryEstimate estimate() const { return estimate_memory(model_, &nn::LanguageModel::loss, {ids_, targets_}); }

 private:
  nn::LanguageModel model_;
  AdamW optimizer_;
  Tensor ids_, targets_;
  std::optional<DType> amp_;
};

using Step = std::function<void()>;  // one repetition of a work, which owns what it needs
/// Forward and backward of y = f(inputs...), with a gradient for y that is there already.
template <class F> Step forward_backward(std::vector<Tensor> inputs, F f) {
  for (Tensor& x : inputs)
    if (is_floating(x.dtype())) x.set_requires_grad();
  const NoGrad off;
  const Tensor y = f(inputs), dy = contiguous(randn_like(y), y.memory_format());
  return [=]() mutable {
    for (Tensor& x : inputs)
      if (x.requires_grad()) x.set_grad({});
    backward(f(inputs), {}, dy);
  };
}
/// A step of AdamW over `count` parameters of so many elements.
Step adamw_step(int64_t count, int64_t elements, Device device = {});
/// A step of ResNet-18 with SGD, as torchvision trains it, on `batch` images of side x side and 1000 classes.
Step resnet_step(int64_t batch, int64_t side, Device device = {});
/// Two layers of LSTM, forward and backward over `steps` steps of `batch` sequences.
Step lstm_step(int64_t steps, int64_t batch, int64_t inputs, int64_t units, Device device = {});
/// A 3 x 3 convolution of `channels` channels, and batch norm, forward and backward; channels next to each other in memory.
Step conv_step(int64_t batch, int64_t channels, int64_t side, int64_t groups, Device device = {});
Step batch_norm_step(int64_t batch, int64_t channels, int64_t side, Device device = {});
/// The numbers by which peer_torch.py knows a GPT.
std::string numbers(const StepSettings& settings);

enum class Roof { none, fma, copy, in_place, exp };

/// A rate of the work that should be reached whatever the peer does: `amount` / seconds.
struct Rate {
  std::string name, unit;
  double amount = 0, at_least = 0;
};
struct Work {
  std::string name;
  std::string peer;     ///< what the peer is asked: a work of peer_torch.py and its numbers
  double at_least = 0;  ///< how many times faster Retape should be
  std::function<Step()> make;
  Roof roof = Roof::none;
  double amount = 0;       ///< FLOPs, bytes read and written, or exponentials, of a repetition
  int64_t roof_bytes = 0;  ///< the size of the arrays that the roof copies
  double of_roof = 0;      ///< the fraction of the roof to reach; 0: shown without a goal
  std::vector<Rate> rates = {};
  /// The matrix products of the work's linear layers alone, with their FLOPs, and which fractions of the peak and of the whole to reach.
  std::function<Step()> make_products = nullptr;
  double product_flops = 0, products_of_peak = 0, products_of_whole = 0;
};
const std::vector<Work>& works();

/// Training steps that are also taken in fresh processes, for their peak memory and the time from a program's start.
struct FreshWork {
  std::string name, peer;
  StepSettings settings;
};
const std::vector<FreshWork>& fresh_works();
/// By how many bytes the resident memory grows from before the model is made to the peak of this many steps.
int64_t memory_of_steps(const StepSettings& settings, int steps);

}  // namespace retape::bench
