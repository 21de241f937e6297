// Traversals, the registry of live Parameters, and module paths.
#include <retape/nn/module.h>

#include <cxxabi.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <typeinfo>
#include <unordered_map>
#include <unordered_set>

#include <retape/autograd/tape.h>
#include <retape/autograd/views.h>

namespace retape {

// ---- all Parameters that exist, by address -----------------------------------------------------------------------------

namespace {

// Addresses are ordered within a page, and pages are spread over shards, so that threads that make modules seldom meet.
class LiveParameters {
 public:
  static LiveParameters& get() {
    static auto& all = *new LiveParameters;  // never destroyed: Parameters of static modules end later
    return all;
  }
  void add(const Parameter* p) {
    Shard& s = shard(page(p));
    const std::lock_guard lock(s.mutex);
    s.addresses.insert(uintptr_t(p));
  }
  void remove(const Parameter* p) {
    Shard& s = shard(page(p));
    const std::lock_guard lock(s.mutex);
    s.addresses.erase(uintptr_t(p));
  }
  std::vector<const Parameter*> within(const void* begin, size_t bytes) {
    std::vector<const Parameter*> found;
    const uintptr_t first = uintptr_t(begin), end = first + bytes;
    for (uintptr_t at = first; at < end; at = (at / page_bytes + 1) * page_bytes) {
      const uintptr_t stop = std::min(end, (at / page_bytes + 1) * page_bytes);
      Shard& s = shard(at / page_bytes);
      const std::lock_guard lock(s.mutex);
      for (auto i = s.addresses.lower_bound(at); i != s.addresses.end() && *i < stop; ++i)
        found.push_back(reinterpret_cast<const Parameter*>(*i));
    }
    return found;
  }

 private:
  static constexpr uintptr_t page_bytes = 4096;
  struct Shard {
    std::mutex mutex;
    std::set<uintptr_t> addresses;
  };
  static uintptr_t page(const void* p) { return uintptr_t(p) / page_bytes; }
  Shard& shard(uintptr_t page) { return shards_[page % std::size(shards_)]; }
  Shard shards_[64];
};

// Tensors that the running clone() has made, by the one they copy.
struct Copies {
  bool onto_meta;
  std::unordered_map<const TensorImpl*, Tensor> made = {};
};
thread_local Copies* cloning = nullptr;

Tensor copy_for_clone(const Tensor& x) {
  Tensor& copy = cloning->made[x.impl()];
  if (!copy) {
    const NoGrad off;
    copy = cloning->onto_meta || x.device().is_meta() ? empty(x.shape(), {x.dtype(), Device::meta()}) : clone(x);
  }
  return copy;
}

}  // namespace

// Not detach(), which inside a checkpoint remembers how to make the value again.
static Tensor without_history(const Tensor& x) { return x ? make_tensor(x->storage, x->layout) : x; }

Parameter::Parameter() { LiveParameters::get().add(this); }
Parameter::Parameter(const Tensor& value, bool requires_grad) : Parameter() {
  if (!value) throw Error("Parameter: the tensor is undefined");
  value_ = without_history(value);
  value_.set_requires_grad(requires_grad);
  value_->is_parameter = true;
}
Parameter::Parameter(const Parameter& o) : Parameter() {
  if (!cloning || !o.value_) {
    value_ = o.value_;
    return;
  }
  value_ = copy_for_clone(o.value_);
  value_->leaf_wants_grad = o.value_->leaf_wants_grad;
  value_->is_parameter = true;
}
Parameter::Parameter(Parameter&& o) noexcept : Parameter() { value_ = std::move(o.value_); }
Parameter::~Parameter() { LiveParameters::get().remove(this); }

Buffer& Buffer::operator=(const Tensor& value) {
  value_ = without_history(value);
  return *this;
}
Buffer::Buffer(const Buffer& o) : value_(cloning && o.value_ ? copy_for_clone(o.value_) : o.value_), persistent_(o.persistent_) {}

namespace nn {

detail::CloneScope::CloneScope(bool onto_meta) : outermost_(!cloning) {
  if (outermost_) cloning = new Copies{onto_meta};
}
detail::CloneScope::~CloneScope() {
  if (outermost_) delete std::exchange(cloning, nullptr);
}

Module::Module(const Module& o) : training_(o.training_) {
  if (!cloning)
    throw Error(fmt::format("{}: copied by accident; move it, take it by reference (auto& in a loop), or call clone() for a deep copy",
                            o.type_name()));
}
Module::~Module() = default;

std::string Module::type_name() const {
  int status = 0;
  const std::unique_ptr<char, decltype(&std::free)> text(abi::__cxa_demangle(typeid(*this).name(), nullptr, nullptr, &status), &std::free);
  std::string name = text ? text.get() : typeid(*this).name();
  for (const char* prefix : {"(anonymous namespace)::", "retape::"})
    for (size_t at; (at = name.find(prefix)) != std::string::npos;) name.erase(at, std::strlen(prefix));
  return name;
}

// ---- one traversal, from which everything follows ------------------------------------------------------------------------

namespace {
std::string join(const std::string& path, const std::string& name) { return path.empty() ? name : name.empty() ? path : path + "." + name; }
// Threads that share a model may traverse it at the same time.
void set_mark(bool& flag) { std::atomic_ref(flag).store(true, std::memory_order_relaxed); }
}  // namespace

// Everything below a module with its full name, tied tensors as often as they are named.
struct ModuleWalk final : Visitor {
  template <class T> using Named = std::pair<std::string, T*>;
  std::vector<Named<Parameter>> parameters;
  std::vector<Named<Buffer>> buffers;
  std::vector<Named<Module>> modules;
  NamedTensors state;  // parameters and persistent buffers
  std::string path;
  bool marks = true;

  // const: only the `listed` marks change, and those are for the library alone.
  static ModuleWalk through(const Module& root) {
    ModuleWalk walk;
    walk.module("", const_cast<Module&>(root));
    walk.find_left_out();
    return walk;
  }
  static void mark(Module& root) { ModuleWalk().module("", root); }
  static ModuleWalk without_marks(Module& root) {
    ModuleWalk walk;
    walk.marks = false;
    walk.module("", root);
    return walk;
  }

  void parameter(const std::string& name, Parameter& p) override {
    parameters.emplace_back(join(path, name), &p);
    if (!p) return;
    state.emplace_back(parameters.back().first, p);
    if (marks) set_mark(p->impl()->listed);
  }
  void buffer(const std::string& name, Buffer& b) override {
    buffers.emplace_back(join(path, name), &b);
    if (b && b.persistent()) state.emplace_back(buffers.back().first, b);
  }
  void module(const std::string& name, Module& m) override {
    std::string before = std::exchange(path, join(path, name));
    modules.emplace_back(path, &m);
    if (marks) set_mark(m.listed_);
    m.fields(*this);
    path = std::move(before);
  }
  void find_left_out() const {
    std::unordered_set<const TensorImpl*> seen;
    for (auto& p : parameters) seen.insert(p.second->tensor().impl());
    for (auto m = modules.rbegin(); m != modules.rend(); ++m)  // the innermost module first
      for (const Parameter* p : LiveParameters::get().within(m->second, m->second->size_in_bytes()))
        if (*p && !seen.count(p->tensor().impl()))
          throw Error(fmt::format("{}{}: the Parameter of shape {} at byte {} is not in its RETAPE_FIELDS; list the field that holds it",
                                  m->second->type_name(), m->first.empty() ? "" : " " + m->first, p->tensor().shape().str(),
                                  reinterpret_cast<const char*>(p) - reinterpret_cast<const char*>(m->second)));
  }
  static void set_training(Module& m, bool on) { m.training_ = on; }
};

namespace {
template <class T> NamedTensors once_each(const std::vector<std::pair<std::string, T*>>& fields) {
  NamedTensors out;
  std::unordered_set<const TensorImpl*> seen;
  for (auto& [name, field] : fields)
    if (*field && seen.insert(field->tensor().impl()).second) out.emplace_back(name, field->tensor());
  return out;
}

// Gives a tensor other bytes, dtype or device and stays the same tensor for everybody who has it: ties and optimizers stay.
void replace(const Tensor& t, const Tensor& by) {
  if (by.impl() == t.impl()) return;
  const uint32_t version = t->storage->version;
  t->storage = by->storage;
  t->layout = by->layout;
  t->storage->version = version + 1;  // what the tape has saved of it is gone
}
template <class F> void replace_all(const Module& root, F&& change) {
  const NoGrad off;
  const auto walk = ModuleWalk::through(root);
  // Everything is made before anything is replaced, so that an exception leaves the module as it was.
  NamedTensors tensors = once_each(walk.parameters);
  for (auto& b : once_each(walk.buffers)) tensors.push_back(std::move(b));
  std::vector<Tensor> values, grads;
  for (auto& [name, t] : tensors) {
    values.push_back(change(t.detach()));
    grads.push_back(t.grad() ? change(t.grad()) : Tensor());
    if (values.back().shares_storage(t)) values.back() = t;
  }
  for (size_t i = 0; i < tensors.size(); ++i) {
    const Tensor& t = tensors[i].second;
    replace(t, values[i]);
    t->gradient = grads[i];
  }
}
}  // namespace

NamedTensors Module::named_parameters() const { return once_each(ModuleWalk::through(*this).parameters); }
NamedTensors Module::named_buffers() const { return once_each(ModuleWalk::through(*this).buffers); }
std::vector<Tensor> Module::parameters() const {
  std::vector<Tensor> out;
  for (auto& p : named_parameters()) out.push_back(std::move(p.second));
  return out;
}
ModeScope::ModeScope(Module& module, bool training) {
  for (auto& [name, m] : module.named_modules()) before_.emplace_back(m, m->is_training());
  module.train(training);
}
ModeScope::~ModeScope() {
  for (auto& [module, training] : before_) module->train(training);
}

std::vector<std::pair<std::string, Module*>> Module::named_modules() { return ModuleWalk::through(*this).modules; }
int64_t Module::num_parameters() const {
  int64_t n = 0;
  for (auto& p : parameters()) n += p.numel();
  return n;
}
void Module::train(bool on) {
  for (auto& m : ModuleWalk::through(*this).modules) ModuleWalk::set_training(*m.second, on);
}
void Module::to(Device device) {
  replace_all(*this, [&](const Tensor& t) { return retape::to(t, device); });
}
void Module::to(DType dtype) {
  if (!is_floating(dtype))
    throw Error(
        fmt::format("{}: to({}) would make parameters of a dtype that cannot be trained; use a floating one", type_name(), name_of(dtype)));
  replace_all(*this, [&](const Tensor& t) { return is_floating(t.dtype()) ? cast(t, dtype) : t; });
}
void Module::to_empty(Device device) {
  replace_all(*this, [&](const Tensor& t) { return empty(t.shape(), {t.dtype(), device}); });
}
void Module::set_requires_grad(bool on) {
  for (auto& p : parameters())
    if (is_floating(p.dtype())) p.set_requires_grad(on);
}
void Module::zero_grad() {
  for (auto& p : parameters()) p.set_grad({});
}

// ---- state ---------------------------------------------------------------------------------------------------------------

NamedTensors Module::state_dict() const { return ModuleWalk::through(*this).state; }

namespace {

std::string some_of(const std::vector<std::string>& names) {
  constexpr size_t shown = 8;
  if (names.size() <= shown) return fmt::format("{}", fmt::join(names, ", "));
  return fmt::format("{} and {} more", fmt::join(names.begin(), names.begin() + shown, ", "), names.size() - shown);
}
bool same_bytes(const Tensor& a, const Tensor& b) {
  if (a.shares_storage(b) && a.offset() == b.offset() && a.strides() == b.strides()) return true;
  const Tensor x = contiguous(to(a, Device::cpu())), y = contiguous(to(b, Device::cpu()));
  const auto start = [](const Tensor& t) { return t->storage->data + size_t(t.offset()) * size_of(t.dtype()); };
  return x.numel() == 0 || std::memcmp(start(x), start(y), size_t(x.numel()) * size_of(x.dtype())) == 0;
}

// What load_state_dict is about to do, and all that stands against it.
struct LoadPlan {
  struct Copy {
    const std::string* name;
    Tensor from, to;
  };
  std::vector<Copy> copies;
  LoadReport report;
  std::vector<std::string> problems;

  void add(const std::string& name, const Tensor& from, const Tensor& to, bool convert) {
    if (!from || from.device().is_meta()) {
      problems.push_back(name + " has no data");
    } else if (to.device().is_meta()) {
      problems.push_back(name + " is on the meta device; call to_empty() first");
    } else if (!(from.shape() == to.shape())) {
      problems.push_back(fmt::format("{} has shape {}, expected {}", name, from.shape().str(), to.shape().str()));
    } else if (from.dtype() != to.dtype() && !convert) {
      problems.push_back(fmt::format("{} has dtype {}, expected {} (or .convert_dtype)", name, name_of(from.dtype()), name_of(to.dtype())));
    } else {
      copies.push_back({&name, from, to});
    }
  }
  void check_ties() {
    std::unordered_map<const TensorImpl*, const Copy*> first;
    for (auto& c : copies) {
      const Copy* other = first.try_emplace(c.to.impl(), &c).first->second;
      if (other != &c && (other->from.dtype() != c.from.dtype() || !same_bytes(other->from, c.from)))
        problems.push_back(fmt::format("{} and {} are tied, but their values differ", *other->name, *c.name));
    }
  }
};

}  // namespace

LoadReport Module::load_state_dict(const NamedTensors& state, LoadOptions options) {
  const NoGrad off;
  LoadPlan plan;
  std::unordered_map<std::string, Tensor> given;
  for (auto& [name, value] : state)
    if (!given.try_emplace(name, value).second) plan.problems.push_back(name + " is given twice");
  const NamedTensors own = state_dict();
  std::unordered_set<const TensorImpl*> covered;
  for (auto& [name, target] : own)
    if (given.count(name)) covered.insert(target.impl());
  for (auto& [name, target] : own) {
    const auto found = given.find(name);
    if (found != given.end()) {
      plan.add(name, found->second, target, options.convert_dtype);
      given.erase(found);
    } else if (!covered.count(target.impl())) {
      plan.report.missing.push_back(name);
    }
  }
  for (auto& [name, value] : state)
    if (given.erase(name)) plan.report.unexpected.push_back(name);
  plan.check_ties();
  if (options.strict && !plan.report.missing.empty()) plan.problems.push_back("missing " + some_of(plan.report.missing));
  if (options.strict && !plan.report.unexpected.empty()) plan.problems.push_back("unexpected " + some_of(plan.report.unexpected));
  if (!plan.problems.empty())
    throw Error(
        fmt::format("load_state_dict: the values do not fit {}, which is unchanged: {}", type_name(), fmt::join(plan.problems, "; ")));
  for (auto& c : plan.copies) copy_into(c.from, c.to);
  return std::move(plan.report);
}

// ---- what a running module is called -------------------------------------------------------------------------------------

namespace {

// The name of `inner` below `outer`, found by address; "" if it is not there.
std::string name_below(Module& outer, const Module& inner) {
  struct Find final : Visitor {
    const Module* target;
    std::string path, found;
    void parameter(const std::string&, Parameter&) override {}
    void buffer(const std::string&, Buffer&) override {}
    void module(const std::string& name, Module& m) override {
      if (!found.empty()) return;
      std::string before = std::exchange(path, join(path, name));
      if (&m == target) found = path;
      else m.fields(*this);
      path = std::move(before);
    }
  } find;
  find.target = &inner;
  outer.fields(find);
  return find.found;
}
std::string module_path() { return to_string(ctx.where); }
// Marks what lies below the outermost running module, which may have grown since it was last traversed.
void mark_running() {
  ModuleScope* root = ctx.module;
  while (root->outer) root = root->outer;
  ModuleWalk::mark(root->module);
}
[[maybe_unused]] const bool hooks_are_set = [] {
  module_path_hook = module_path;
  retape::detail::parameter_check_hook = detail::check_parameters;
  return true;
}();

}  // namespace

namespace detail {

void begin_range() {
  const std::string path = to_string(ctx.where);
  retape::detail::begin_range(path.empty() ? "model" : path.c_str());
}

const ModulePath* find_path(const Module& outer, const Module& inner) {
  if (&outer == &inner) return ctx.where;
  static std::mutex mutex;
  static auto& paths = *new std::map<std::pair<const ModulePath*, std::string>, ModulePath>;  // nodes may outlive everything else
  std::string name = name_below(const_cast<Module&>(outer), inner);
  if (name.empty()) name = "<" + inner.type_name() + ">";
  const std::lock_guard lock(mutex);
  const ModulePath& path = paths.try_emplace({ctx.where, name}, ModulePath{ctx.where, name}).first->second;
  inner.cached_path().set(&path);
  return &path;
}

void check_unlisted_module(Module& inner) {
  if (!ctx.recording) return;
  const auto walk = ModuleWalk::without_marks(inner);
  const bool trains =
      std::any_of(walk.parameters.begin(), walk.parameters.end(), [](auto& p) { return p.second->tensor().requires_grad(); });
  if (!trains) return;
  mark_running();
  if (!inner.listed())
    throw Error(fmt::format(
        "{}: runs inside {}, but no RETAPE_FIELDS lists it, so its parameters would not be trained; list the field that holds it",
        inner.type_name(), ctx.module->module.type_name()));
}

void check_parameters(const char* op, const Tensor* const* in, int n) {
  if (!ctx.recording || !ctx.module->module.listed()) return;
  for (int i = 0; i < n; ++i) {
    TensorImpl* t = in[i]->impl();
    if (!t || !t->is_parameter || t->listed || !t->leaf_wants_grad) continue;
    mark_running();
    if (!t->listed)
      throw Error(fmt::format(
          "{}: {} reads a Parameter of shape {} that no RETAPE_FIELDS lists, so it would not be trained; list the field that holds it", op,
          ctx.module->module.type_name(), in[i]->shape().str()));
  }
}

}  // namespace detail
}  // namespace nn
}  // namespace retape
