// Module hooks. Those of backward stand behind two ops that change nothing, one over all inputs and one over all outputs.
#include <retape/autograd/tape.h>
#include <retape/nn/module.h>

namespace retape::nn {

struct detail::ModuleHooks {
  template <class F> using List = std::vector<std::pair<uint64_t, F>>;
  List<ForwardPreHook> forward_pre;
  List<ForwardHook> forward;
  List<BackwardPreHook> backward_pre;
  List<BackwardHook> backward;
  uint64_t next_id = 0;
};

namespace {

template <class F>
HookHandle add(std::shared_ptr<detail::ModuleHooks>& hooks, detail::ModuleHooks::List<F> detail::ModuleHooks::*list, F hook) {
  if (!hooks) hooks = std::make_shared<detail::ModuleHooks>();
  const uint64_t id = hooks->next_id++;
  (*hooks.*list).emplace_back(id, std::move(hook));
  return HookHandle([hooks, list, id] { std::erase_if(*hooks.*list, [id](const auto& e) { return e.first == id; }); });
}
template <class F, class... A> void run(const detail::ModuleHooks::List<F>& list, A&&... a) {
  for (const auto& [id, hook] : detail::ModuleHooks::List<F>(list)) hook(a...);  // a copy: a hook may remove itself
}

struct State {
  std::shared_ptr<detail::ModuleHooks> hooks;
  std::vector<Tensor> grad_outputs;
  bool inputs_recorded = false;
};
// Hands gradients on as the hooks leave them.
void pass_on(const std::vector<Tensor>& gradients, Grads& dx) {
  for (int i = 0; i < dx.size(); ++i) {
    if (!dx.wants(i)) continue;
    if (gradients.at(size_t(i))) dx.set(i, gradients[size_t(i)]);
    else dx.none(i);
  }
}
std::vector<Tensor> views_of(const std::vector<Tensor>& x) {
  std::vector<Tensor> y;
  for (const Tensor& t : x) y.push_back(t ? make_tensor(t->storage, t->layout) : t);
  return y;
}
struct ModuleInputs {
  static constexpr auto name = "module_inputs";
  std::shared_ptr<State> state;
  std::vector<Tensor> forward(const std::vector<Tensor>& x) { return views_of(x); }
  void backward(const std::vector<Tensor>& dy, Grads& dx) {
    std::vector<Tensor> g = dy;
    run(state->hooks->backward, g, state->grad_outputs);
    state->grad_outputs.clear();
    pass_on(g, dx);
  }
};
struct ModuleOutputs {
  static constexpr auto name = "module_outputs";
  std::shared_ptr<State> state;
  std::vector<Tensor> forward(const std::vector<Tensor>& x) { return views_of(x); }
  void backward(const std::vector<Tensor>& dy, Grads& dx) {
    std::vector<Tensor> g = dy;
    run(state->hooks->backward_pre, g);
    if (state->inputs_recorded) {
      state->grad_outputs = g;
    } else {  // no input wants a gradient, so that this is the end of the way
      std::vector<Tensor> nothing;
      run(state->hooks->backward, nothing, g);
    }
    pass_on(g, dx);
  }
};
bool any_wants(const std::vector<Tensor>& x) {
  for (const Tensor& t : x)
    if (t && t.requires_grad()) return true;
  return false;
}

}  // namespace

detail::HookedCall::HookedCall(Module& m) : module(m), hooks(m.hooks()) {}
void detail::HookedCall::before() {
  const size_t count = inputs.size();
  run(hooks->forward_pre, module, inputs);
  if (inputs.size() != count)
    throw Error(module.type_name() + ": a forward pre-hook changed the number of inputs from " + std::to_string(count) + " to " +
                std::to_string(inputs.size()));
  if (hooks->backward.empty() && hooks->backward_pre.empty()) return;
  auto s = std::make_shared<State>(State{hooks, {}, ctx.recording && any_wants(inputs)});
  state = s;
  if (s->inputs_recorded) inputs = record(ModuleInputs{s}, inputs);
}
void detail::HookedCall::after() {
  const size_t count = outputs.size();
  run(hooks->forward, module, std::as_const(inputs), outputs);
  if (outputs.size() != count)
    throw Error(module.type_name() + ": a forward hook changed the number of outputs from " + std::to_string(count) + " to " +
                std::to_string(outputs.size()));
  if (state && ctx.recording && any_wants(outputs)) outputs = record(ModuleOutputs{std::static_pointer_cast<State>(state)}, outputs);
}

HookHandle Module::register_forward_pre_hook(ForwardPreHook hook) {
  return add(hooks_, &detail::ModuleHooks::forward_pre, std::move(hook));
}
HookHandle Module::register_forward_hook(ForwardHook hook) { return add(hooks_, &detail::ModuleHooks::forward, std::move(hook)); }
HookHandle Module::register_full_backward_pre_hook(BackwardPreHook hook) {
  return add(hooks_, &detail::ModuleHooks::backward_pre, std::move(hook));
}
HookHandle Module::register_full_backward_hook(BackwardHook hook) { return add(hooks_, &detail::ModuleHooks::backward, std::move(hook)); }

}  // namespace retape::nn
