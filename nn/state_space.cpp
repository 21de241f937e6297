#include <retape/nn/state_space.h>

#include <fmt/format.h>

#include <retape/autograd/binary.h>
#include <retape/autograd/fft.h>
#include <retape/autograd/linear_recurrence.h>
#include <retape/autograd/matmul.h>
#include <retape/autograd/rearrange.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/unary.h>
#include <retape/autograd/views.h>
#include <retape/nn/causal.h>

namespace retape::nn {
namespace {

// The smallest size from n on that has no prime factors but those which transforms take directly.
int64_t fast_size(int64_t n) {
  for (;; ++n) {
    int64_t rest = n;
    for (const int64_t prime : {2, 3, 5, 7})
      while (rest % prime == 0) rest /= prime;
    if (rest == 1) return n;
  }
}

}  // namespace

Tensor long_conv(const Tensor& x, const Tensor& kernel) {
  detail::check_sequence("long_conv", x, -1);
  const int64_t T = x.size(1), C = x.size(2);
  if (!(kernel.shape() == Shape{C, T}))
    throw Error(fmt::format("long_conv: kernel is {}, but x {} asks for {}", kernel.shape().str(), x.shape().str(), Shape{C, T}.str()));
  if (x.numel() == 0) return x;
  const int64_t n = fast_size(2 * T - 1);
  const Tensor wide = detail::widened(x), k = cast(kernel, wide.dtype());
  const Tensor y = irfft(complex_mul(rfft(wide, n, 1), rfft(transpose(k, 0, 1), n, 0)), n, 1);
  return cast(narrow(y, 1, 0, T), x.dtype());
}

namespace detail {

Tensor wide(const Tensor& x) { return cast(x, DType::f64); }
Parameter filled(const Tensor& values) {
  Parameter p = empty_parameter(values.shape());
  const NoGrad off;
  copy_into(values, p);
  return p;
}

ComplexParts parts_of(const Tensor& pairs) { return {select(pairs, -1, 0), select(pairs, -1, 1)}; }
Tensor pairs_of(const ComplexParts& z) {
  const auto both = broadcast_tensors({z.re, z.im});
  return stack(both, -1);
}
ComplexParts operator+(const ComplexParts& a, const ComplexParts& b) { return {a.re + b.re, a.im + b.im}; }
ComplexParts operator-(const ComplexParts& a, const ComplexParts& b) { return {a.re - b.re, a.im - b.im}; }
ComplexParts operator*(const ComplexParts& a, const ComplexParts& b) { return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re}; }
ComplexParts operator*(const ComplexParts& a, const Tensor& b) { return {a.re * b, a.im * b}; }
ComplexParts operator/(const ComplexParts& a, const ComplexParts& b) {
  const Tensor size = square(b.re) + square(b.im);
  return {(a.re * b.re + a.im * b.im) / size, (a.im * b.re - a.re * b.im) / size};
}
ComplexParts conj(const ComplexParts& z) { return {z.re, -z.im}; }
ComplexParts exp(const ComplexParts& z) {
  const Tensor size = retape::exp(z.re);
  return {size * cos(z.im), size * sin(z.im)};
}

DiscreteStep discretize(const ComplexParts& A, const Tensor& dt, Discretization how) {
  const ComplexParts step = A * dt;
  if (how == Discretization::zoh) {
    const ComplexParts factor = exp(step);
    return {step, ComplexParts{factor.re - 1, factor.im} / A};
  }
  const ComplexParts half = step * full({}, 0.5, dt.options()), below{1 - half.re, -half.im},
                     factor = ComplexParts{1 + half.re, half.im} / below;
  return {{0.5 * log(square(factor.re) + square(factor.im)), atan2(factor.im, factor.re)},
          ComplexParts{dt, zeros({}, dt.options())} / below};
}

Tensor diagonal_scan(const Tensor& x, const Tensor& factor, const ComplexParts& B, const ComplexParts& C, Tensor* state) {
  const int64_t batch = x.size(0), T = x.size(1), H = x.size(2), P = factor.size(0);
  // Real and imaginary parts lie side by side, so each product of complex and real matrices is one of real ones.
  const Tensor into = cast(reshape(stack({B.re, B.im}, 1), {2 * P, H}), x.dtype()),
               out = cast(reshape(stack({C.re, -C.im}, 2), {H, 2 * P}), x.dtype());
  const Tensor in = linear(x, into), b = reshape(widened(in), {batch, T, P, 2});
  const Tensor h = linear_recurrence(cast(factor, b.dtype()), b, {.initial = state ? *state : Tensor{}, .complex = true});
  if (state) *state = clone(select(h, 1, T - 1));
  return linear(cast(reshape(h, {batch, T, 2 * P}), in.dtype()), out);
}

void check_radius(const char* layer, const Tensor& factors) {
  const double radius = recurrence_radius(factors, true).item();
  if (!(radius < 1))
    throw Error(fmt::format(
        "{}: a step multiplies a state by up to {}, and nothing is forgotten; all factors must lie inside the unit circle", layer, radius));
}

}  // namespace detail

}  // namespace retape::nn
