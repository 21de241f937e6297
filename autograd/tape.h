// record(): the one gate that every op passes. It runs the op's forward and, if an input wants a gradient, keeps the op in a node
// of the tape.
//
// An op is a plain struct: `name`, members it was called with, forward(tensors...) and backward(dy, Grads&) or, instead of
// backward, composite(tensors...), the same function written with other ops. `static constexpr int differentiable = n` says that
// only the first n outputs have gradients, `static constexpr bool expensive = true` that it is not worth running again to save
// memory (matrix products, attention, factorisations), `precision` what autocast makes of the inputs, `elementwise` or reach() what
// depends on what (autograd/reach.h). docs/design.md shows an op;
// CONTRIBUTING.md has the steps for adding one.
#pragma once
#include <array>
#include <concepts>
#include <tuple>
#include <utility>

#include <retape/autograd/anomaly.h>
#include <retape/autograd/autocast.h>
#include <retape/autograd/node.h>
#include <retape/core/dispatch.h>

namespace retape {

/// While it lives, this thread records nothing. torch: no_grad.
struct NoGrad {
  Scoped<bool> scope{ctx.recording, false};
};

// ---- how an op is written is checked here, so that a mistake reads as a sentence ---------------------------------------

namespace detail {
template <class> struct Signature;
template <class C, class R, class... A> struct Signature<R (C::*)(A...)> {
  using Result = R;
  using Args = std::tuple<std::remove_cvref_t<A>...>;
};
template <class C, class R, class... A> struct Signature<R (C::*)(A...) const> : Signature<R (C::*)(A...)> {};
template <class T> constexpr bool is_input = std::is_same_v<T, Tensor> || std::is_same_v<T, std::vector<Tensor>>;
template <class T> constexpr bool all_inputs = false;
template <class... A> constexpr bool all_inputs<std::tuple<A...>> = (is_input<A> && ...);
template <class T> constexpr int list_inputs = 0;
template <class... A> constexpr int list_inputs<std::tuple<A...>> = (0 + ... + int(std::is_same_v<A, std::vector<Tensor>>));
constexpr int all_outputs = 1 << 20;
template <class Op> constexpr int differentiable_outputs = all_outputs;
template <class Op>
requires requires { Op::differentiable; }
constexpr int differentiable_outputs<Op> = Op::differentiable;

template <class Op> constexpr bool has_gradient = differentiable_outputs<Op> != 0;
template <class Op> constexpr bool is_expensive = false;
template <class Op>
requires requires { Op::expensive; }
constexpr bool is_expensive<Op> = Op::expensive;
template <class Op> constexpr bool has_precision = requires { Op::precision; };

struct LikeTensor {
  operator Tensor() const;
  operator std::vector<Tensor>() const;
};
struct LikeAny {
  template <class T> operator T() const;
};
template <class Op, int... I> constexpr bool makes(std::integer_sequence<int, I...>) {
  return requires { Op{(void(I), LikeAny{})...}; };
}
template <class Op, int At, int... I> constexpr bool tensor_at(std::integer_sequence<int, I...>) {
  return requires { Op{std::conditional_t<I == At, LikeTensor, LikeAny>{}...}; };
}
template <class Op, int N = 12> constexpr int members() {  // of an aggregate, up to 12
  if constexpr (N == 0) return 0;
  else if constexpr (makes<Op>(std::make_integer_sequence<int, N>{})) return N;
  else return members<Op, N - 1>();
}
template <class Op> constexpr bool holds_a_tensor() {
  if constexpr (!std::is_aggregate_v<Op>) return false;
  else return []<int... K>(std::integer_sequence<int, K...>) {
      return (tensor_at<Op, K>(std::make_integer_sequence<int, members<Op>()>{}) || ...);
    }
  (std::make_integer_sequence<int, members<Op>()>{});
}
}  // namespace detail

template <class Op> concept HasName = requires(const Op& op) {
  { op.name } -> std::convertible_to<const char*>;
};
template <class Op> concept HasForward = requires { &Op::forward; };
template <class Op> concept HasBackward = requires { &Op::backward; };
template <class Op> concept HasComposite = requires { &Op::composite; };

template <class Op> consteval void check_op() {
  static_assert(HasName<Op>, "retape op: add a name: static constexpr auto name = \"softmax\";");
  static_assert(
      HasForward<Op>,
      "retape op: add one (not overloaded, not templated) forward(const Tensor& x, ...) that returns Tensor, std::array<Tensor, N> or std::vector<Tensor>");
  static_assert(HasBackward<Op> || HasComposite<Op> || detail::differentiable_outputs<Op> == 0,
                "retape op: add backward(const Tensor& dy, Grads& dx), or composite(inputs...) written with other ops");
  static_assert(std::is_copy_constructible_v<Op>, "retape op: must be copyable, because a replay runs forward on a copy");
  if constexpr (detail::has_precision<Op>)
    static_assert(std::is_same_v<std::remove_cvref_t<decltype(Op::precision)>, Precision>,
                  "retape op: precision must be a Precision: any, low, full or widest");
  static_assert(!detail::holds_a_tensor<Op>(), "retape op: has a Tensor member; make it an input of forward, or a Saved");
  if constexpr (HasForward<Op>) {
    static_assert(detail::all_inputs<typename detail::Signature<decltype(&Op::forward)>::Args>,
                  "retape op: forward takes const Tensor& and const std::vector<Tensor>& only; other arguments are members of the op");
    static_assert(detail::list_inputs<typename detail::Signature<decltype(&Op::forward)>::Args> <= 1,
                  "retape op: forward takes at most one std::vector<Tensor>");
  }
}

namespace detail {

// ---- from an op's own types to flat lists and back ------------------------------------------------------------------

inline int flat_count(const Tensor&) { return 1; }
inline int flat_count(const std::vector<Tensor>& v) { return int(v.size()); }
inline void flatten(const Tensor& t, const Tensor**& at) { *at++ = &t; }
inline void flatten(const std::vector<Tensor>& v, const Tensor**& at) {
  for (auto& t : v) *at++ = &t;
}
inline void flatten_out(Tensor& t, std::vector<Tensor*>& to) { to.push_back(&t); }
template <class R> void flatten_out(R& many, std::vector<Tensor*>& to) {
  for (auto& t : many) to.push_back(&t);
}
template <class R> std::vector<Tensor> to_list(R result) {
  if constexpr (std::is_same_v<R, Tensor>) return {std::move(result)};
  else if constexpr (std::is_same_v<R, std::vector<Tensor>>) return result;
  else return {result.begin(), result.end()};
}
template <class Args, class F> decltype(auto) apply_flat(F&& f, const std::vector<Tensor>& in) {
  return [&]<size_t... I>(std::index_sequence<I...>)->decltype(auto) {
    size_t at = 0;
    auto take = [&]<class T>(std::type_identity<T>) -> T {
      if constexpr (std::is_same_v<T, Tensor>) return in[at++];
      else {
        const size_t k = in.size() + 1 - sizeof...(I);
        at += k;
        return {in.begin() + int64_t(at - k), in.begin() + int64_t(at)};
      }
    };
    Args args{take(std::type_identity<std::tuple_element_t<I, Args>>{})...};
    return f(std::get<I>(args)...);
  }
  (std::make_index_sequence<std::tuple_size_v<Args>>{});
}

// ---- the parts of the gate that need no template ---------------------------------------------------------------------

void begin(Node& node, const char* op, const Tensor* const* in, int n, bool expensive);
void finish(Node& node, const Tensor* const* in, int n, Tensor* const* out, int m, int differentiable);
[[noreturn]] void cut_by_private_value(const char* op);
/// Throws if inputs are on different devices of which one is CUDA.
void check_devices(const char* op, const Tensor* const* in, int n);
using CompositeCall = std::vector<Tensor> (*)(const void* op, const std::vector<Tensor>& in);
void differentiate_composite(Node& node, Few<Tensor, 1>& dy, const void* op, CompositeCall call, Grads& dx);
/// Set by nn: an op inside a module read these inputs; finds Parameters that no module lists.
inline void (*parameter_check_hook)(const char* op, const Tensor* const* in, int n) = nullptr;

template <class Op> struct NodeOf final : Node {
  using Args = typename Signature<decltype(&Op::forward)>::Args;
  Op op;
  explicit NodeOf(Op o) : op(std::move(o)) {}
  static Ref<NodeOf> make(Op op) { return Ref<NodeOf>::adopt(new (Pool::take(sizeof(NodeOf))) NodeOf(std::move(op))); }
  const char* name() const override { return op.name; }
  void free() noexcept override {
    this->~NodeOf();
    Pool::give(this, sizeof(NodeOf));
  }
  void forward(const std::vector<Tensor>& in, std::vector<Tensor>& out) override {
    Op again = op;
    out = to_list(apply_flat<Args>([&](const auto&... x) { return again.forward(x...); }, in));
    if constexpr (!HasBackward<Op> && has_gradient<Op>)
      for (auto& x : in) save(x);
  }
  Intervals reach(const Reach& r) const override {
    if constexpr (requires { op.reach(r); }) return op.reach(r);
    else if constexpr (requires { Op::elementwise; }) return same_elements(r);
    else return all_elements(r.in);
  }
  void backward(Few<Tensor, 1>& dy, Grads& dx) override {
    if constexpr (differentiable_outputs<Op> == 0) {
      return;  // no output has this node as its producer
    } else if constexpr (!HasBackward<Op>) {
      const CompositeCall call = [](const void* self, const std::vector<Tensor>& x) {
        Op o = *static_cast<const Op*>(self);
        return to_list(apply_flat<Args>([&](const auto&... a) { return o.composite(a...); }, x));
      };
      differentiate_composite(*this, dy, &op, call, dx);
    } else if constexpr (requires { op.backward(dy[0], dx); }) {
      op.backward(dy[0], dx);
    } else {
      std::vector<Tensor> many;
      for (int j = 0; j < dy.size(); ++j) many.push_back(dy[j]);
      op.backward(many, dx);
    }
  }
};

// An op whose inputs are as it wants them, and that no other op's forward has called.
template <class Op, class... In> auto record_cast(Op op, const In&... in) {
  const Tensor* few[8];
  std::vector<const Tensor*> many;
  const int n = (0 + ... + detail::flat_count(in));
  const Tensor** all = few;
  if (n > 8) {
    many.resize(size_t(n));
    all = many.data();
  }
  {
    const Tensor** at = all;
    (detail::flatten(in, at), ...);
  }
  bool wants = false;
  if (ctx.recording && detail::has_gradient<Op>)
    for (int i = 0; i < n; ++i) wants |= all[i]->requires_grad();
  if (ctx.module && detail::parameter_check_hook) detail::parameter_check_hook(op.name, all, n);
  if constexpr (HasBackward<Op>)
    if (ctx.differentiating)
      for (int i = 0; i < n; ++i)
        if (*all[i] && (*all[i])->opaque) detail::cut_by_private_value(op.name);
  for (int i = 1; i < n; ++i)
    if (*all[i] && *all[0] && !(all[i]->device() == all[0]->device())) detail::check_devices(op.name, all, n);
  const Scoped named(ctx.op, static_cast<const char*>(op.name));
  const OpRange range(op.name);
  if (!wants && !ctx.region) {
    auto out = [&] {
      const Scoped inside(ctx.inside_forward, true);
      const Scoped nobody(ctx.current, nullptr);
      return op.forward(in...);
    }();
    if (detecting_anomalies) [[unlikely]]
      check_results(op.name, all, n, to_list(out));
    return out;
  }
  auto node = detail::NodeOf<Op>::make(std::move(op));
  detail::begin(*node, node->op.name, all, n, detail::is_expensive<Op>);
  auto out = [&] {
    const Scoped inside(ctx.inside_forward, true);
    const Scoped me(ctx.current, static_cast<Node*>(node.get()));
    auto result = node->op.forward(in...);
    if constexpr (!HasBackward<Op> && detail::has_gradient<Op>)
      for (int i = 0; i < n; ++i) save(*all[i]);
    return result;
  }();
  if (detecting_anomalies) [[unlikely]]
    check_results(node->op.name, all, n, to_list(out));
  constexpr int differentiable = detail::differentiable_outputs<Op>;
  if constexpr (std::is_same_v<decltype(out), Tensor>) {
    Tensor* one = &out;
    detail::finish(*node, all, n, &one, 1, differentiable);
  } else {
    std::vector<Tensor*> flat;
    detail::flatten_out(out, flat);
    detail::finish(*node, all, n, flat.data(), int(flat.size()), differentiable);
  }
  return out;
}

}  // namespace detail

/// Runs op.forward(in...) and records it if an input wants a gradient. An op called by another op's forward is a plain call.
template <class Op, class... In> auto record(Op op, const In&... in) {
  check_op<Op>();
  static_assert(
      requires { op.forward(in...); }, "retape op: record(op, inputs...) must pass exactly what forward takes");
  if (ctx.inside_forward) {  // what it saves is nobody's
    const Scoped nobody(ctx.current, nullptr);
    return op.forward(in...);
  }
  if constexpr (detail::has_precision<Op>)
    if (ctx.autocast && op.precision != Precision::any)
      return under_autocast(
          op.precision, [&](const auto&... x) { return detail::record_cast(std::move(op), x...); }, in...);
  return detail::record_cast(std::move(op), in...);
}

}  // namespace retape
