#include <retape/nn/s4.h>

#include <fmt/format.h>

#include <cmath>
#include <numbers>

#include <retape/autograd/activation.h>
#include <retape/autograd/dplr_kernel.h>
#include <retape/autograd/linear_recurrence.h>
#include <retape/autograd/matmul.h>
#include <retape/autograd/rearrange.h>
#include <retape/autograd/reduce.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/unary.h>
#include <retape/autograd/views.h>
#include <retape/nn/causal.h>
#include <retape/nn/hippo.h>
#include <retape/nn/init.h>

namespace retape::nn {

using namespace detail;

namespace {

static_assert(SequenceMixer<S4D> && SequenceMixer<S4>);
constexpr double pi = std::numbers::pi;

int64_t pairs(const char* layer, int64_t d_model, int64_t d_state) {
  check_positive(layer, "d_model", d_model);
  if (d_state <= 0 || d_state % 2) throw Error(fmt::format("{}: d_state is {}; it must be even, and above 0", layer, d_state));
  return d_state / 2;
}
Parameter log_steps(const char* layer, int64_t channels, double min, double max) {
  if (!(min > 0 && max >= min))
    throw Error(fmt::format("{}: dt_min {} and dt_max {} do not fit; 0 < dt_min <= dt_max would be right", layer, min, max));
  Parameter p = empty_parameter({channels});
  init::uniform(p, std::log(min), std::log(max));
  return p;
}
// Real and imaginary parts have variance 1/2 each, as PyTorch's complex normal numbers.
Parameter complex_normal(int64_t channels, int64_t n) {
  Parameter p = empty_parameter({channels, n, 2});
  init::normal(p, 0, std::sqrt(0.5));
  return p;
}
ComplexParts diagonal(const Tensor& log_A_real, const Tensor& A_imag) { return {-retape::exp(wide(log_A_real)), wide(A_imag)}; }
S4Options common(const S4DOptions& o) {
  return {.d_state = o.d_state, .dt_min = o.dt_min, .dt_max = o.dt_max, .dropout = o.dropout, .output_linear = o.output_linear};
}

}  // namespace

S4Base::S4Base(const char* name, int64_t dim, const S4Options& o)
    : d_model(dim), d_state(2 * pairs(name, dim, o.d_state)), D(empty_parameter({dim})), dropout(o.dropout), name_(name) {
  init::normal(D);
  if (o.output_linear) output_linear.emplace_back(dim, 2 * dim, ConvOptions{.kernel_size = 1});
}
void S4Base::check(const Tensor& x, const State* state) const {
  check_sequence(name_, x, d_model, state != nullptr);
  if (state) check_state(name_, "h", state->h, {x.size(0), d_model, d_state / 2, 2});
}
Tensor S4Base::finish(const Tensor& states, const Tensor& u) const {
  const Tensor y = cast(states, u.dtype()) + u * D;
  if (output_linear.empty()) return y;
  // A kernel of one position is a projection.
  const Tensor open = gelu(y), kept = is_training() && dropout.p > 0 ? transpose(dropout(transpose(open, 1, 2)), 1, 2) : open;
  return glu(linear(kept, squeeze(output_linear[0].weight, 2), output_linear[0].bias), -1);
}

// ---- S4D --------------------------------------------------------------------------------------------------------------

S4D::S4D(int64_t dim, const S4DOptions& o) : S4Base("S4D", dim, common(o)) {
  const int64_t n = d_state / 2;
  std::vector<double> real, imag;
  for (int64_t i = 0; i < n; ++i) {
    real.push_back(o.init == S4DInit::real ? std::log(double(i + 1)) : std::log(0.5));
    const double inverse = double(d_state) / pi * (double(d_state) / double(2 * i + 1) - 1);
    imag.push_back(o.init == S4DInit::lin ? pi * double(i) : o.init == S4DInit::inv ? inverse : 0);
  }
  kernel.discretization = o.discretization;
  kernel.log_dt = log_steps("S4D", dim, o.dt_min, o.dt_max);
  kernel.C = complex_normal(dim, n);
  kernel.log_A_real = filled(expand(tensor(real, {n}), {dim, n}));
  kernel.A_imag = filled(expand(tensor(imag, {n}), {dim, n}));
}

std::pair<ComplexParts, ComplexParts> S4D::Kernel::step() const {
  const DiscreteStep s = discretize(diagonal(log_A_real, A_imag), retape::exp(unsqueeze(wide(log_dt), 1)), discretization);
  return {s.log_factor, parts_of(wide(C)) * s.input};
}

Tensor S4D::Kernel::forward(int64_t length) const {
  const auto [log_factor, output] = step();
  const int64_t near = std::max<int64_t>(1, int64_t(std::ceil(std::sqrt(double(length))))), far = (length + near - 1) / near;
  const auto powers = [&, factor = log_factor](int64_t count, int64_t stride) {  // (d_model, pairs, count)
    const Tensor steps = arange(count, {.dtype = DType::f64, .device = C->device()}) * double(stride);
    return exp(ComplexParts{unsqueeze(factor.re, 2), unsqueeze(factor.im, 2)} * steps);
  };
  const ComplexParts a = powers(far, near) * ComplexParts{unsqueeze(output.re, 2), unsqueeze(output.im, 2)}, b = powers(near, 1);
  const Tensor all = 2 * matmul(transpose(cat({a.re, -a.im}, 1)), cat({b.re, b.im}, 1));
  return narrow(reshape(all, {all.size(0), far * near}), 1, 0, length);
}

Tensor S4D::forward(const Tensor& x) const {
  check(x, nullptr);
  if (x.numel() == 0) return x;
  return finish(long_conv(widened(x), kernel.forward(x.size(1))), x);
}

Tensor S4D::step(const Tensor& x, State& state) const {
  const ModuleScope scope(*this);
  check(x, &state);
  const int64_t batch = x.size(0), n = d_state / 2;
  const Tensor u = widened(x);
  const auto [log_factor, output] = kernel.step();
  const Tensor factor = cast(reshape(pairs_of(exp(log_factor)), {d_model * n, 2}), u.dtype()),
               of_states = cast(2 * reshape(pairs_of(conj(output)), {d_model, d_state}), u.dtype());
  Tensor h = state.h ? reshape(cast(state.h, u.dtype()), {batch, d_model * n, 2}) : Tensor{};
  std::vector<Tensor> ys;
  for (const Tensor& part : split(u, 64, 1)) {  // so that no more than the states of 64 positions are there at once
    const int64_t T = part.size(1);
    const Tensor in = pairs_of({expand(unsqueeze(part, 3), {batch, T, d_model, n}), zeros({}, part.options())});
    const Tensor all = linear_recurrence(factor, reshape(in, {batch, T, d_model * n, 2}), {.initial = h, .complex = true});
    ys.push_back(sum(reshape(all, {batch, T, d_model, d_state}) * of_states, {3}));
    h = select(all, 1, T - 1);
  }
  const Tensor y = finish(cat(ys, 1), x);
  state.h = retape::clone(reshape(h, {batch, d_model, n, 2}));
  return y;
}

void S4D::check_stable() const {
  const NoGrad off;
  check_radius("S4D", pairs_of(exp(kernel.step().first)));
}

// ---- S4 ---------------------------------------------------------------------------------------------------------------

namespace {

// What takes a state one position on: with R = 2 / dt, M = R - A + P P^* and E = 1 / (R - A), M^-1 (2 R - M) is diagonal less rank one, since
// M^-1 = E - E P P^* E / (1 + P^* E P). States are pairs of conjugates, of which one is there, so that sums over all are twice the real part. All
// (d_model, pairs): x' = factor x - p 2 Re(q x) + input u, y = 2 Re(C x).
struct LowRankStep {
  ComplexParts factor, p, q, input, C;

  explicit LowRankStep(const S4::Kernel& k) {
    const ComplexParts A = diagonal(k.log_A_real, k.A_imag), P = parts_of(wide(k.P)), B = parts_of(wide(k.B));
    const Tensor rate = 2 * retape::exp(-unsqueeze(wide(k.log_dt), 1)), one = ones({}, rate.options());
    const ComplexParts E = ComplexParts{one, 0 * one} / ComplexParts{rate - A.re, -A.im}, EP = E * P;
    C = parts_of(wide(k.C)), q = conj(P) * E;
    const Tensor correction = 1 / (1 + sum_with(q, P));
    factor = ComplexParts{rate + A.re, A.im} * E;
    p = EP * (2 * rate * correction);
    input = (E * B - EP * (correction * sum_with(q, B))) * full({}, 2, rate.options());
  }
  // 2 Re(sum of a b), (..., d_model, 1)
  static Tensor sum_with(const ComplexParts& a, const ComplexParts& b) { return 2 * sum(a.re * b.re - a.im * b.im, {-1}, true); }
  LowRankStep in(DType dtype) const {
    LowRankStep s = *this;
    for (ComplexParts* z : {&s.factor, &s.p, &s.q, &s.input, &s.C}) z->re = cast(z->re, dtype), z->im = cast(z->im, dtype);
    return s;
  }
};

}  // namespace

S4::S4(int64_t dim, const S4Options& o) : S4Base("S4", dim, o) {
  const int64_t n = d_state / 2;
  const HippoPairs legs = hippo_pairs(d_state);
  std::vector<double> real, imag;
  for (const double v : select(legs.A, 1, 0).to_vector<double>()) real.push_back(std::log(-v));
  kernel.log_dt = log_steps("S4", dim, o.dt_min, o.dt_max);
  kernel.C = complex_normal(dim, n);
  kernel.B = filled(expand(legs.B, {dim, n, 2})), kernel.P = filled(expand(legs.P, {dim, n, 2}));
  kernel.log_A_real = filled(expand(tensor(real, {n}), {dim, n})), kernel.A_imag = filled(expand(select(legs.A, 1, 1), {dim, n}));
}

Tensor S4::Kernel::forward(int64_t length) const {
  const LowRankStep s(*this);
  return dplr_kernel(pairs_of(s.factor), pairs_of(s.p), pairs_of(s.q), pairs_of(s.input), pairs_of(s.C), length);
}

Tensor S4::forward(const Tensor& x) const {
  check(x, nullptr);
  if (x.numel() == 0) return x;
  return finish(long_conv(widened(x), kernel.forward(x.size(1))), x);
}

Tensor S4::step(const Tensor& x, State& state) const {
  const ModuleScope scope(*this);
  check(x, &state);
  const Tensor u = widened(x);
  const LowRankStep s = LowRankStep(kernel).in(u.dtype());
  ComplexParts h = parts_of(state.h ? cast(state.h, u.dtype()) : zeros({x.size(0), d_model, d_state / 2, 2}, u.options()));
  std::vector<Tensor> ys;
  for (const Tensor& position : unbind(u, 1)) {
    h = s.factor * h - s.p * s.sum_with(s.q, h) + s.input * unsqueeze(position, -1);
    ys.push_back(squeeze(s.sum_with(s.C, h), -1));
  }
  const Tensor y = finish(stack(ys, 1), x);
  state.h = pairs_of(h);
  return y;
}

}  // namespace retape::nn
