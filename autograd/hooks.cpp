#include <retape/autograd/hooks.h>

#include <fmt/format.h>

#include <algorithm>

#include <retape/autograd/hook_list.h>
#include <retape/autograd/node.h>

namespace retape {

Tensor detail::call_hooks(const Ref<Object>& hooks, const Tensor& dy, const char* owner) {
  const auto entries = static_cast<HookList*>(hooks.get())->entries;  // a copy: a hook may remove itself
  Tensor g = dy;
  for (const auto& entry : entries) {
    const Tensor replaced = entry.hook(g);
    if (!replaced) continue;
    if (!(replaced.shape() == g.shape()) || replaced.dtype() != g.dtype() || !(replaced.device() == g.device()))
      throw Error(fmt::format("{}: a hook turned a gradient of {} {} into one of {} {}; shape, dtype and device must stay", owner,
                              name_of(g.dtype()), g.shape().str(), name_of(replaced.dtype()), replaced.shape().str()));
    g = replaced;
  }
  return g;
}

HookHandle register_hook(const Tensor& x, GradientHook hook) {
  if (!x) throw Error("register_hook: the tensor is undefined");
  if (!x.requires_grad())
    throw Error("register_hook: the tensor wants no gradient, so there is none to see; call set_requires_grad() first");
  Ref<Object>& slot = x->producer ? node_of(x->producer)->outputs[x->index].hooks : x->hooks;
  if (!slot) slot = Ref<Object>::adopt(new detail::HookList);
  auto* list = static_cast<detail::HookList*>(slot.get());
  const uint64_t id = list->next_id++;
  list->entries.push_back({id, std::move(hook)});
  return HookHandle([keep = slot, id] {
    std::erase_if(static_cast<detail::HookList*>(keep.get())->entries, [id](const auto& e) { return e.id == id; });
  });
}

SavedTensorHooks::SavedTensorHooks(std::function<std::any(const Tensor&)> pack, std::function<Tensor(const std::any&)> unpack)
    : hooks_(std::make_shared<SavedHookPair>(SavedHookPair{std::move(pack), std::move(unpack)})), outer_(ctx.saved_hooks) {
  if (!hooks_->pack || !hooks_->unpack) throw Error("saved_tensor_hooks: pack and unpack must both be given");
  ctx.saved_hooks = &hooks_;
}
SavedTensorHooks::~SavedTensorHooks() { ctx.saved_hooks = outer_; }

std::string explain_grad(const Tensor& x) {
  if (!x) return "the tensor is undefined";
  if (x.grad()) return fmt::format("it has a gradient of shape {}", x.grad().shape().str());
  if (!is_floating(x.dtype())) return fmt::format("it is a tensor of {}; only floating tensors have gradients", name_of(x.dtype()));
  if (x->producer)
    return fmt::format(
        "it is not a leaf: {} has made it, and backward() keeps gradients of leaves only; ask grad() for it, or register_hook()",
        node_of(x->producer)->name());
  if (!x->leaf_wants_grad) return "it is frozen, or was never asked: set_requires_grad() makes it want a gradient";
  if (const char* op = x->ended_by) return fmt::format("backward came as far as {}, which passes no gradient on to it", op);
  const char* reader = x->read_by;
  if (!reader)
    return "no recorded op has read it: the forward did not use it, or used it under NoGrad, or read a detach()ed or converted copy of it";
  return fmt::format(
      "{} was the last op to read it, but no backward has come there: none has run since, or what it ran from does not depend on that op, or the way was cut by detach() or "
      "an op without gradient (a comparison, an index, an integer)",
      reader);
}

}  // namespace retape
