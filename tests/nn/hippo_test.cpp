// States that follow HiPPO's equations reconstruct the signal that they have seen.
#include <retape/retape.h>

#include "../catch.h"

#include <cmath>

using namespace retape;
using namespace retape::testing;
using nn::HippoMeasure;

namespace {

struct Signal {
  double speed = 1;
  double operator()(double t) const { return std::sin(3 * speed * t) + 0.5 * std::cos(7 * speed * t + 1); }
};

// The state at time `end` of x' = (A x + B u) / (t or 1), by the trapezoidal rule in `steps` steps.
Tensor state_at(HippoMeasure measure, int64_t size, double end, int64_t steps, const Signal& signal) {
  const nn::Hippo h = nn::hippo(measure, size);
  const Tensor identity = eye(size, {.dtype = DType::f64});
  const double dt = end / double(steps);
  const bool scaled = measure == HippoMeasure::legs;
  Tensor x = zeros({size}, {DType::f64}), from, to;
  for (int64_t i = 0; i < steps; ++i) {
    const double t0 = dt * double(i), t1 = t0 + dt, r0 = scaled ? (i ? 1 / t0 : 0) : 1, r1 = scaled ? 1 / t1 : 1;
    if (scaled || i == 0) {  // otherwise the matrices stay
      to = inverse(identity - h.A * (dt / 2 * r1));
      from = matmul(to, identity + h.A * (dt / 2 * r0));
    }
    const double u = i || !scaled ? signal(t0) * r0 + signal(t1) * r1 : signal(t1) * r1;
    x = matmul(from, x) + matmul(to, h.B) * (dt / 2 * u);
  }
  return x;
}
double worst(HippoMeasure measure, int64_t size, double end, int64_t steps, double from, double to, const Signal& signal = {}) {
  const Tensor x = state_at(measure, size, end, steps, signal), ages = linspace(from, to, 50, {.dtype = DType::f64});
  const auto said = matmul(nn::hippo_basis(measure, size, ages), x).to_vector<double>(), s = ages.to_vector<double>();
  double largest = 0;
  for (size_t i = 0; i < s.size(); ++i) {
    const double age = measure == HippoMeasure::legs ? s[i] * end : s[i];
    largest = std::max(largest, std::abs(said[i] - signal(end - age)));
  }
  return largest;
}

}  // namespace

TEST_CASE("a state reconstructs the signal that it has seen", "[hippo]") {
  CHECK(worst(HippoMeasure::legt, 12, 3, 3000, 0, 1) < 0.02);
  CHECK(worst(HippoMeasure::legs, 32, 4, 2000, 0.02, 0.98) < 0.05);
  CHECK(worst(HippoMeasure::lagt, 96, 12, 3000, 0.1, 2, {.speed = 0.3}) < 0.02);
  CHECK(worst(HippoMeasure::fourier, 65, 3, 3000, 0.1, 0.9) < 0.1);
  // A larger state says more.
  CHECK(worst(HippoMeasure::legt, 12, 3, 3000, 0, 1) < worst(HippoMeasure::legt, 6, 3, 3000, 0, 1) / 5);
}

TEST_CASE("HiPPO matrices are those that are published", "[hippo]") {
  const double r3 = std::sqrt(3.0), r5 = std::sqrt(5.0), r15 = std::sqrt(15.0), r2 = std::sqrt(2.0), pi = std::acos(-1);
  const auto is = [](const Tensor& x, const std::vector<double>& expected) {
    const auto v = x.to_vector<double>();
    if (v.size() != expected.size()) return false;
    for (size_t i = 0; i < v.size(); ++i)
      if (std::abs(v[i] - expected[i]) > 1e-12) return false;
    return true;
  };
  const nn::Hippo legs = nn::hippo(HippoMeasure::legs, 3), legt = nn::hippo(HippoMeasure::legt, 3), lagt = nn::hippo(HippoMeasure::lagt, 2),
                  fourier = nn::hippo(HippoMeasure::fourier, 3);
  CHECK(is(legs.A, {-1, 0, 0, -r3, -2, 0, -r5, -r15, -3}));
  CHECK(is(legs.B, {1, r3, r5}));
  CHECK(is(legt.A, {-1, r3, -r5, -r3, -3, r15, -r5, -r15, -5}));
  CHECK(is(legt.B, {1, r3, r5}));
  CHECK(is(lagt.A, {-0.5, 0, -1, -0.5}));
  CHECK(is(lagt.B, {1, 1}));
  CHECK(is(fourier.A, {-2, -2 * r2, 0, -2 * r2, -4, -2 * pi, 0, 2 * pi, 0}));
  CHECK(is(fourier.B, {2, 2 * r2, 0}));
  CHECK_THAT(error_of([] { nn::hippo(HippoMeasure::legs, 0); }), ContainsSubstring("a state of 0 numbers"));
  CHECK_THAT(error_of([] { nn::hippo_basis(HippoMeasure::legs, 2, zeros({2, 2})); }), ContainsSubstring("[2, 2] are not one dim"));
}
