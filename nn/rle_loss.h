// Residual log-likelihood estimation (Li et al. 2021, arXiv 2107.11291): regression whose error distribution is learned by a normalizing flow.
#pragma once
#include <retape/nn/activation.h>
#include <retape/nn/linear.h>
#include <retape/nn/loss.h>

namespace retape::nn {

struct RealNVPOptions {
  int64_t dim = 2, hidden_dim = 64, layers = 6;
};
/// An invertible map between points and noise, made of affine couplings (Dinh et al. 2017): layer i keeps every second coordinate, from i % 2 == 0 ? the
/// second : the first on, and scales and shifts the others by networks of those kept. Parameter names are s.I.J and t.I.J, as of PyTorch's
/// ModuleList of Sequential.
struct RealNVP : Module {
  struct Net : Module {  // Linear, LeakyReLU, Linear, LeakyReLU, Linear, as entries 0, 2 and 4
    Linear first, second, last;
    bool bounded;
    Net(int64_t dim, int64_t hidden_dim, bool bounded);
    Tensor forward(const Tensor& x) const;
    void fields(Visitor& v) override;
    RETAPE_MODULE_BODY
  };
  std::vector<Net> s, t;
  int64_t dim;
  explicit RealNVP(RealNVPOptions options = {});
  /// Noise z (N, dim) as points.
  Tensor forward(const Tensor& z) const;
  /// Points x (N, dim) as noise, and the logarithm (N) of the map's determinant.
  struct Inverse {
    Tensor z, log_det;
  };
  Inverse inverse(const Tensor& x) const;
  /// The logarithm (N) of the density of points x (N, dim), where the noise is normal.
  Tensor log_prob(const Tensor& x) const;
  RETAPE_FIELDS(s, t)

 private:
  Tensor kept(int64_t layer, const Tensor& like) const;
};

enum class RLEDistribution : uint8_t { laplace, gaussian };
struct RLELossOptions {
  RLEDistribution q_distribution = RLEDistribution::laplace;
  bool residual = true;  ///< false: the flow alone is the density
  Reduction reduction = Reduction::mean;
};
/// -log of the density of target: log(sigma) - log flow(e) - log Q(e) for e = (pred - target) / sigma, where log Q is -(log(2 sigma) + |e|) or
/// -(log(sigma sqrt(2 pi)) + e^2 / 2). pred, target and sigma (N, K, dim), sigma above 0; weight, if there is one, (N, K, dim) or (N, K, 1). The mean is over N alone:
/// losses of the K points are summed. Throws Error if shapes disagree.
struct RLELoss : Module {
  RealNVP flow;
  RLELossOptions options;
  explicit RLELoss(RLELossOptions options = {}, RealNVPOptions flow = {}) : flow(flow), options(options) {}
  Tensor forward(const Tensor& pred, const Tensor& sigma, const Tensor& target, const Tensor& weight = {}) const;
  RETAPE_FIELDS(flow)
};

}  // namespace retape::nn
