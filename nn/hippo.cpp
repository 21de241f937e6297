#include <retape/nn/hippo.h>

#include <fmt/format.h>

#include <cmath>
#include <numbers>

#include <retape/core/random.h>

namespace retape::nn {
namespace {

constexpr double pi = std::numbers::pi;

void check_size(const char* name, int64_t n) {
  if (n < 1) throw Error(fmt::format("{}: a state of {} numbers is not possible; it must have at least 1", name, n));
}
double root(int64_t n) { return std::sqrt(double(2 * n + 1)); }
// The basis functions of fourier are 1, sqrt(2) cos(2 pi s), sqrt(2) sin(2 pi s), sqrt(2) cos(4 pi s), ...: what they are at s = 0.
double wave_at_0(int64_t n) { return n == 0 ? 1 : n % 2 ? std::sqrt(2.0) : 0; }

double element(HippoMeasure measure, int64_t n, int64_t k) {
  switch (measure) {
    case HippoMeasure::legs: return n > k ? -root(n) * root(k) : n == k ? -double(n + 1) : 0;
    case HippoMeasure::legt: return -root(n) * root(k) * (n < k && (k - n) % 2 ? -1 : 1);
    case HippoMeasure::lagt: return n > k ? -1 : n == k ? -0.5 : 0;
    case HippoMeasure::fourier: {
      // The end of the window is where the waves of the state meet the beginning: u(t - 1) is twice their value there, less u(t).
      const double frequency = 2 * pi * double((std::max(n, k) + 1) / 2), end = -2 * wave_at_0(n) * wave_at_0(k);
      if (n % 2 == 1 && k == n + 1) return end - frequency;
      if (k % 2 == 1 && n == k + 1) return end + frequency;
      return end;
    }
  }
  return 0;
}

// Legendre's polynomials, or Laguerre's, by their recurrence.
void polynomials(double x, bool laguerre, std::vector<double>& p) {
  for (size_t i = 0; i < p.size(); ++i) {
    const double n = double(i) - 1;
    if (i == 0) p[i] = 1;
    else if (i == 1) p[i] = laguerre ? 1 - x : x;
    else p[i] = ((laguerre ? 2 * n + 1 - x : (2 * n + 1) * x) * p[i - 1] - n * p[i - 2]) / (n + 1);
  }
}

}  // namespace

Hippo hippo(HippoMeasure measure, int64_t size) {
  check_size("hippo", size);
  std::vector<double> a, b;
  for (int64_t n = 0; n < size; ++n) {
    for (int64_t k = 0; k < size; ++k) a.push_back(element(measure, n, k));
    b.push_back(measure == HippoMeasure::lagt ? 1 : measure == HippoMeasure::fourier ? 2 * wave_at_0(n) : root(n));
  }
  return {tensor(a, {size, size}), tensor(b, {size})};
}

Tensor hippo_basis(HippoMeasure measure, int64_t size, const Tensor& ages) {
  check_size("hippo_basis", size);
  if (ages.dim() != 1) throw Error(fmt::format("hippo_basis: ages of shape {} are not one dim", ages.shape().str()));
  std::vector<double> values, p(static_cast<size_t>(size));
  for (const double s : ages.to_vector<double>()) {
    if (measure == HippoMeasure::fourier) {
      for (int64_t n = 0; n < size; ++n) {
        const double angle = 2 * pi * double((n + 1) / 2) * s;
        p[size_t(n)] = n == 0 ? 1 : std::sqrt(2.0) * (n % 2 ? std::cos(angle) : std::sin(angle));
      }
    } else if (measure == HippoMeasure::lagt) {
      polynomials(s, true, p);
      for (double& v : p) v *= std::exp(-s / 2);
    } else {
      polynomials(1 - 2 * s, false, p);
      for (int64_t n = 0; n < size; ++n) p[size_t(n)] *= root(n);
    }
    values.insert(values.end(), p.begin(), p.end());
  }
  return tensor(values, {ages.size(0), size});
}

}  // namespace retape::nn
