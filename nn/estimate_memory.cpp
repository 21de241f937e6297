#include <retape/nn/estimate_memory.h>

#include <fmt/format.h>

#include <algorithm>
#include <unordered_set>

#include <retape/autograd/backward.h>
#include <retape/core/random.h>

namespace retape::detail {
namespace {

int64_t live() { return memory_stats(Device::meta()).live; }
int64_t block_of(int64_t bytes) {
  return bytes > int64_t(Storage::small_bytes) ? int64_t(allocated_bytes(size_t(bytes))) : 0;
}  // less lies in the Storage itself
int64_t block_of(const Tensor& t) { return block_of(int64_t(t->storage->bytes)); }

}  // namespace

EstimateRun::EstimateRun() : before_(live()), generator_(default_generator().state()) {}
EstimateRun::~EstimateRun() { default_generator().set_state(generator_); }

Tensor EstimateRun::input(const Tensor& x) {
  if (!x) return x;
  Tensor t = empty(x.shape(), {x.dtype(), Device::meta()});
  if (x.requires_grad()) t.set_requires_grad();
  estimate_.inputs += block_of(t);
  return t;
}

MemoryEstimate EstimateRun::measure(const nn::Module& model, const std::function<Tensor()>& step, EstimateOptions options) {
  if (options.optimizer_states < 0 || options.accumulate < 1)
    throw Error(fmt::format("estimate_memory: {} optimizer states and {} backward passes are not possible; give at least 0 and 1",
                            options.optimizer_states, options.accumulate));
  MemoryEstimate& e = estimate_;
  const auto params = model.parameters();
  for (auto& p : params) e.parameters += block_of(p);
  for (auto& [name, b] : model.named_buffers()) e.buffers += block_of(b);
  const Scoped recording(ctx.recording, true);
  const Scoped unlimited(ctx.budget, nullptr);
  reset_peak_memory(Device::meta());
  for (int pass = 0; pass < std::min(options.accumulate, 2); ++pass) {  // the third is like the second
    const int64_t start = live();
    const Tensor y = step();
    if (!y) throw Error("estimate_memory: the step returned an undefined tensor; it must return the loss");
    e.activations = live() - start;
    backward(y);
  }
  const int64_t highest = memory_stats(Device::meta()).peak - before_;
  for (auto& p : params) {
    if (!p.grad()) continue;
    e.gradients += block_of(p.grad());
    e.optimizer_state += options.optimizer_states * block_of(p.numel() * int64_t(p.dtype() == DType::f64 ? 8 : 4));
  }
  e.first_peak = std::max(highest, live() - before_ + e.optimizer_state);
  e.peak = std::max(highest + e.optimizer_state, e.first_peak);
  return e;
}

}  // namespace retape::detail
