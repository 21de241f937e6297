#include <retape/autograd/wkv.h>

#include <retape/autograd/binary.h>
#include <retape/autograd/linear_recurrence.h>
#include <retape/autograd/normalized.h>
#include <retape/autograd/rearrange.h>
#include <retape/autograd/reduce.h>
#include <retape/autograd/scan.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/unary.h>

namespace retape {
namespace {

// Inputs in the order in which the ops take them.
enum In { in_decay, in_first, in_k, in_v, in_numerator, in_denominator, in_exponent, inputs };

Tensor dense(const Tensor& x) { return x ? contiguous(x) : x; }
WkvArgs args_of(const Tensor& decay, const Tensor& first, const Tensor& k, const Tensor& v, const Tensor& numerator,
                const Tensor& denominator, const Tensor& exponent) {
  return {dense(k), dense(v), dense(decay), dense(first), dense(numerator), dense(denominator), dense(exponent)};
}

struct WkvBackward {
  static constexpr auto name = "wkv_backward";
  static constexpr bool expensive = true;
  bool want_initial;
  // kept is for the kernel; the composite makes all states again.
  std::array<Tensor, 6> forward(const Tensor& dy, const Tensor& dnumerator, const Tensor& ddenominator, const Tensor& decay,
                                const Tensor& first, const Tensor& k, const Tensor& v, const Tensor& numerator, const Tensor& denominator,
                                const Tensor& exponent, const Tensor& kept) {
    const auto like = [](const Tensor& x) { return empty(x.shape(), x.options()); };
    WkvArgs d{
        like(k), like(v), like(decay), like(first), want_initial ? like(numerator) : Tensor{}, want_initial ? like(denominator) : Tensor{},
        {}};
    const Tensor grad = contiguous(dy), of_numerator = dense(dnumerator), of_denominator = dense(ddenominator), states = contiguous(kept);
    RETAPE_DISPATCH(k.device(), wkv_backward(args_of(decay, first, k, v, numerator, denominator, exponent), states, grad, of_numerator,
                                             of_denominator, d));
    return {d.decay, d.first, d.k, d.v, d.numerator, d.denominator};
  }
  // Exponents, those of states and those that the outputs are computed at, cancel: they are constants that keep numbers small.
  std::array<Tensor, 6> composite(const Tensor& dy, const Tensor& dnumerator, const Tensor& ddenominator, const Tensor& decay,
                                  const Tensor& first, const Tensor& key, const Tensor& value, const Tensor& numerator,
                                  const Tensor& denominator, const Tensor& exponent, const Tensor&) {
    const Options state = statistics_of(key);
    const DType low = key.dtype();
    const int64_t T = key.shape()[1];
    const Shape row{key.shape()[0], key.shape()[2]};
    const Tensor k = cast(key, state.dtype), v = cast(value, state.dtype), g = cast(dy, state.dtype);
    const Tensor start_n = numerator ? numerator : zeros(row, state), start_d = denominator ? denominator : zeros(row, state);
    Tensor before, after, top;  // exponents of the states before and after each step, and of its output
    {
      const NoGrad off;
      const Tensor fading = unsqueeze(arange(T + 1, state), 1) * decay, from = exponent ? exponent : full(row, -1e38, state);
      const Tensor all = cummax(cat({unsqueeze(from, 1), k - narrow(fading, 0, 1, T)}, 1), 1).values + fading;
      before = narrow(all, 1, 0, T), after = narrow(all, 1, 1, T), top = maximum(before, first + k);
    }
    const Tensor stays = exp(before + decay - after), enters = exp(k - after);
    const auto states = [&](const Tensor& b, const Tensor& start) {  // before each step
      return cat({unsqueeze(start, 1), narrow(linear_recurrence(stays, b, {.initial = start}), 1, 0, T - 1)}, 1);
    };
    const Tensor n = states(enters * v, start_n), d = states(enters, start_d);
    const Tensor old = exp(before - top), present = exp(first + k - top), sum_of = old * d + present, y = (old * n + present * v) / sum_of;
    const Tensor share = g / sum_of, of_first = share * present * (v - y);
    // Of the states before each step, and of those after it.
    const auto adjoint = [&](const Tensor& b, const Tensor& last) {
      const Tensor end = last ? last : zeros(row, state), h = linear_recurrence(stays, b, {.initial = end, .reverse = true});
      return std::pair{h, cat({narrow(h, 1, 1, T - 1), unsqueeze(end, 1)}, 1)};
    };
    const auto [before_n, after_n] = adjoint(share * old, dnumerator);
    const auto [before_d, after_d] = adjoint(-share * old * y, ddenominator);
    return {sum(stays * (after_n * n + after_d * d), {0, 1}),       sum(of_first, {0, 1}),
            cast(of_first + enters * (after_n * v + after_d), low), cast(share * present + enters * after_n, low),
            want_initial ? select(before_n, 1, 0) : Tensor{},       want_initial ? select(before_d, 1, 0) : Tensor{}};
  }
};
struct Wkv {
  static constexpr auto name = "wkv";
  static constexpr bool expensive = true;
  static constexpr auto precision = Precision::any;
  static constexpr int differentiable = 3;
  Saved in[inputs] = {}, kept = {};
  std::array<Tensor, 5> forward(const Tensor& decay, const Tensor& first, const Tensor& k, const Tensor& v, const Tensor& numerator,
                                const Tensor& denominator, const Tensor& exponent) {
    const int64_t batch = k.shape()[0], T = k.shape()[1], C = k.shape()[2];
    const Options state = statistics_of(k);
    Tensor y = empty(k.shape(), k.options()), n = empty({batch, C}, state), d = empty({batch, C}, state), e = empty({batch, C}, state),
           states = empty({batch, (T - 1) / recurrence_chunk, 3, C}, state);
    RETAPE_DISPATCH(k.device(), wkv(args_of(decay, first, k, v, numerator, denominator, exponent), y, n, d, e, states));
    const Tensor* const all[] = {&decay, &first, &k, &v, &numerator, &denominator, &exponent};
    for (int i = 0; i < inputs; ++i)
      if (*all[i]) in[i] = save(*all[i]);
    kept = save(states);
    return {y, n, d, e, states};
  }
  void backward(const std::vector<Tensor>& dy, Grads& dx) {
    const auto read = [&](In i) { return in[i] ? *in[i] : Tensor{}; };
    const Tensor k = read(in_k), grad = dy[0] ? dy[0] : zeros_like(k);
    const bool want_initial = dx.wants(in_numerator) || dx.wants(in_denominator);
    const auto d = record(WkvBackward{want_initial}, grad, dy[1], dy[2], read(in_decay), read(in_first), k, read(in_v), read(in_numerator),
                          read(in_denominator), read(in_exponent), *kept);
    for (int i = 0; i < in_exponent; ++i)
      if (dx.wants(i)) dx.set(i, d[size_t(i)]);
    if (dx.wants(in_exponent)) dx.none(in_exponent);
  }
};

constexpr auto op = "wkv";

}  // namespace

WkvResult wkv(const Tensor& decay, const Tensor& first, const Tensor& k, const Tensor& v, const WkvState& initial) {
  struct Named {
    const char* what;
    const Tensor& t;
  };
  const Named all[] = {{"decay", decay},
                       {"first", first},
                       {"k", k},
                       {"v", v},
                       {"the initial numerator", initial.numerator},
                       {"the initial denominator", initial.denominator},
                       {"the initial exponent", initial.exponent}};
  for (const Tensor* t : {&decay, &first, &k, &v}) check_defined(op, *t);
  check_one_device(op, k, decay, first, v, initial.numerator, initial.denominator, initial.exponent);
  if (k.dim() != 3) throw Error(fmt::format("{}: k is {}; its shape must be (B, T, C)", op, k.shape().str()));
  const Shape row{k.shape()[0], k.shape()[2]}, channels{k.shape()[2]};
  for (const auto& [what, t] : all) {
    if (!t) continue;
    if (!is_floating(t.dtype()))
      throw Error(fmt::format("{}: {} has dtype {}; it must be floating, use cast()", op, what, name_of(t.dtype())));
    const Shape wanted = &t == &decay || &t == &first ? channels : &t == &k || &t == &v ? k.shape() : row;
    if (!(t.shape() == wanted))
      throw Error(fmt::format("{}: {} is {}, but k {} asks for {}", op, what, t.shape().str(), k.shape().str(), wanted.str()));
  }
  if (bool(initial.numerator) != bool(initial.denominator) || bool(initial.numerator) != bool(initial.exponent))
    throw Error(fmt::format("{}: a part of the initial state is undefined; give all three, or none", op));
  const DType dtype = promote(k.dtype(), v.dtype());
  const Options state{.dtype = dtype == DType::f64 ? DType::f64 : DType::f32, .device = k.device()};
  const auto wide = [&](const Tensor& t) { return t ? cast(t, state.dtype) : t; };
  if (k.numel() == 0) {
    const bool begun(initial.numerator);
    return {cast(k + v, dtype),
            {begun ? identity(wide(initial.numerator)) : zeros(row, state), begun ? identity(wide(initial.denominator)) : zeros(row, state),
             begun ? wide(initial.exponent) : full(row, -1e38, state)}};
  }
  const auto out = record(Wkv{}, wide(decay), wide(first), cast(k, dtype), cast(v, dtype), wide(initial.numerator),
                          wide(initial.denominator), wide(initial.exponent));
  return {out[0], {out[1], out[2], out[3]}};
}

}  // namespace retape
