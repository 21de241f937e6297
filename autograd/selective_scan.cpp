#include <retape/autograd/selective_scan.h>

#include <retape/autograd/activation.h>
#include <retape/autograd/binary.h>
#include <retape/autograd/linear_recurrence.h>
#include <retape/autograd/normalized.h>
#include <retape/autograd/rearrange.h>
#include <retape/autograd/reduce.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/unary.h>

namespace retape {
namespace {

// Inputs in the order in which the ops take them.
enum In { in_u, in_delta, in_a, in_b, in_c, in_skip, in_z, in_bias, in_initial, inputs };

Tensor dense(const Tensor& x) { return x ? contiguous(x) : x; }
SelectiveScanArgs args_of(const Tensor& u, const Tensor& delta, const Tensor& a, const Tensor& b, const Tensor& c, const Tensor& skip,
                          const Tensor& z, const Tensor& bias, const Tensor& initial, bool softplus) {
  return {dense(u), dense(delta), dense(b), dense(c), dense(z), dense(a), dense(skip), dense(bias), dense(initial), softplus};
}

struct SelectiveScanBackward {
  static constexpr auto name = "selective_scan_backward";
  static constexpr bool expensive = true;
  bool softplus, want_initial;
  // states are for the kernel; the composite makes all of them again.
  std::vector<Tensor> forward(const Tensor& dy, const Tensor& dlast, const Tensor& u, const Tensor& delta, const Tensor& a, const Tensor& b,
                              const Tensor& c, const Tensor& skip, const Tensor& z, const Tensor& bias, const Tensor& initial,
                              const Tensor& states) {
    const SelectiveScanArgs in = args_of(u, delta, a, b, c, skip, z, bias, initial, softplus);
    const auto like = [](const Tensor& x) { return x ? empty(x.shape(), x.options()) : x; };
    SelectiveScanArgs d{
        like(u), like(delta), like(b), like(c), like(z), like(a), like(skip), like(bias), want_initial ? like(initial) : Tensor{}};
    const Tensor grad = contiguous(dy), of_last = dense(dlast);
    RETAPE_DISPATCH(detail::cpu_for_meta(u.device()), selective_scan_backward(in, states, grad, of_last, d));
    return {d.u, d.delta, d.a, d.b, d.c, d.skip, d.z, d.delta_bias, d.initial};
  }
  std::vector<Tensor> composite(const Tensor& dy, const Tensor& dlast, const Tensor& u, const Tensor& delta, const Tensor& a,
                                const Tensor& b, const Tensor& c, const Tensor& skip, const Tensor& z, const Tensor& bias,
                                const Tensor& initial, const Tensor&) {
    const DType state = statistics_of(u).dtype, low = u.dtype();
    const int64_t batch = u.shape()[0], T = u.shape()[1], D = u.shape()[2], G = b.shape()[2], N = a.shape()[1];
    const Shape all{batch, T, D, N}, flat{batch, T, D * N};
    const auto of_channels = [&](const Tensor& x) {  // (B, T, G, N) for each channel, (B, T, D, N)
      return reshape(expand(unsqueeze(cast(x, state), 3), {batch, T, G, D / G, N}), all);
    };
    const auto of_groups = [&](const Tensor& x) { return cast(sum(reshape(x, {batch, T, G, D / G, N}), {3}), low); };
    const auto last_dim = [](const Tensor& x) { return unsqueeze(x, -1); };
    const Tensor in = cast(u, state), raw = bias ? cast(delta, state) + bias : cast(delta, state),
                 dt = softplus ? retape::softplus(raw) : raw;
    const Tensor input = of_channels(b), output = of_channels(c), power = exp(last_dim(dt) * a);
    const Tensor before_first = initial ? initial : zeros({batch, D, N}, {state, u.device()});
    const Tensor h = reshape(linear_recurrence(reshape(power, flat), reshape(last_dim(dt * in) * input, flat),
                                               {.initial = reshape(before_first, {batch, D * N})}),
                             all);
    std::vector<Tensor> d(inputs);
    Tensor g = cast(dy, state);
    if (z) {
      const Tensor gate = cast(z, state), s = sigmoid(gate);
      const Tensor y = sum(output * h, {3}), ungated = skip ? y + skip * in : y;
      d[in_z] = cast(g * ungated * s * (1 + gate * (1 - s)), low);
      g = g * gate * s;
    }
    // Of the states, from the last one on: what C makes of each, and what the next step makes of it.
    const Tensor next = cat({narrow(power, 1, 1, T - 1), zeros_like(narrow(power, 1, 0, 1))}, 1);
    Tensor of_states = last_dim(g) * output;
    if (dlast) of_states = cat({narrow(of_states, 1, 0, T - 1), narrow(of_states, 1, T - 1, 1) + unsqueeze(dlast, 1)}, 1);
    const Tensor dh = reshape(linear_recurrence(reshape(next, flat), reshape(of_states, flat), {.reverse = true}), all);
    const Tensor before = cat({unsqueeze(before_first, 1), narrow(h, 1, 0, T - 1)}, 1), of_power = dh * power * before;
    const Tensor ddtu = sum(dh * input, {3});
    Tensor draw = sum(of_power * a, {3}) + ddtu * in;
    if (softplus) draw = draw * sigmoid(raw);
    d[in_u] = cast(skip ? ddtu * dt + g * skip : ddtu * dt, low);
    d[in_delta] = cast(draw, low);
    d[in_a] = sum(of_power * last_dim(dt), {0, 1});
    d[in_b] = of_groups(dh * last_dim(dt * in)), d[in_c] = of_groups(h * last_dim(g));
    if (skip) d[in_skip] = sum(g * in, {0, 1});
    if (bias) d[in_bias] = sum(draw, {0, 1});
    if (want_initial) d[in_initial] = select(dh * power, 1, 0);
    return d;
  }
};
struct SelectiveScan {
  static constexpr auto name = "selective_scan";
  static constexpr bool expensive = true;
  static constexpr auto precision = Precision::any;
  static constexpr int differentiable = 2;
  bool softplus;
  Saved in[inputs] = {}, states = {};
  std::array<Tensor, 3> forward(const Tensor& u, const Tensor& delta, const Tensor& a, const Tensor& b, const Tensor& c, const Tensor& skip,
                                const Tensor& z, const Tensor& bias, const Tensor& initial) {
    const int64_t batch = u.shape()[0], T = u.shape()[1], D = u.shape()[2], N = a.shape()[1];
    const Options state = statistics_of(u);
    Tensor y = empty(u.shape(), u.options()), last = empty({batch, D, N}, state),
           kept = empty({batch, (T - 1) / recurrence_chunk, N, D}, state);
    RETAPE_DISPATCH(u.device(), selective_scan(args_of(u, delta, a, b, c, skip, z, bias, initial, softplus), y, last, kept));
    const Tensor* const all[] = {&u, &delta, &a, &b, &c, &skip, &z, &bias, &initial};
    for (int i = 0; i < inputs; ++i)
      if (*all[i]) in[i] = save(*all[i]);
    states = save(kept);
    return {y, last, kept};
  }
  void backward(const std::vector<Tensor>& dy, Grads& dx) {
    const auto read = [&](In i) { return in[i] ? *in[i] : Tensor{}; };
    const Tensor u = read(in_u), grad = dy[0] ? dy[0] : zeros_like(u);
    const auto d = record(SelectiveScanBackward{softplus, dx.wants(in_initial)}, grad, dy[1], u, read(in_delta), read(in_a), read(in_b),
                          read(in_c), read(in_skip), read(in_z), read(in_bias), read(in_initial), *states);
    for (int i = 0; i < inputs; ++i)
      if (dx.wants(i)) dx.set(i, d[size_t(i)]);
  }
};

void check_shape(const char* name, const char* what, const Tensor& t, const Shape& wanted, const char* as) {
  if (t && !(t.shape() == wanted))
    throw Error(fmt::format("{}: {} is {}, but its shape must be {}, {}", name, what, t.shape().str(), wanted.str(), as));
}

SelectiveScanResult scan(const char* name, const Tensor& u, const Tensor& delta, const Tensor& a, const Tensor& b, const Tensor& c,
                         const SelectiveScanOptions& o) {
  for (const Tensor* t : {&u, &delta, &a, &b, &c}) check_defined(name, *t);
  check_one_device(name, u, delta, a, b, c, o.D, o.z, o.delta_bias, o.initial);
  struct Named {
    const char* what;
    const Tensor& t;
  };
  for (const auto& [what, t] : std::initializer_list<Named>{{"u", u},
                                                            {"delta", delta},
                                                            {"A", a},
                                                            {"B", b},
                                                            {"C", c},
                                                            {"D", o.D},
                                                            {"z", o.z},
                                                            {"delta_bias", o.delta_bias},
                                                            {"initial", o.initial}})
    if (t && !is_floating(t.dtype()))
      throw Error(fmt::format("{}: {} has dtype {}; it must be floating, use cast()", name, what, name_of(t.dtype())));
  if (u.dim() != 3) throw Error(fmt::format("{}: u is {}; its shape must be (B, T, D)", name, u.shape().str()));
  const int64_t batch = u.shape()[0], T = u.shape()[1], D = u.shape()[2];
  if (a.dim() != 2 || a.shape()[0] != D)
    throw Error(fmt::format("{}: A is {}, but u {} has {} channels; it must be ({}, N)", name, a.shape().str(), u.shape().str(), D, D));
  const int64_t N = a.shape()[1];
  if (b.dim() != 3 && b.dim() != 4)
    throw Error(fmt::format("{}: B is {}; its shape must be (B, T, N) or (B, T, groups, N)", name, b.shape().str()));
  const int64_t G = b.dim() == 3 ? 1 : b.shape()[2];
  if (G < 1 || D % G != 0)
    throw Error(
        fmt::format("{}: B {} has {} groups, which do not divide the {} channels of u {}", name, b.shape().str(), G, D, u.shape().str()));
  const Shape grouped = b.dim() == 3 ? Shape{batch, T, N} : Shape{batch, T, G, N};
  check_shape(name, "B", b, grouped, "by u and A"), check_shape(name, "C", c, grouped, "as B's");
  check_shape(name, "delta", delta, u.shape(), "as u's"), check_shape(name, "z", o.z, u.shape(), "as u's");
  check_shape(name, "D", o.D, {D}, "one number a channel"), check_shape(name, "delta_bias", o.delta_bias, {D}, "one number a channel");
  check_shape(name, "initial", o.initial, {batch, D, N}, "(B, D, N)");
  DType dtype = u.dtype();
  for (const Tensor* t : {&delta, &b, &c, &o.z})
    if (*t) dtype = promote(dtype, t->dtype());
  const DType state = dtype == DType::f64 ? DType::f64 : DType::f32;
  const auto low = [&](const Tensor& t) { return t ? cast(t, dtype) : t; };
  const auto wide = [&](const Tensor& t) { return t ? cast(t, state) : t; };
  const auto with_groups = [&](const Tensor& t) { return reshape(cast(t, dtype), {batch, T, G, N}); };
  if (batch == 0 || T == 0 || D == 0 || N == 0) {  // nothing goes through a state
    const Tensor x = low(u), none = o.D ? x * cast(o.D, dtype) : masked_fill(x, ones({}, {DType::boolean, u.device()}), 0);
    return {o.z ? none * silu(low(o.z)) : none, o.initial ? identity(wide(o.initial)) : zeros({batch, D, N}, {state, u.device()})};
  }
  const auto out = record(SelectiveScan{o.delta_softplus}, low(u), low(delta), wide(a), with_groups(b), with_groups(c), wide(o.D), low(o.z),
                          wide(o.delta_bias), wide(o.initial));
  return {out[0], out[1]};
}

}  // namespace

Tensor selective_scan(const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B, const Tensor& C,
                      const SelectiveScanOptions& o) {
  return scan("selective_scan", u, delta, A, B, C, o).y;
}
SelectiveScanResult selective_scan_with_state(const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B, const Tensor& C,
                                              const SelectiveScanOptions& o) {
  return scan("selective_scan", u, delta, A, B, C, o);
}
SelectiveScanResult selective_scan_step(const Tensor& state, const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B,
                                        const Tensor& C, const SelectiveScanOptions& o) {
  constexpr auto name = "selective_scan_step";
  for (const Tensor* t : {&state, &u, &delta, &A, &B, &C}) check_defined(name, *t);
  if (o.initial)
    throw Error(
        fmt::format("{}: got both state {} and initial {}; give the state alone", name, state.shape().str(), o.initial.shape().str()));
  const auto step = [&](const char* what, const Tensor& t, int most) {
    if (t && (t.dim() < 2 || t.dim() > most))
      throw Error(fmt::format("{}: {} is {}; a step has no dim of time: it must have {} dims", name, what, t.shape().str(),
                              most == 2 ? "2" : "2 or 3"));
    return t ? unsqueeze(t, 1) : t;
  };
  const Tensor x = step("u", u, 2), d = step("delta", delta, 2), b = step("B", B, 3), c = step("C", C, 3);
  SelectiveScanOptions all = o;
  all.z = step("z", o.z, 2), all.initial = state;
  const SelectiveScanResult r = scan(name, x, d, A, b, c, all);
  return {squeeze(r.y, 1), r.last_state};
}

}  // namespace retape
