#include <retape/autograd/memory_report.h>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <set>
#include <unordered_map>
#include <unordered_set>

#include <retape/autograd/pass.h>

namespace retape {

std::string to_string(const ModulePath* path) {
  std::string text;
  for (; path && path->outer; path = path->outer) text = text.empty() ? path->name : path->name + "." + text;
  return text;
}

namespace detail {
namespace {

int64_t bytes_of(const Storage& s, Device device) {
  return s.data && !s.is_small() && s.device == device ? int64_t(device.is_cpu() ? allocated_bytes(s.bytes) : s.bytes) : 0;
}

// Layers that follow each other have numbers for names: `h.3.attn` is a member of the family `h.*.attn`.
bool is_number(std::string_view name) {
  return !name.empty() && std::all_of(name.begin(), name.end(), [](char c) { return c >= '0' && c <= '9'; });
}
std::string family_of(const std::string& path) {
  std::string family;
  for (size_t at = 0; at < path.size();) {
    const size_t end = std::min(path.find('.', at), path.size());
    const std::string_view name(path.data() + at, end - at);
    if (at) family += '.';
    family += is_number(name) ? "*" : name;
    at = end + 1;
  }
  return family;
}
// `transformer.h.3` of `transformer.h.3.attn.c_proj`: the outermost layer of a row of layers; "" if there is none.
std::string layer_of(const std::string& path) {
  for (size_t at = 0; at < path.size();) {
    const size_t end = std::min(path.find('.', at), path.size());
    if (is_number({path.data() + at, end - at})) return path.substr(0, end);
    at = end + 1;
  }
  return "";
}

// Everything that the graph below the running ops holds, each storage once.
class Holders {
 public:
  struct Held {
    int64_t activations = 0, parameters = 0, gradients = 0;
    int64_t total() const { return activations + parameters + gradients; }
  };
  struct Layer {
    int64_t activations = 0, entering = 0;  // of what it keeps: made before it
  };
  std::map<std::string, Held> modules;
  std::map<std::string, Layer> layers;
  Held all;

  Device device;

  explicit Holders(Device d) : device(d) {
    if (ctx.current) visit(ctx.current);
    for (const Region* r = ctx.region; r; r = r->outer.get())
      for (Node* n : r->nodes)
        if (n) visit(n);
    for (const Pass* p = ctx.pass; p; p = p->outer) {
      for (auto& n : p->heap) visit(n.get());
      for (auto& [leaf, sum] : p->hooked) gradient(nullptr, sum);
      for (auto& c : p->captures) gradient(nullptr, c.grad);
    }
    while (!todo_.empty()) {
      Node* n = todo_.back();
      todo_.pop_back();
      look_at(*n);
    }
  }

 private:
  std::unordered_set<const Node*> visited_;
  std::unordered_set<const Storage*> seen_;
  std::unordered_map<const ModulePath*, std::string> names_;
  std::vector<Node*> todo_;

  void visit(Node* n) {
    if (visited_.insert(n).second) todo_.push_back(n);
  }
  const std::string& name(const ModulePath* where) {
    auto [it, fresh] = names_.try_emplace(where);
    if (fresh) it->second = to_string(where);
    return it->second;
  }
  int64_t fresh_bytes(const Storage* s) { return s && seen_.insert(s).second ? bytes_of(*s, device) : 0; }

  void activation(const Node& n, const Storage* s, bool enters) {
    const int64_t bytes = fresh_bytes(s);
    if (!bytes) return;
    modules[name(n.where)].activations += bytes;
    all.activations += bytes;
    const std::string layer = layer_of(name(n.where));
    if (layer.empty()) return;
    layers[layer].activations += bytes;
    if (enters) layers[layer].entering += bytes;
  }
  void gradient(const ModulePath* where, const Tensor& g) {
    const int64_t bytes = g ? fresh_bytes(g->storage.get()) : 0;
    if (!bytes) return;
    modules[name(where)].gradients += bytes;
    all.gradients += bytes;
  }
  void leaf(const Node& n, const TensorImpl& t) {
    if (const int64_t bytes = fresh_bytes(t.storage.get())) {
      modules[name(n.where)].parameters += bytes;
      all.parameters += bytes;
    }
    gradient(n.where, t.gradient);
  }
  void entry(const Node& n, const Entry& e) {
    if (e.packed || (!e.held && !e.absent)) return;
    if (e.held && !e.held->producer && (e.held->leaf_wants_grad || e.held->is_parameter)) return leaf(n, *e.held.impl());
    const auto layer = [&](const Node& of) { return layer_of(name(of.where)); };
    const Node* producer = e.what >= 0 && e.what < n.edges.size() ? n.edges[e.what].node.get() : nullptr;
    activation(n, e.storage(), e.what >= 0 && (!producer || layer(*producer) != layer(n)));
  }
  void look_at(Node& n) {
    for (int i = 0; i < n.edges.size(); ++i) {
      if (n.edges[i].node) visit(n.edges[i].node.get());
      if (n.edges[i].leaf) leaf(n, *n.edges[i].leaf);
    }
    for (int k = 0; k < n.saved.size(); ++k) entry(n, n.saved[k]);
    for (int j = 0; j < n.outputs.size(); ++j)
      if (n.outputs[j].grad) activation(n, n.outputs[j].grad->storage.get(), false);
    if (!n.replay) return;
    for (auto& e : n.replay->inputs) {
      entry(n, e);
      if (e.absent && e.absent->source) visit(e.absent->source.get());
    }
    for (auto& s : n.replay->outputs) activation(n, s.get(), false);
  }
};

// A row of layers, of which checkpoint() around each would keep what enters it, and one layer while that is replayed.
struct Row {
  std::string family;
  int64_t layers = 0, activations = 0, entering = 0;
  int64_t freed() const { return activations - entering - activations / layers; }
};
Row best_row(const Holders& holders) {
  std::map<std::string, Row> rows;
  for (auto& [path, layer] : holders.layers) {
    Row& row = rows[family_of(path)];
    row.family = family_of(path);
    ++row.layers, row.activations += layer.activations, row.entering += layer.entering;
  }
  Row best;
  for (auto& [family, row] : rows)
    if (row.layers > 1 && row.freed() > (best.layers ? best.freed() : 0)) best = row;
  return best;
}

// A batch cut into parts, whose gradients add up, keeps a part of the activations and asks for a part of the new bytes; it takes hardly
// more time. Replaying layers costs their forwards once more.
std::string cheapest_remedy(const Holders& holders, int64_t bytes) {
  std::vector<std::string> ways;
  int64_t parts = 2;
  while (parts < 64 && holders.all.activations / parts * (parts - 1) < bytes / parts) parts *= 2;
  if (const int64_t freed = holders.all.activations / parts * (parts - 1); freed > 0 && freed >= bytes / parts)
    ways.push_back(
        fmt::format("{} of the batch at a time, with gradients added up over {} backward passes, frees about {} and takes hardly more time",
                    parts == 2 ? "half" : fmt::format("1/{}", parts), parts, size_text(freed)));
  if (const Row row = best_row(holders); row.layers && row.freed() >= bytes)
    ways.push_back(fmt::format("checkpoint() around each of the {} {} frees about {} for at most a third more time", row.layers, row.family,
                               size_text(row.freed())));
  if (!ctx.budget && holders.all.activations / 2 >= bytes)
    ways.push_back("a MemoryBudget around forward and backward, which computes again what does not fit");
  if (!ways.empty()) return fmt::format("{}", fmt::join(ways, "; or "));
  const int64_t state = optimizer_bytes(holders.device).load(std::memory_order_relaxed), live = live_memory(holders.device);
  if (bytes > live)
    return fmt::format("the new tensor alone is larger than all that could be freed; look at its shape, or make the batch smaller");
  if (state > holders.all.total()) return "an optimizer with less state (SGD without momentum has none), or a smaller model";
  return "a smaller batch, or a smaller model";
}

}  // namespace

std::string size_text(int64_t bytes) {
  if (bytes < 1024) return fmt::format("{} bytes", bytes);
  double size = double(bytes);
  int unit = 0;
  for (; size >= 1000 && unit < 5; ++unit) size /= 1024;
  return fmt::format("{:.{}f} {}iB", size, size < 10 ? 2 : 1, " KMGTP"[unit]);
}

std::string running_op() {
  std::string text = ctx.op ? ctx.op : ctx.current ? ctx.current->name() : "";
  if (ctx.current && !ctx.inside_forward) text = "backward of " + text;
  const std::string path = to_string(ctx.where);
  if (path.empty()) return text;
  return text.empty() ? path : fmt::format("{} (in {})", text, path);
}

namespace {
std::string describe(const Holders& holders) {
  std::map<std::string, std::pair<Holders::Held, int64_t>> families;
  for (auto& [path, held] : holders.modules) {
    auto& [sum, count] = families[family_of(path)];
    sum.activations += held.activations, sum.parameters += held.parameters, sum.gradients += held.gradients;
    ++count;
  }
  std::vector<std::pair<std::string, std::pair<Holders::Held, int64_t>>> sorted(families.begin(), families.end());
  std::stable_sort(sorted.begin(), sorted.end(), [](auto& a, auto& b) { return a.second.first.total() > b.second.first.total(); });
  if (sorted.size() > 5) sorted.resize(5);

  const auto parts = [](const Holders::Held& h, int64_t state, int64_t others) {
    std::vector<std::string> text;
    for (auto& [name, size] : std::initializer_list<std::pair<const char*, int64_t>>{{"activations", h.activations},
                                                                                     {"parameters", h.parameters},
                                                                                     {"gradients", h.gradients},
                                                                                     {"optimizer state", state},
                                                                                     {"other tensors", others}})
      if (size > 0) text.push_back(fmt::format("{} {}", name, size_text(size)));
    return fmt::format("{}", fmt::join(text, ", "));
  };
  std::vector<std::string> rows;
  for (auto& [family, held] : sorted)
    rows.push_back(fmt::format("{} {} ({}{})", family.empty() ? "outside of modules" : family, size_text(held.first.total()),
                               held.second > 1 ? fmt::format("{} modules: ", held.second) : "", parts(held.first, 0, 0)));
  const int64_t live = live_memory(holders.device), state = optimizer_bytes(holders.device).load(std::memory_order_relaxed);
  std::string text = fmt::format("In use are {}{}", size_text(live), holders.device.is_cpu() ? "" : " on " + holders.device.str());
  if (const std::string what = parts(holders.all, state, live - holders.all.total() - state); !what.empty()) text += ": " + what;
  if (!rows.empty()) text += fmt::format(". Largest holders: {}", fmt::join(rows, "; "));
  return text;
}
}  // namespace

std::atomic<int64_t>& optimizer_bytes(Device device) {
  static std::atomic<int64_t> of_cpu, of_cuda[128];
  return device.is_cuda() ? of_cuda[device.index] : of_cpu;
}
std::string memory_holders(Device device) { return describe(Holders(device)); }
std::string memory_report(Device device, int64_t bytes) {
  const Holders holders(device);
  return fmt::format("{}. Cheapest remedy: {}", describe(holders), cheapest_remedy(holders, bytes));
}

std::string out_of_memory(Device device, int64_t bytes) {
  const std::string op = running_op();
  return fmt::format("out of memory: {}{} could not be allocated. {}", op.empty() ? "" : op + ": ", size_text(bytes),
                     memory_report(device, bytes));
}

}  // namespace detail
}  // namespace retape
