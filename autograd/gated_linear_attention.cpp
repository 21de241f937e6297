#include <retape/autograd/gated_linear_attention.h>

#include <cmath>

#include <retape/autograd/binary.h>
#include <retape/autograd/linear_recurrence.h>
#include <retape/autograd/normalized.h>
#include <retape/autograd/rearrange.h>
#include <retape/autograd/reduce.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/unary.h>

namespace retape {
namespace {

Tensor dense(const Tensor& x) { return x ? contiguous(x) : x; }

struct GatedLinearAttentionBackward {
  static constexpr auto name = "gated_linear_attention_backward";
  static constexpr bool expensive = true;
  double scale, eps;
  bool want_g, want_initial;
  // What comes behind initial is for the kernel; the composite makes the states again, those of every step. normaliser: undefined if y is not divided.
  std::array<Tensor, 5> forward(const Tensor& dy, const Tensor& dlast, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& g,
                                const Tensor& initial, const Tensor& y, const Tensor& normaliser, const Tensor& states,
                                const Tensor& last) {
    Tensor dq = empty(q.shape(), q.options()), dk = empty(k.shape(), k.options()), dv = empty(v.shape(), v.options()), dg, dinitial;
    if (want_g) dg = empty(g.shape(), g.options());
    if (want_initial) dinitial = empty(initial.shape(), initial.options());
    const Tensor grad = contiguous(dy), of_last = dense(dlast), a = contiguous(q), b = contiguous(k), c = contiguous(v), decay = dense(g),
                 kept = contiguous(states), end = contiguous(last), out = dense(y), sums = dense(normaliser);
    RETAPE_DISPATCH(detail::cpu_for_meta(q.device()),
                    gated_linear_attention_backward(grad, of_last, a, b, c, decay, out, sums, kept, end, scale, dq, dk, dv, dg, dinitial));
    return {dq, dk, dv, dg, dinitial};
  }
  std::array<Tensor, 5> composite(const Tensor& dy, const Tensor& dlast, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& g,
                                  const Tensor& initial, const Tensor&, const Tensor& normaliser, const Tensor&, const Tensor&) {
    const DType state = statistics_of(q).dtype, low = q.dtype();
    const bool normalize = bool(normaliser);
    const int64_t B = q.shape()[0], T = q.shape()[1], H = q.shape()[2], K = q.shape()[3], V = v.shape()[3] + int64_t(normalize);
    const Shape all{B, T, H, K, V}, flat{B, T, H * K * V};
    const auto of_keys = [&](const Tensor& x) { return unsqueeze(cast(x, state), 4); };
    const auto of_values = [&](const Tensor& x) { return unsqueeze(cast(x, state), 3); };
    const Tensor query = of_keys(q) * scale, key = of_keys(k),
                 value = of_values(normalize ? cat({v, ones({B, T, H, 1}, v.options())}, 3) : v);
    const Tensor decay = !g ? ones(all, {state, q.device()}) : expand(exp(unsqueeze(g.dim() == 3 ? unsqueeze(g, 3) : g, 4)), all);
    const Tensor before_first = initial ? initial : zeros({B, H, K, V}, {state, q.device()});
    const Tensor h = reshape(
        linear_recurrence(reshape(decay, flat), reshape(key * value, flat), {.initial = reshape(before_first, {B, H * K * V})}), all);
    Tensor grad = of_values(dy);
    if (normalize) {  // of the sums with the column of ones: those of a quotient
      const Tensor sums = sum(h * query, {3}, true), below = narrow(sums, 4, V - 1, 1) + eps, of_sums = grad / below;
      grad = cat({of_sums, -sum(of_sums * narrow(sums, 4, 0, V - 1), {4}, true) / below}, 4);
    }
    const Tensor next = cat({narrow(decay, 1, 1, T - 1), zeros_like(narrow(decay, 1, 0, 1))}, 1);
    Tensor of_states = query * grad;
    if (dlast) of_states = cat({narrow(of_states, 1, 0, T - 1), narrow(of_states, 1, T - 1, 1) + unsqueeze(dlast, 1)}, 1);
    const Tensor dh = reshape(linear_recurrence(reshape(next, flat), reshape(of_states, flat), {.reverse = true}), all),
                 through = dh * decay;
    std::array<Tensor, 5> d = {
        cast(sum(h * grad, {4}) * scale, low), cast(sum(dh * value, {4}), low), cast(sum(dh * key, {3}), low), {}, {}};
    if (normalize) d[2] = narrow(d[2], 3, 0, V - 1);
    if (want_g) {
      const Tensor before = cat({unsqueeze(before_first, 1), narrow(h, 1, 0, T - 1)}, 1), of_gate = sum(through * before, {4});
      d[3] = g.dim() == 3 ? sum(of_gate, {3}) : of_gate;
    }
    if (want_initial) d[4] = select(through, 1, 0);
    return d;
  }
};
struct GatedLinearAttention {
  static constexpr auto name = "gated_linear_attention";
  static constexpr bool expensive = true;
  static constexpr int differentiable = 2;
  double scale;
  bool normalize;
  double eps;
  Saved q = {}, k = {}, v = {}, g = {}, initial = {}, y = {}, normaliser = {}, states = {}, last = {};
  std::array<Tensor, 4> forward(const Tensor& queries, const Tensor& keys, const Tensor& values, const Tensor& log_decay,
                                const Tensor& start) {
    const int64_t B = queries.shape()[0], T = queries.shape()[1], H = queries.shape()[2], K = queries.shape()[3],
                  V = values.shape()[3] + int64_t(normalize);
    const Options state = statistics_of(queries);
    Tensor out = empty(values.shape(), values.options()), sums, end = empty({B, H, K, V}, state),
           kept = empty({B, H, (T + recurrence_chunk - 1) / recurrence_chunk, K, V}, state);
    const Tensor a = contiguous(queries), b = contiguous(keys), c = contiguous(values), decay = dense(log_decay), before = dense(start);
    if (normalize) sums = empty({B, T, H}, state);
    RETAPE_DISPATCH(queries.device(), gated_linear_attention(a, b, c, decay, before, scale, eps, out, sums, end, kept));
    q = save(queries), k = save(keys), v = save(values);
    if (log_decay) g = save(log_decay);
    if (start) initial = save(start);
    if (normalize) y = save(out), normaliser = save(sums);
    states = save(kept), last = save(end);
    return {out, end, kept, sums};
  }
  void backward(const std::vector<Tensor>& dy, Grads& dx) {
    const auto read = [](Saved s) { return s ? *s : Tensor{}; };
    const Tensor values = *v, grad = dy[0] ? dy[0] : zeros_like(values);
    const auto d = record(GatedLinearAttentionBackward{scale, eps, dx.wants(3), dx.wants(4)}, grad, dy[1], *q, *k, values, read(g),
                          read(initial), read(y), read(normaliser), *states, *last);
    for (int i = 0; i < 5; ++i)
      if (dx.wants(i)) dx.set(i, d[size_t(i)]);
  }
};

GatedLinearAttentionResult attend(const char* name, const Tensor& q, const Tensor& k, const Tensor& v,
                                  const GatedLinearAttentionOptions& o) {
  check_one_device(name, q, k, v, o.g, o.initial);
  struct Named {
    const char* what;
    const Tensor& t;
  };
  for (const auto& [what, t] : std::initializer_list<Named>{{"q", q}, {"k", k}, {"v", v}, {"g", o.g}, {"initial", o.initial}})
    if (t && !is_floating(t.dtype()))
      throw Error(fmt::format("{}: {} has dtype {}; it must be floating, use cast()", name, what, name_of(t.dtype())));
  const std::string shapes = fmt::format("q {}, k {} and v {}", q.shape().str(), k.shape().str(), v.shape().str());
  if (q.dim() != 4 || !(q.shape() == k.shape()))
    throw Error(fmt::format("{}: {} do not fit: q and k must have one shape, (B, T, H, K)", name, shapes));
  const Shape& s = q.shape();
  if (v.dim() != 4 || v.shape()[0] != s[0] || v.shape()[1] != s[1] || v.shape()[2] != s[2])
    throw Error(fmt::format("{}: {} do not fit: v must be ({}, {}, {}, V)", name, shapes, s[0], s[1], s[2]));
  if (!(o.eps >= 0)) throw Error(fmt::format("{}: eps {} is not valid; it must be 0 or more", name, o.eps));
  const int64_t V = v.shape()[3] + int64_t(o.normalize);
  if (o.g && !(o.g.shape() == Shape{s[0], s[1], s[2]}) && !(o.g.shape() == s))
    throw Error(fmt::format("{}: g is {}, but q {} asks for {}, or {} for one decay a feature", name, o.g.shape().str(), s.str(),
                            Shape{s[0], s[1], s[2]}.str(), s.str()));
  const Shape start{s[0], s[2], s[3], V};
  if (o.initial && !(o.initial.shape() == start))
    throw Error(fmt::format("{}: initial is {}, but {} ask for {}", name, o.initial.shape().str(), shapes, start.str()));
  const DType dtype = promote(promote(q.dtype(), k.dtype()), v.dtype()), state = dtype == DType::f64 ? DType::f64 : DType::f32;
  const auto wide = [&](const Tensor& t) { return t ? cast(t, state) : t; };
  if (o.normalize && v.shape()[3] == 0 && s.numel() > 0) {  // the sums of k alone
    const Shape one{s[0], s[1], s[2], 1};
    const auto sums = attend(name, q, k, ones(one, v.options()), {.g = o.g, .initial = o.initial});
    return {cast(narrow(sums.y, 3, 0, 0), dtype), sums.last_state};
  }
  if (s.numel() == 0 || v.numel() == 0) {  // nothing goes through a state
    const Tensor all = ones({}, {DType::boolean, q.device()});
    return {masked_fill(cast(v, dtype), all, 0), o.initial ? identity(wide(o.initial)) : zeros(start, {state, q.device()})};
  }
  const double scale = o.scale != 0 ? o.scale : 1 / std::sqrt(double(s[3]));
  const auto out =
      record(GatedLinearAttention{scale, o.normalize, o.eps}, cast(q, dtype), cast(k, dtype), cast(v, dtype), wide(o.g), wide(o.initial));
  return {out[0], out[1]};
}

GatedLinearAttentionResult checked(const char* name, const Tensor& q, const Tensor& k, const Tensor& v,
                                   const GatedLinearAttentionOptions& o) {
  for (const Tensor* t : {&q, &k, &v}) check_defined(name, *t);
  if (autocasting())  // g and the states stay as they are: half types do not resolve them
    return under_autocast(
        Precision::low, [&](const Tensor& a, const Tensor& b, const Tensor& c) { return attend(name, a, b, c, o); }, q, k, v);
  return attend(name, q, k, v, o);
}

}  // namespace

GatedLinearAttentionResult gated_linear_attention(const Tensor& q, const Tensor& k, const Tensor& v, const GatedLinearAttentionOptions& o) {
  return checked("gated_linear_attention", q, k, v, o);
}
GatedLinearAttentionResult gated_linear_attention_step(const Tensor& state, const Tensor& q, const Tensor& k, const Tensor& v,
                                                       const GatedLinearAttentionOptions& o) {
  constexpr auto name = "gated_linear_attention_step";
  for (const Tensor* t : {&state, &q, &k, &v}) check_defined(name, *t);
  if (o.initial)
    throw Error(
        fmt::format("{}: got both state {} and initial {}; give the state alone", name, state.shape().str(), o.initial.shape().str()));
  const auto step = [&](const char* what, const Tensor& t, int least, int most) {
    if (t && (t.dim() < least || t.dim() > most))
      throw Error(fmt::format("{}: {} is {}; a step has no dim of time: it must have {} dims", name, what, t.shape().str(),
                              least == most ? "3" : "2 or 3"));
    return t ? unsqueeze(t, 1) : t;
  };
  const Tensor a = step("q", q, 3, 3), b = step("k", k, 3, 3), c = step("v", v, 3, 3), g = step("g", o.g, 2, 3);
  const auto r = checked(name, a, b, c, {.g = g, .scale = o.scale, .initial = state, .normalize = o.normalize, .eps = o.eps});
  return {squeeze(r.y, 1), r.last_state};
}

}  // namespace retape
