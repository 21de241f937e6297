// Hooks: user functions that see, and may replace, gradients and saved values.
#pragma once
#include <any>
#include <functional>
#include <memory>

#include <retape/core/tensor.h>

namespace retape {

/// Takes a hook off again by remove(); letting go of the handle does not.
class HookHandle {
 public:
  HookHandle() = default;
  explicit HookHandle(std::function<void()> remove) : remove_(std::move(remove)) {}
  void remove() {
    if (remove_) remove_();
    remove_ = nullptr;
  }

 private:
  std::function<void()> remove_;
};

/// Gets the gradient of a tensor; what it returns replaces the gradient, unless that is undefined.
using GradientHook = std::function<Tensor(const Tensor& dy)>;

/// Calls `hook` whenever a backward has the whole gradient of x: of a value that ops have made before it is passed on, of a leaf
/// before it is added to x.grad(). Hooks of one tensor run in the order in which they were registered; each gets what the one before
/// returned. Throws Error if x wants no gradient, and in backward if a hook returns another shape or dtype. torch: Tensor.register_hook.
HookHandle register_hook(const Tensor& x, GradientHook hook);
/// The same for a function that returns nothing.
template <class F>
requires std::is_void_v<std::invoke_result_t<F, const Tensor&>> HookHandle register_hook(const Tensor& x, F hook) {
  return register_hook(x, GradientHook([hook = std::move(hook)](const Tensor& dy) -> Tensor {
                         hook(dy);
                         return {};
                       }));
}

struct SavedHookPair {
  std::function<std::any(const Tensor&)> pack;
  std::function<Tensor(const std::any&)> unpack;
};
/// While it lives, what ops of this thread save for backward goes through `pack` when the op has run, and comes back through `unpack`
/// each time that a backward reads it; the tape keeps only what pack returned. Of nested pairs the innermost is used. Values are
/// packed in the order in which the op saved them. unpack may run later, when the guard is gone, and must give the same shape, dtype
/// and device, else backward throws Error. Values inside a checkpoint() are not kept and so not packed. torch: saved_tensors_hooks.
class SavedTensorHooks {
 public:
  SavedTensorHooks(std::function<std::any(const Tensor&)> pack, std::function<Tensor(const std::any&)> unpack);
  ~SavedTensorHooks();
  SavedTensorHooks(const SavedTensorHooks&) = delete;
  SavedTensorHooks& operator=(const SavedTensorHooks&) = delete;

 private:
  std::shared_ptr<SavedHookPair> hooks_;
  const std::shared_ptr<SavedHookPair>* outer_;
};

/// Why x has no gradient, in a sentence: it is frozen, or no leaf, or nothing recorded has read it, or no backward has come by, or an
/// op ended the way. Says so, too, if it has one.
std::string explain_grad(const Tensor& x);

}  // namespace retape
