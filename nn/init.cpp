#include <retape/nn/init.h>

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

#include <retape/autograd/tape.h>
#include <retape/autograd/views.h>

namespace retape::nn::init {
namespace {

struct Fans {
  double in, out;
};
Fans fans(const char* name, const Tensor& x) {
  if (x.dim() < 2) throw Error(fmt::format("{}: shape {} has no fan-in and fan-out; at least two dims are needed", name, x.shape().str()));
  double field = 1;
  for (int d = 2; d < x.dim(); ++d) field *= double(x.shape()[d]);
  return {double(x.shape()[1]) * field, double(x.shape()[0]) * field};
}
// Writes values computed in double precision on the CPU.
template <class F> void fill_from_doubles(const Tensor& x, F&& values) {
  if (x.device().is_meta()) return;
  const NoGrad off;
  copy_into(tensor<double>(values(), x.shape()), x);
}
std::vector<double> draw_uniform(int64_t n, Generator& generator) { return rand({n}, {DType::f64}, generator).to_vector<double>(); }

double kaiming_std(const char* name, const Tensor& x, const KaimingOptions& options) {
  const Fans f = fans(name, x);
  const double fan = options.fan == Fan::in ? f.in : f.out;
  return fan > 0 ? calculate_gain(options.nonlinearity, options.negative_slope) / std::sqrt(fan) : 0;
}
double xavier_std(const char* name, const Tensor& x, double gain) {
  const Fans f = fans(name, x);
  return f.in + f.out > 0 ? gain * std::sqrt(2 / (f.in + f.out)) : 0;
}

double normal_cdf(double x) { return 0.5 * std::erfc(-x / std::numbers::sqrt2); }
double normal_density(double x) { return std::exp(-0.5 * x * x) / std::sqrt(2 * std::numbers::pi); }
// By bisection down to where Newton's method is safe: this runs once a weight, at start-up.
double normal_quantile(double p, double low, double high) {
  double x = 0.5 * (low + high);
  for (int i = 0; i < 60 && high - low > 1e-12 * (1 + std::abs(x)); ++i) {
    (normal_cdf(x) < p ? low : high) = x;
    const double newton = x - (normal_cdf(x) - p) / normal_density(x);
    x = newton > low && newton < high ? newton : 0.5 * (low + high);
    if (std::abs(normal_cdf(x) - p) < 1e-15) break;
  }
  return x;
}

}  // namespace

double calculate_gain(Nonlinearity nonlinearity, double negative_slope) {
  switch (nonlinearity) {
    case Nonlinearity::linear:
    case Nonlinearity::sigmoid: return 1;
    case Nonlinearity::tanh: return 5.0 / 3;
    case Nonlinearity::relu: return std::numbers::sqrt2;
    case Nonlinearity::leaky_relu: return std::sqrt(2 / (1 + negative_slope * negative_slope));
    case Nonlinearity::selu: return 0.75;
  }
  return 1;
}

double calculate_gain(const std::string& nonlinearity, double negative_slope) {
  static constexpr std::pair<const char*, Nonlinearity> names[] = {{"linear", Nonlinearity::linear},
                                                                   {"conv1d", Nonlinearity::linear},
                                                                   {"conv2d", Nonlinearity::linear},
                                                                   {"conv3d", Nonlinearity::linear},
                                                                   {"conv_transpose1d", Nonlinearity::linear},
                                                                   {"conv_transpose2d", Nonlinearity::linear},
                                                                   {"conv_transpose3d", Nonlinearity::linear},
                                                                   {"sigmoid", Nonlinearity::sigmoid},
                                                                   {"tanh", Nonlinearity::tanh},
                                                                   {"relu", Nonlinearity::relu},
                                                                   {"leaky_relu", Nonlinearity::leaky_relu},
                                                                   {"selu", Nonlinearity::selu}};
  for (const auto& [name, kind] : names)
    if (nonlinearity == name) return calculate_gain(kind, negative_slope);
  throw Error(
      fmt::format("calculate_gain: nonlinearity \"{}\" is not known; it must be linear, a conv, sigmoid, tanh, relu, leaky_relu or selu",
                  nonlinearity));
}

int64_t fan_out(const Tensor& x) { return int64_t(fans("fan_out", x).out); }
int64_t fan_in(const Tensor& x) { return int64_t(fans("fan_in", x).in); }

void constant(const Tensor& x, double value) {
  const NoGrad off;
  copy_into(full({}, value, {.dtype = x.dtype(), .device = x.device()}), x);
}
void zeros(const Tensor& x) { constant(x, 0); }
void ones(const Tensor& x) { constant(x, 1); }

void uniform(const Tensor& x, double low, double high, Generator& generator) {
  if (!(low <= high)) throw Error(fmt::format("uniform: low {} is above high {}", low, high));
  Tensor y = x;
  retape::detail::fill_uniform(y, low, high, generator);
}
void normal(const Tensor& x, double mean, double std, Generator& generator) {
  Tensor y = x;
  retape::detail::fill_normal(y, mean, std, generator);
}
void trunc_normal(const Tensor& x, double mean, double std, double low, double high, Generator& generator) {
  if (!(std > 0) || !(low < high))
    throw Error(
        fmt::format("trunc_normal: standard deviation {} in [{}, {}] is not valid; std must be > 0 and low below high", std, low, high));
  const double a = (low - mean) / std, b = (high - mean) / std;
  const double from = normal_cdf(a), to = normal_cdf(b);
  fill_from_doubles(x, [&] {
    auto v = draw_uniform(x.numel(), generator);
    // Beyond 9 standard deviations the distribution function is 0 or 1 in double precision.
    for (double& u : v)
      u = std::clamp(mean + std * normal_quantile(from + u * (to - from), std::max(a, -9.0), std::min(b, 9.0)), low, high);
    return v;
  });
}

void kaiming_uniform(const Tensor& x, KaimingOptions options, Generator& generator) {
  const double bound = std::sqrt(3.0) * kaiming_std("kaiming_uniform", x, options);
  uniform(x, -bound, bound, generator);
}
void kaiming_normal(const Tensor& x, KaimingOptions options, Generator& generator) {
  normal(x, 0, kaiming_std("kaiming_normal", x, options), generator);
}
void xavier_uniform(const Tensor& x, double gain, Generator& generator) {
  const double bound = std::sqrt(3.0) * xavier_std("xavier_uniform", x, gain);
  uniform(x, -bound, bound, generator);
}
void xavier_normal(const Tensor& x, double gain, Generator& generator) { normal(x, 0, xavier_std("xavier_normal", x, gain), generator); }

void orthogonal(const Tensor& x, double gain, Generator& generator) {
  if (x.dim() < 2) throw Error(fmt::format("orthogonal: shape {} is not a matrix; at least two dims are needed", x.shape().str()));
  if (x.numel() == 0) return;
  const int64_t rows = x.shape()[0], cols = x.numel() / rows, count = std::min(rows, cols), length = std::max(rows, cols);
  fill_from_doubles(x, [&] {
    // `count` random vectors of `length`, made orthonormal by Gram-Schmidt; the second sweep removes what rounding left.
    auto v = randn({count * length}, {DType::f64}, generator).to_vector<double>();
    const auto dot = [&](const double* p, const double* q) {
      double s = 0;
      for (int64_t k = 0; k < length; ++k) s += p[k] * q[k];
      return s;
    };
    for (int64_t i = 0; i < count; ++i) {
      double* vi = &v[size_t(i * length)];
      for (int sweep = 0; sweep < 2; ++sweep)
        for (int64_t j = 0; j < i; ++j) {
          const double* vj = &v[size_t(j * length)];
          const double s = dot(vi, vj);
          for (int64_t k = 0; k < length; ++k) vi[k] -= s * vj[k];
        }
      const double norm = std::sqrt(dot(vi, vi));
      for (int64_t k = 0; k < length; ++k) vi[k] /= norm;
    }
    std::vector<double> out(v.size());
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < cols; ++c)
        out[size_t(r * cols + c)] = gain * (rows <= cols ? v[size_t(r * length + c)] : v[size_t(c * length + r)]);
    return out;
  });
}

void eye(const Tensor& x) {
  if (x.dim() != 2) throw Error(fmt::format("eye: shape {} is not a matrix; two dims are needed", x.shape().str()));
  const NoGrad off;
  if (!x.device().is_meta()) copy_into(retape::eye(x.shape()[0], x.shape()[1], {x.dtype(), x.device()}), x);
}
void dirac(const Tensor& x, int64_t groups) {
  if (x.dim() < 3 || x.dim() > 5)
    throw Error(fmt::format("dirac: shape {} is not a convolution's weight; 3, 4 or 5 dims are needed", x.shape().str()));
  if (groups < 1 || x.shape()[0] % groups)
    throw Error(fmt::format("dirac: size 0 of shape {} is no multiple of {} groups", x.shape().str(), groups));
  const Shape& shape = x.shape();
  int64_t kernel = 1, middle = 0;  // elements of a kernel, and the place of its middle
  for (int d = 2; d < x.dim(); ++d) kernel *= shape[d], middle = middle * shape[d] + shape[d] / 2;
  fill_from_doubles(x, [&] {
    std::vector<double> v(size_t(x.numel()), 0);
    const int64_t out = shape[0] / groups;
    for (int64_t g = 0; g < groups && kernel > 0; ++g)
      for (int64_t c = 0; c < std::min(out, shape[1]); ++c) v[size_t(((g * out + c) * shape[1] + c) * kernel + middle)] = 1;
    return v;
  });
}
void sparse(const Tensor& x, double sparsity, double std, Generator& generator) {
  if (x.dim() != 2) throw Error(fmt::format("sparse: shape {} is not a matrix; two dims are needed", x.shape().str()));
  if (!(sparsity >= 0 && sparsity <= 1)) throw Error(fmt::format("sparse: sparsity {} is not valid; it must be from 0 to 1", sparsity));
  const int64_t rows = x.shape()[0], columns = x.shape()[1], none = int64_t(std::ceil(sparsity * double(rows)));
  fill_from_doubles(x, [&] {
    auto v = randn({x.numel()}, {DType::f64}, generator).to_vector<double>();
    for (double& value : v) value *= std;
    for (int64_t c = 0; c < columns; ++c) {
      const auto order = randperm(rows, generator).to_vector<int64_t>();
      for (int64_t i = 0; i < none; ++i) v[size_t(order[size_t(i)] * columns + c)] = 0;
    }
    return v;
  });
}

}  // namespace retape::nn::init
