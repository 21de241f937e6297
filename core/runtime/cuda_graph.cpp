#include <retape/core/cuda_graph.h>

#include <fmt/format.h>

#include <retape/core/device_runtime.h>
#include <retape/core/dispatch.h>

namespace retape::cuda {
namespace {

const DeviceRuntime& runtime() { return *retape::detail::cuda_runtime; }
struct Drop {
  void operator()(Capture* capture) const { runtime().drop_capture(capture); }
};

Tensor on_device(const Tensor& x, Device device) {
  Tensor y = empty(x.shape(), {x.dtype(), x.device()});
  RETAPE_DISPATCH(x.device(), copy(x, y));
  return x.device() == device ? y : retape::detail::copy_to(y, device);
}
void copy_in(const Tensor& x, Tensor& y) {
  ++y->storage->version;
  if (x.device() == y.device()) RETAPE_DISPATCH(y.device(), copy(x, y));
  else if (const Tensor there = on_device(x, y.device())) RETAPE_DISPATCH(y.device(), copy(there, y));
}
// The values alone: what a launch writes has no history, and whoever reads it later must not find one.
Tensor without_history(const Tensor& x) { return x ? make_tensor(x->storage, x->layout) : x; }

std::string list(const std::vector<Tensor>& xs) {
  std::string text;
  for (const Tensor& x : xs) text += fmt::format("{}{} {}", text.empty() ? "" : ", ", name_of(x.dtype()), x.shape().str());
  return "(" + text + ")";
}

}  // namespace

struct Graph::State {
  Function function;
  Device device;
  bool warm = false;
  std::unique_ptr<Capture, Drop> capture;
  std::vector<Tensor> inputs, outputs;

  void check(const std::vector<Tensor>& given) const {
    for (size_t i = 0; i < given.size(); ++i) {
      if (!given[i]) throw Error(fmt::format("graph: input {} is undefined", i));
      if (given[i].device().is_meta())
        throw Error(fmt::format("graph: input {} of shape {} is on meta and has no values", i, given[i].shape().str()));
    }
    if (!capture) return;
    bool same = given.size() == inputs.size();
    for (size_t i = 0; same && i < given.size(); ++i) same = given[i].shape() == inputs[i].shape() && given[i].dtype() == inputs[i].dtype();
    if (!same)
      throw Error(fmt::format("graph: it was captured with inputs {} on {} and is called with {}; use a Graph for each set of shapes",
                              list(inputs), device.str(), list(given)));
  }
  void record(const std::vector<Tensor>& given) {
    std::vector<Tensor> own;
    for (const Tensor& x : given) own.push_back(on_device(x, device));
    std::unique_ptr<Capture, Drop> c(runtime().begin_capture(device.index));
    std::vector<Tensor> made;
    {
      const Scoped capturing(ctx.capture, c.get());
      for (const Tensor& y : function(own)) made.push_back(without_history(y));
      runtime().end_capture(c.get());
    }
    inputs = std::move(own), outputs = std::move(made), capture = std::move(c);
  }
};

Graph::Graph(Function function, Device device) : state_(std::make_unique<State>()) {
  if (!function) throw Error("graph: the function is empty");
  if (!device.is_cuda()) throw Error(fmt::format("graph: {} has no graphs; only CUDA devices do", device.str()));
  if (!retape::detail::cuda_runtime) retape::detail::no_backend(device, "graph");
  runtime().use(device.index);
  state_->function = std::move(function), state_->device = device;
}
Graph::Graph(Graph&&) noexcept = default;
Graph::~Graph() = default;
bool Graph::is_captured() const { return state_->capture != nullptr; }
void Graph::reset() { state_->warm = false, state_->outputs.clear(), state_->inputs.clear(), state_->capture.reset(); }

const std::vector<Tensor>& Graph::operator()(const std::vector<Tensor>& given) {
  State& s = *state_;
  if (ctx.capture) throw Error("graph: it is called inside of a function that another graph captures");
  s.check(given);
  runtime().use(s.device.index);
  if (!s.warm) {
    std::vector<Tensor> own, made;
    for (const Tensor& x : given) own.push_back(on_device(x, s.device));
    for (const Tensor& y : s.function(own)) made.push_back(without_history(y));
    s.outputs = std::move(made), s.warm = true;
    return s.outputs;
  }
  if (!s.capture) s.record(given);
  else
    for (size_t i = 0; i < given.size(); ++i) copy_in(given[i], s.inputs[i]);
  runtime().launch(s.capture.get());
  for (const Tensor& y : s.outputs)
    if (y) ++y->storage->version;
  return s.outputs;
}

}  // namespace retape::cuda
