// Modules are plain structs that hold values: submodules, Parameters, Buffers, and vectors or optionals of them. RETAPE_FIELDS
// names those fields once; parameters(), state_dict(), to(), train() and the module paths in errors all follow from that list.
//
//     struct Mlp : nn::Module {
//       nn::Linear up, down;
//       Mlp(int64_t dim, int64_t hidden) : up(dim, hidden), down(hidden, dim) {}
//       Tensor forward(const Tensor& x) { return down(gelu(up(x))); }
//       RETAPE_FIELDS(up, down)
//     };
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <retape/autograd/binary.h>
#include <retape/autograd/hooks.h>
#include <retape/autograd/memory_report.h>
#include <retape/core/context.h>
#include <retape/core/dispatch.h>
#include <retape/core/tensor.h>

namespace retape {

/// A leaf tensor that a module trains. Reads like a const Tensor. Copying or assigning a Parameter *ties* the two: they are one
/// weight under two names from then on (`head.weight = embedding.weight`). clone() of a module makes new ones.
class Parameter {
 public:
  Parameter();  ///< undefined: an optional weight that is not there
  /// Takes over the data of `value`, without its history. Throws Error for an integer tensor that is to want its gradient.
  explicit Parameter(const Tensor& value, bool requires_grad = true);
  Parameter(const Parameter& o);
  Parameter(Parameter&& o) noexcept;
  Parameter& operator=(const Parameter& o) = default;
  Parameter& operator=(Parameter&& o) noexcept = default;
  ~Parameter();

  operator const Tensor&() const { return value_; }
  operator Operand() const { return value_; }
  const Tensor& tensor() const { return value_; }
  const Tensor* operator->() const { return &value_; }
  explicit operator bool() const { return bool(value_); }

  // On a Tensor these rebind the handle; here that would silently replace the weight by a value that nobody trains.
  template <class T> Parameter& operator+=(const T&) = delete;
  template <class T> Parameter& operator-=(const T&) = delete;
  template <class T> Parameter& operator*=(const T&) = delete;
  template <class T> Parameter& operator/=(const T&) = delete;
  template <class T> Parameter& put(const std::vector<Index>&, const T&, bool = false) = delete;

 private:
  Tensor value_;
};

/// State of a module that is not trained, such as running statistics: follows to() and, if persistent, is saved in state_dict().
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(const Tensor& value, bool persistent = true) : persistent_(persistent) { *this = value; }
  Buffer(const Buffer& o);  ///< the same tensor; a copy of it inside clone()
  Buffer(Buffer&&) noexcept = default;
  Buffer& operator=(const Buffer&) = default;
  Buffer& operator=(Buffer&&) noexcept = default;
  /// A new value, taken without its history; stays persistent or not.
  Buffer& operator=(const Tensor& value);

  operator const Tensor&() const { return value_; }
  operator Operand() const { return value_; }
  const Tensor& tensor() const { return value_; }
  const Tensor* operator->() const { return &value_; }
  explicit operator bool() const { return bool(value_); }
  bool persistent() const { return persistent_; }

 private:
  Tensor value_;
  bool persistent_ = true;
};

namespace nn {

using retape::Buffer;
using retape::Parameter;
class Module;

using retape::NamedTensors;

/// Called around a module's forward with the arguments and results that are Tensors, or vectors, arrays, pairs and tuples of them; what
/// stands in the vectors afterwards is used instead. Anything else that forward takes or returns passes by unseen.
using ForwardPreHook = std::function<void(Module&, std::vector<Tensor>& inputs)>;
using ForwardHook = std::function<void(Module&, const std::vector<Tensor>& inputs, std::vector<Tensor>& outputs)>;
/// Called in backward, when the gradients of all outputs are known, and when those of the inputs are; undefined ones are zero, or
/// belong to inputs that want none. They may be replaced. The module itself may be gone by then, and is not passed.
using BackwardPreHook = std::function<void(std::vector<Tensor>& grad_outputs)>;
using BackwardHook = std::function<void(std::vector<Tensor>& grad_inputs, const std::vector<Tensor>& grad_outputs)>;

namespace detail {
struct ModuleHooks;

// Where the module ran last, so that its path is searched for once. Threads that share a module may look it up at the same time.
class CachedPath {
 public:
  CachedPath() = default;
  CachedPath(const CachedPath&) noexcept {}  // another object has another place
  CachedPath& operator=(const CachedPath&) noexcept {
    path_ = nullptr;
    return *this;
  }
  const ModulePath* get() const { return path_.load(std::memory_order_acquire); }
  void set(const ModulePath* path) const { path_.store(path, std::memory_order_release); }

 private:
  mutable std::atomic<const ModulePath*> path_ = nullptr;
};
}  // namespace detail

struct LoadOptions {
  bool strict = true;          ///< missing and unexpected names are errors
  bool convert_dtype = false;  ///< convert values of another dtype instead of refusing them
};
struct LoadReport {
  std::vector<std::string> missing, unexpected;
};

/// What RETAPE_FIELDS calls, once a field and in order; names are relative to the module whose fields are listed.
class Visitor {
 public:
  virtual void parameter(const std::string& name, Parameter&) = 0;
  virtual void buffer(const std::string& name, Buffer&) = 0;
  virtual void module(const std::string& name, Module&) = 0;  // may go on into its fields

 protected:
  ~Visitor() = default;
};

/// The base of every module. RETAPE_FIELDS in the derived struct gives it operator(), which runs forward(), and clone(), a deep
/// copy in which tied parameters are tied again. Modules move; copying one other than by clone() throws Error.
///
/// Every function that goes through the fields throws Error if a Parameter lies inside a visited module but no RETAPE_FIELDS
/// lists it.
class Module {
 public:
  Module() = default;
  Module(const Module& o);  // for clone()
  Module(Module&&) noexcept = default;
  Module& operator=(const Module&) = delete;
  Module& operator=(Module&&) noexcept = default;
  virtual ~Module();

  /// All parameters; tied ones once, under the first name.
  std::vector<Tensor> parameters() const;
  NamedTensors named_parameters() const;
  /// All buffers, also those that are not saved.
  NamedTensors named_buffers() const;
  /// This module ("") and all below it.
  std::vector<std::pair<std::string, Module*>> named_modules();
  /// Number of elements in all parameters; tied ones count once.
  int64_t num_parameters() const;

  /// Parameters and persistent buffers under PyTorch's names; tied parameters under each of their names. The tensors are those of
  /// the module, not copies.
  NamedTensors state_dict() const;
  /// Copies values into the parameters and buffers, in place: ties and optimizers' references stay. A name may be missing if
  /// another name of the same tied parameter is there. Everything is checked first: on any problem one Error lists them all and
  /// nothing has changed. torch: load_state_dict.
  LoadReport load_state_dict(const NamedTensors& state, LoadOptions options = {});
  /// The same from a map.
  template <class Map> LoadReport load_state_dict(const Map& state, LoadOptions options = {}) {
    return load_state_dict(NamedTensors(state.begin(), state.end()), options);
  }

  /// Switches dropout and the like on or off, here and in all modules below.
  void train(bool on = true);
  void eval() { train(false); }
  bool is_training() const { return training_; }

  /// Moves, or converts all floating, parameters, their gradients and buffers. References that optimizers hold stay valid.
  void to(Device device);
  void to(DType dtype);
  /// Gives every parameter and buffer new, uninitialised memory on a device: the way back from `meta`.
  void to_empty(Device device);

  /// Whether the parameters want gradients. torch: requires_grad_.
  void set_requires_grad(bool on = true);
  void freeze() { set_requires_grad(false); }
  /// Drops all gradients.
  void zero_grad();

  /// Calls f(m) for each module m that is a T: those below first, this one last. torch: Module.apply.
  template <class T = Module, class F> void apply(F&& f) {
    auto all = named_modules();
    for (size_t i = all.size(); i-- > 0;)
      if (auto* m = dynamic_cast<T*>(all[i].second)) f(*m);
  }

  /// Hooks of this module, called in the order of registration. A clone() has none. torch: register_forward_pre_hook,
  /// register_forward_hook, register_full_backward_pre_hook, register_full_backward_hook.
  HookHandle register_forward_pre_hook(ForwardPreHook hook);
  HookHandle register_forward_hook(ForwardHook hook);
  HookHandle register_full_backward_pre_hook(BackwardPreHook hook);
  HookHandle register_full_backward_hook(BackwardHook hook);
  const std::shared_ptr<detail::ModuleHooks>& hooks() const { return hooks_; }

  /// The name of the derived type, for messages.
  std::string type_name() const;

  // Both from RETAPE_FIELDS, which every module must have; RETAPE_FIELDS() for one without fields.
  virtual void fields(Visitor&) = 0;
  virtual size_t size_in_bytes() const = 0;

  bool listed() const { return listed_; }
  const detail::CachedPath& cached_path() const { return path_; }

 private:
  friend struct ModuleWalk;
  bool training_ = true;
  bool listed_ = false;  // a traversal from above has been here
  detail::CachedPath path_;
  std::shared_ptr<detail::ModuleHooks> hooks_;
};

/// While it lives, a module and all below it train, or evaluate; afterwards each is as it was.
class ModeScope {
 public:
  ModeScope(Module& module, bool training);
  ~ModeScope();
  ModeScope(const ModeScope&) = delete;

 private:
  std::vector<std::pair<Module*, bool>> before_;  // those above first, which also switch what is below
};

/// While it lives, the layers that this thread makes have parameters of this dtype on this device:
///
///     nn::DefaultOptions on_meta({.device = Device::meta()});
///     Gpt huge(config);  // has shapes, allocates nothing
class DefaultOptions {
 public:
  explicit DefaultOptions(Options options) : before_(current) { current = options; }
  ~DefaultOptions() { current = before_; }
  DefaultOptions(const DefaultOptions&) = delete;
  static inline thread_local constinit Options current{};

 private:
  Options before_;
};

/// A Parameter without values yet, made as DefaultOptions say; for init::... to fill.
inline Parameter empty_parameter(const Shape& shape) { return Parameter(empty(shape, DefaultOptions::current)); }

namespace detail {

// While one lives, copying a Module is allowed, and copying a Parameter or Buffer makes a new tensor (one for all that are tied); on
// meta, if so asked, without copying data.
class CloneScope {
 public:
  explicit CloneScope(bool onto_meta = false);
  ~CloneScope();
  CloneScope(const CloneScope&) = delete;

 private:
  bool outermost_;
};
template <class T> T clone(const T& module) {
  const CloneScope scope;
  return T(module);
}

template <class T> concept Optional = requires(T& t) { t.has_value(); };
template <class T> concept UniquePtr = requires(T& t) { t.release(); };
template <class T> concept Several = std::is_array_v<T> || requires(T& t) { t.begin(); };

template <class T> void visit_field(Visitor& v, const std::string& name, T& field) {
  if constexpr (std::is_base_of_v<Module, T>) v.module(name, field);
  else if constexpr (std::is_same_v<T, Parameter>) v.parameter(name, field);
  else if constexpr (std::is_same_v<T, Buffer>) v.buffer(name, field);
  else if constexpr (requires { static_cast<Module&>(field.module()); }) v.module(name, field.module());
  else if constexpr (Optional<T> || UniquePtr<T>) {
    if (field) visit_field(v, name, *field);
  } else if constexpr (Several<T>) {
    size_t i = 0;
    for (auto& element : field) visit_field(v, name + "." + std::to_string(i++), element);
  } else {
    static_assert(
        !sizeof(T),
        "RETAPE_FIELDS lists Modules, Parameters, Buffers, and vectors, arrays or optionals of them; put a Tensor into a Parameter or a Buffer, and leave everything else out");
  }
}

// The two checks of a running forward that found something suspicious; they throw, or return if all is well.
void check_unlisted_module(Module& inner);
void check_parameters(const char* op, const Tensor* const* in, int n);

void begin_range();  // with the path of the running module
inline const ModulePath outermost{};
const ModulePath* find_path(const Module& outer, const Module& inner);  // searches, and remembers
inline const ModulePath* path_of(const Module& outer, const Module& inner) {
  const ModulePath* path = inner.cached_path().get();
  return path && path->outer == ctx.where ? path : find_path(outer, inner);
}

}  // namespace detail
}  // namespace nn

/// Lives while a module's forward runs on this thread.
struct ModuleScope {
  nn::Module& module;
  ModuleScope* outer;
  const ModulePath* before = ctx.where;
  bool ranges = ctx.ranges;
  explicit ModuleScope(const nn::Module& m) : module(const_cast<nn::Module&>(m)), outer(ctx.module) {
    if (outer && outer->module.listed() && !m.listed()) nn::detail::check_unlisted_module(module);
    ctx.where = outer ? nn::detail::path_of(outer->module, m) : &nn::detail::outermost;
    ctx.module = this;
    if (ranges) [[unlikely]]
      nn::detail::begin_range();
  }
  ModuleScope(const ModuleScope&) = delete;
  ~ModuleScope() {
    if (ranges) [[unlikely]]
      retape::detail::end_range();
    ctx.module = outer;
    ctx.where = before;
  }
};

namespace nn::detail {

// What comes before and after a forward with hooks. `state` carries the gradients of the outputs to where those of the inputs are.
struct HookedCall {
  Module& module;
  std::shared_ptr<ModuleHooks> hooks;
  std::shared_ptr<void> state;
  std::vector<Tensor> inputs, outputs;
  explicit HookedCall(Module& m);
  void before();
  void after();
};

template <class T> constexpr bool is_tensor = std::is_same_v<std::remove_cvref_t<T>, Tensor>;
// Calls f(Tensor&) for each tensor of a result.
template <class R, class F> void each_tensor(R& r, const F& f) {
  if constexpr (is_tensor<R>) f(r);
  else if constexpr (requires { std::tuple_size<R>::value; }) std::apply([&](auto&... part) { (each_tensor(part, f), ...); }, r);
  else if constexpr (requires { requires is_tensor<decltype(*r.begin())>; })
    for (auto& t : r) f(t);
}

template <class Me, class... A> decltype(auto) call_with_hooks(Me& me, A&&... a) {
  HookedCall call(const_cast<std::remove_const_t<Me>&>(me));
  const auto take = [&](const auto& x) {
    if constexpr (is_tensor<decltype(x)>) call.inputs.push_back(x);
  };
  (take(a), ...);
  call.before();
  size_t next = 0;
  const auto pass = [&]<class X>(X&& x) -> decltype(auto) {
    if constexpr (is_tensor<X>) return static_cast<const Tensor&>(call.inputs[next++]);
    else return static_cast<X&&>(x);
  };
  // Braces fix the order in which `pass` counts.
  std::tuple<decltype(pass(static_cast<A&&>(a)))...> arguments{pass(static_cast<A&&>(a))...};
  return std::apply(
      [&]<class... B>(B&&... b) -> decltype(auto) {
        if constexpr (std::is_void_v<decltype(me.forward(static_cast<B&&>(b)...))>) {
          me.forward(static_cast<B&&>(b)...);
          call.after();
        } else {
          auto result = me.forward(static_cast<B&&>(b)...);
          each_tensor(result, [&](Tensor& t) { call.outputs.push_back(t); });
          call.after();
          size_t k = 0;
          each_tensor(result, [&](Tensor& t) { t = call.outputs[k++]; });
          return result;
        }
      },
      std::move(arguments));
}

template <class Me, class... A> decltype(auto) call(Me& me, A&&... a) {
  const ModuleScope scope(me);
  // The same type either way: a result that hooks may replace is a value.
  using R = decltype(me.forward(static_cast<A&&>(a)...));
  if constexpr (!std::is_reference_v<R>)
    if (me.hooks()) return call_with_hooks(me, static_cast<A&&>(a)...);
  return me.forward(static_cast<A&&>(a)...);
}

}  // namespace nn::detail

// An argument list is walked by rescanning: each level of RETAPE_SCAN scans four times as often as the one before.
#define RETAPE_PARENS ()
#define RETAPE_SCAN1(...) __VA_ARGS__
#define RETAPE_SCAN2(...) RETAPE_SCAN1(RETAPE_SCAN1(RETAPE_SCAN1(RETAPE_SCAN1(__VA_ARGS__))))
#define RETAPE_SCAN3(...) RETAPE_SCAN2(RETAPE_SCAN2(RETAPE_SCAN2(RETAPE_SCAN2(__VA_ARGS__))))
#define RETAPE_SCAN4(...) RETAPE_SCAN3(RETAPE_SCAN3(RETAPE_SCAN3(RETAPE_SCAN3(__VA_ARGS__))))
#define RETAPE_EACH(macro, first, ...) macro(first) __VA_OPT__(RETAPE_EACH_AGAIN RETAPE_PARENS(macro, __VA_ARGS__))
#define RETAPE_EACH_AGAIN() RETAPE_EACH
#define RETAPE_VISIT(field) ::retape::nn::detail::visit_field(retape_visitor, #field, field);

/// Lists a module's fields (up to 80; inherited ones too) and gives it operator() and clone(). Stands in the public part.
// clang-format off
#define RETAPE_FIELDS(...)                                                                        \
  void fields([[maybe_unused]] ::retape::nn::Visitor& retape_visitor) override {                  \
    __VA_OPT__(RETAPE_SCAN4(RETAPE_EACH(RETAPE_VISIT, __VA_ARGS__)))                              \
  }                                                                                               \
  RETAPE_MODULE_BODY
// clang-format on

// What a module needs whose fields() is written by hand.
// clang-format off
#define RETAPE_MODULE_BODY                                                                        \
  size_t size_in_bytes() const override { return sizeof(*this); }                                 \
  template <class... A> decltype(auto) operator()(A&&... a) { return ::retape::nn::detail::call(*this, static_cast<A&&>(a)...); }             \
  template <class... A> decltype(auto) operator()(A&&... a) const { return ::retape::nn::detail::call(*this, static_cast<A&&>(a)...); }       \
  template <int = 0> auto clone() const { return ::retape::nn::detail::clone(*this); }
// clang-format on

}  // namespace retape
