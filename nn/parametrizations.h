// Layers whose weight is computed from other parameters at every call. torch: nn.utils.parametrizations, with its names in state_dict().
#pragma once
#include <optional>

#include <retape/nn/module.h>

namespace retape::nn {

namespace detail {
Tensor norm_except(const Tensor& v, std::optional<int64_t> dim);
Tensor weight_norm(const Tensor& g, const Tensor& v, std::optional<int64_t> dim);

// Lends a layer a computed weight, for the time of one call.
class Lent {
 public:
  Lent(Parameter& weight, const Tensor& value) : weight_(const_cast<Tensor&>(weight.tensor())) { weight_ = value; }
  ~Lent() { weight_ = Tensor{}; }
  Lent(const Lent&) = delete;

 private:
  Tensor& weight_;
};
template <class M> Tensor take_weight(M& layer) {
  const Tensor w = layer.weight.tensor().detach();
  layer.weight = Parameter();
  return w;
}
}  // namespace detail

struct WeightNormOptions {
  std::optional<int64_t> dim = 0;  ///< a norm for each index of this dim; absent: one norm
};
/// A layer, such as Linear, with weight = g v / ||v||: `WeightNorm<Linear> layer(Linear(3, 4))`. g is parametrizations.weight.original0, v
/// original1; they begin as the layer's weight. Salimans & Kingma 2016; torch: parametrizations.weight_norm.
template <class M> struct WeightNorm : Module {
  M layer;
  std::optional<int64_t> dim;
  Parameter original0, original1;
  explicit WeightNorm(M of, WeightNormOptions options = {}) : layer(std::move(of)), dim(options.dim) {
    const Tensor w = detail::take_weight(layer);
    original0 = Parameter(detail::norm_except(w, dim));
    original1 = Parameter(w);
  }
  template <class... A> Tensor forward(A&&... a) {
    const detail::Lent weight(layer.weight, detail::weight_norm(original0, original1, dim));
    return layer.forward(static_cast<A&&>(a)...);
  }
  void fields(Visitor& visitor) override {
    layer.fields(visitor);
    visitor.parameter("parametrizations.weight.original0", original0);
    visitor.parameter("parametrizations.weight.original1", original1);
  }
  RETAPE_MODULE_BODY
};

struct SpectralNormOptions {
  int64_t n_power_iterations = 1;
  double eps = 1e-12;
  int64_t dim = 0;  ///< of the weight, that of the outputs
};
namespace detail {
// weight / its largest singular value, estimated by power iteration from u and v, which `iterations` steps move on in place.
Tensor spectral_norm(const Tensor& weight, const Tensor& u, const Tensor& v, int64_t iterations, const SpectralNormOptions& options);
std::pair<Tensor, Tensor> start_of_spectral_norm(const Tensor& weight, const SpectralNormOptions& options);
}  // namespace detail
/// A layer with weight / sigma, sigma the largest singular value of the weight as a matrix of its outputs, by power iteration, which goes on
/// at every call in training: `SpectralNorm<Linear> layer(Linear(3, 4))`. The weight is parametrizations.weight.original, the vectors are
/// 0._u and 0._v there. Miyato et al. 2018; torch: parametrizations.spectral_norm.
template <class M> struct SpectralNorm : Module {
  M layer;
  SpectralNormOptions options;
  Parameter original;
  Buffer u, v;
  explicit SpectralNorm(M of, SpectralNormOptions o = {}) : layer(std::move(of)), options(o) {
    original = Parameter(detail::take_weight(layer));
    const auto [first, second] = detail::start_of_spectral_norm(original, options);
    u = Buffer(first), v = Buffer(second);
  }
  template <class... A> Tensor forward(A&&... a) {
    const detail::Lent weight(layer.weight, detail::spectral_norm(original, u, v, is_training() ? options.n_power_iterations : 0, options));
    return layer.forward(static_cast<A&&>(a)...);
  }
  void fields(Visitor& visitor) override {
    layer.fields(visitor);
    visitor.parameter("parametrizations.weight.original", original);
    visitor.buffer("parametrizations.weight.0._u", u);
    visitor.buffer("parametrizations.weight.0._v", v);
  }
  RETAPE_MODULE_BODY
};

}  // namespace retape::nn
