#include <retape/nn/parametrizations.h>

#include <fmt/format.h>

#include <retape/autograd/binary.h>
#include <retape/autograd/einsum.h>
#include <retape/autograd/matmul.h>
#include <retape/autograd/reduce.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/unary.h>
#include <retape/autograd/views.h>
#include <retape/core/random.h>

namespace retape::nn::detail {
namespace {

// (outputs, all others)
Tensor as_matrix(const Tensor& weight, int64_t dim) {
  if (weight.dim() < 2 || dim < -weight.dim() || dim >= weight.dim())
    throw Error(fmt::format("SpectralNorm: weight {} with dim {}: the weight must have at least two dims, and this one among them",
                            weight.shape().str(), dim));
  const Tensor first = movedim(weight, dim, 0);
  return reshape(first, {first.shape()[0], first.numel() / std::max<int64_t>(1, first.shape()[0])});
}
Tensor normalize(const Tensor& x, double eps) { return x / maximum(norm(x), eps); }
// Moves u and v, in place.
void iterate(const Tensor& matrix, const Tensor& u, const Tensor& v, int64_t iterations, double eps) {
  const NoGrad off;
  const Tensor m = matrix.detach();
  for (int64_t i = 0; i < iterations; ++i) {
    copy_into(normalize(matmul(m, v), eps), u);
    copy_into(normalize(matmul(transpose(m), u), eps), v);
  }
}

}  // namespace

Tensor norm_except(const Tensor& v, std::optional<int64_t> dim) {
  if (!dim) return norm(v);
  if (*dim < -v.dim() || *dim >= v.dim())
    throw Error(fmt::format("WeightNorm: dim {} is out of range for weight {}", *dim, v.shape().str()));
  const int64_t kept = *dim < 0 ? *dim + v.dim() : *dim;
  Shape others;
  for (int d = 0; d < v.dim(); ++d)
    if (d != kept) others.push_back(d);
  return others.rank() ? norm(v, 2, others, true) : sqrt(square(v));
}
Tensor weight_norm(const Tensor& g, const Tensor& v, std::optional<int64_t> dim) { return v * (g / norm_except(v, dim)); }

std::pair<Tensor, Tensor> start_of_spectral_norm(const Tensor& weight, const SpectralNormOptions& o) {
  if (o.n_power_iterations <= 0)
    throw Error(fmt::format("SpectralNorm: n_power_iterations is {}; it must be above 0", o.n_power_iterations));
  const NoGrad off;
  const Tensor matrix = as_matrix(weight.detach(), o.dim);
  const Tensor u = normalize(randn({matrix.shape()[0]}, weight.options()), o.eps);
  const Tensor v = normalize(randn({matrix.shape()[1]}, weight.options()), o.eps);
  iterate(matrix, u, v, 15, o.eps);
  return {u, v};
}
Tensor spectral_norm(const Tensor& weight, const Tensor& u, const Tensor& v, int64_t iterations, const SpectralNormOptions& o) {
  const Tensor matrix = as_matrix(weight, o.dim);
  iterate(matrix, u, v, iterations, o.eps);
  const Tensor left = clone(u), right = clone(v);  // the next call writes into u and v
  return weight / dot(left, matmul(matrix, right));
}

}  // namespace retape::nn::detail
