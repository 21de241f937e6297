#include <retape/nn/s5.h>

#include <fmt/format.h>

#include <cmath>
#include <limits>

#include <retape/autograd/matmul.h>
#include <retape/autograd/rearrange.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/unary.h>
#include <retape/autograd/views.h>
#include <retape/nn/causal.h>
#include <retape/nn/hippo.h>
#include <retape/nn/init.h>

namespace retape::nn {

using namespace detail;

namespace {

static_assert(SequenceMixer<S5> && SequenceMixer<LRU>);

// Flax's lecun_normal: a truncated normal whose variance, once truncated, is 1 / fan_in.
Tensor lecun_normal(const Shape& shape, int64_t fan_in, const Options& options) {
  const double std = 1 / std::sqrt(double(fan_in)) / 0.87962566103423978;
  Tensor x = empty(shape, options);
  init::trunc_normal(x, 0, std, -2 * std, 2 * std);
  return x;
}

}  // namespace

S5::S5(int64_t dim, const S5Options& o) : options(o), d_model(dim) {
  check_positive("S5", "d_model", dim), check_positive("S5", "ssm_size", o.ssm_size), check_positive("S5", "blocks", o.blocks);
  if (o.ssm_size % (2 * o.blocks))
    throw Error(fmt::format("S5: ssm_size {} does not divide into {} blocks of even size; a multiple of {} would", o.ssm_size, o.blocks,
                            2 * o.blocks));
  if (!(o.dt_min > 0 && o.dt_max >= o.dt_min))
    throw Error(fmt::format("S5: dt_min {} and dt_max {} do not fit; 0 < dt_min <= dt_max would be right", o.dt_min, o.dt_max));
  const NoGrad off;
  const int64_t N = o.ssm_size, J = o.blocks, n = N / J;
  const Options draws{.dtype = DType::f64, .device = DefaultOptions::current.device};
  const HippoPairs pairs = hippo_pairs(n);
  ComplexParts a = parts_of(retape::to(pairs.A, draws.device)), v = parts_of(retape::to(pairs.V, draws.device));  // (n / 2), (n, n / 2)
  if (!o.conj_sym) a = {cat({a.re, a.re}), cat({a.im, -a.im})}, v = {cat({v.re, v.re}, 1), cat({v.im, -v.im}, 1)};
  const int64_t p = a.re.size(0), P = J * p;
  Lambda_re = filled(repeat(a.re, {J})), Lambda_im = filled(repeat(a.im, {J}));
  // B and C are drawn for HiPPO's own coordinates: V^* B and C V.
  const Tensor b = reshape(lecun_normal({N, dim}, N, draws), {J, n, dim});
  B = filled(reshape(pairs_of({matmul(transpose(v.re), b), -matmul(transpose(v.im), b)}), {P, dim, 2}));
  if (o.C_init == S5CInit::complex_normal) {
    C = empty_parameter({dim, P, 2});
    init::normal(C, 0, std::sqrt(0.5));
  } else {
    const Tensor drawn = lecun_normal({dim, N, 2}, o.C_init == S5CInit::lecun_normal ? dim * N : N, draws);
    const ComplexParts c = parts_of(reshape(drawn, {dim, J, n, 2}));
    C = filled(reshape(pairs_of({matmul(c.re, v.re) - matmul(c.im, v.im), matmul(c.re, v.im) + matmul(c.im, v.re)}), {dim, P, 2}));
  }
  D = empty_parameter({dim}), log_step = empty_parameter({P, 1});
  init::normal(D);
  init::uniform(log_step, std::log(o.dt_min), std::log(o.dt_max));
}

DiscreteStep S5::discrete() const {
  const Tensor re = options.clip_eigs ? clamp(wide(Lambda_re), -std::numeric_limits<double>::infinity(), -1e-4) : wide(Lambda_re);
  return discretize({re, wide(Lambda_im)}, options.step_rescale * exp(squeeze(wide(log_step), 1)), options.discretization);
}

Tensor S5::forward(const Tensor& x) const { return run(x, nullptr); }
Tensor S5::step(const Tensor& x, State& state) const {
  const ModuleScope scope(*this);
  return run(x, &state);
}

Tensor S5::run(const Tensor& x, State* state) const {
  check_sequence("S5", x, d_model, state != nullptr);
  Tensor h = state ? state->h : Tensor{};
  check_state("S5", "h", h, {x.size(0), Lambda_re->size(0), 2});
  const DiscreteStep s = discrete();
  const ComplexParts input = parts_of(wide(B)) * ComplexParts{unsqueeze(s.input.re, 1), unsqueeze(s.input.im, 1)};
  const ComplexParts output = parts_of(options.conj_sym ? 2 * wide(C) : wide(C));
  const Tensor y = diagonal_scan(x, pairs_of(exp(s.log_factor)), input, output, state ? &h : nullptr) + x * D;
  if (state) state->h = h;
  return y;
}

void S5::check_stable() const {
  const NoGrad off;
  check_radius("S5", pairs_of(exp(discrete().log_factor)));
}

LRU::LRU(int64_t dim, const LRUOptions& o) : d_model(dim), d_state(o.d_state) {
  check_positive("LRU", "d_model", dim), check_positive("LRU", "d_state", d_state);
  if (!(o.r_min >= 0 && o.r_max > o.r_min && o.r_max <= 1))
    throw Error(fmt::format("LRU: r_min {} and r_max {} do not fit; 0 <= r_min < r_max <= 1 would be right", o.r_min, o.r_max));
  if (!(o.max_phase > 0)) throw Error(fmt::format("LRU: max_phase is {}; it must be above 0", o.max_phase));
  const NoGrad off;
  const Options draws{.dtype = DType::f64, .device = DefaultOptions::current.device};
  // Not the ends, where logarithms are infinite.
  const auto share = [&] { return clamp(uniform({d_state}, 0, 1, draws), 1e-7, 1 - 1e-7); };
  const Tensor nu = -0.5 * log(share() * (o.r_max * o.r_max - o.r_min * o.r_min) + o.r_min * o.r_min);
  nu_log = filled(log(nu)), theta_log = filled(log(o.max_phase * share()));
  gamma_log = filled(0.5 * log(-expm1(-2 * nu)));
  for (Parameter* p : {&B_re, &B_im}) *p = empty_parameter({d_state, dim}), init::normal(*p, 0, 1 / std::sqrt(2 * double(dim)));
  for (Parameter* p : {&C_re, &C_im}) *p = empty_parameter({dim, d_state}), init::normal(*p, 0, 1 / std::sqrt(double(d_state)));
  D = empty_parameter({dim});
  init::normal(D);
}

Tensor LRU::factor() const { return pairs_of(exp(ComplexParts{-exp(wide(nu_log)), exp(wide(theta_log))})); }

Tensor LRU::forward(const Tensor& x) const { return run(x, nullptr); }
Tensor LRU::step(const Tensor& x, State& state) const {
  const ModuleScope scope(*this);
  return run(x, &state);
}

Tensor LRU::run(const Tensor& x, State* state) const {
  check_sequence("LRU", x, d_model, state != nullptr);
  Tensor h = state ? state->h : Tensor{};
  check_state("LRU", "h", h, {x.size(0), d_state, 2});
  const Tensor gamma = unsqueeze(exp(widened(gamma_log)), 1);
  const Tensor y = diagonal_scan(x, factor(), ComplexParts{B_re, B_im} * gamma, {C_re, C_im}, state ? &h : nullptr) + x * D;
  if (state) state->h = h;
  return y;
}

void LRU::check_stable() const {
  const NoGrad off;
  check_radius("LRU", factor());
}

}  // namespace retape::nn
