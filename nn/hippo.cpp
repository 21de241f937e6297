#include <retape/nn/hippo.h>

#include <fmt/format.h>

#include <cmath>
#include <numbers>

#include <retape/autograd/linalg.h>
#include <retape/autograd/tape.h>
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

HippoPairs hippo_pairs(int64_t size) {
  check_size("hippo_pairs", size);
  if (size % 2) throw Error(fmt::format("hippo_pairs: a state of {} numbers is not in pairs; its size must be even", size));
  // With p = sqrt(n + 1/2), A + p p^T is S - 1/2 with S antisymmetric, and -i S is Hermitian. Its eigenvectors u + i v are those of the
  // symmetric [[0, S], [-S, 0]], which has every eigenvalue twice: for u + i v, and for i (u + i v).
  const auto n = static_cast<size_t>(size);
  std::vector<double> block(4 * n * n);
  for (size_t i = 0; i < n; ++i)
    for (size_t k = 0; k < i; ++k) {
      const double s = -root(int64_t(i)) * root(int64_t(k)) / 2;  // below the diagonal; -s above it
      block[i * 2 * n + n + k] = s, block[k * 2 * n + n + i] = -s;
      block[(n + i) * 2 * n + k] = -s, block[(n + k) * 2 * n + i] = s;
    }
  const NoGrad off;
  const EighResult all = eigh(tensor(block, {2 * size, 2 * size}));
  const auto values = all.values.to_vector<double>(), vectors = all.vectors.to_vector<double>();
  std::vector<double> a, p, b, v(n * n);
  for (size_t j = 0; j < n / 2; ++j) {
    const size_t column = n + 2 * j;
    double sums[4] = {};
    for (size_t i = 0; i < n; ++i) {
      const double re = vectors[i * 2 * n + column], im = vectors[(n + i) * 2 * n + column], r = root(int64_t(i)), q = r / std::sqrt(2.0);
      v[(i * n / 2 + j) * 2] = re, v[(i * n / 2 + j) * 2 + 1] = im;
      sums[0] += re * q, sums[1] -= im * q, sums[2] += re * r, sums[3] -= im * r;
    }
    a.insert(a.end(), {-0.5, values[column]}), p.insert(p.end(), sums, sums + 2), b.insert(b.end(), sums + 2, sums + 4);
  }
  return {tensor(a, {size / 2, 2}), tensor(p, {size / 2, 2}), tensor(b, {size / 2, 2}), tensor(v, {size, size / 2, 2})};
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
