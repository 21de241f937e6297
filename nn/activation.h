// Activations as modules, for use in Sequential; elsewhere the functions of the same names are shorter.
#pragma once
#include <retape/nn/module.h>

namespace retape::nn {

/// x itself. torch: nn.Identity.
struct Identity : Module {
  Tensor forward(const Tensor& x) const { return x; }
  RETAPE_FIELDS()
};
/// max(x, 0). torch: nn.ReLU.
struct ReLU : Module {
  Tensor forward(const Tensor& x) const;
  RETAPE_FIELDS()
};
enum class Approximate : uint8_t { none, tanh };
struct GELUOptions {
  Approximate approximate = Approximate::none;
};
/// x Phi(x), exactly or by tanh. torch: nn.GELU.
struct GELU : Module {
  Approximate approximate;
  explicit GELU(GELUOptions options = {}) : approximate(options.approximate) {}
  Tensor forward(const Tensor& x) const;
  RETAPE_FIELDS()
};
/// x sigmoid(x). torch: nn.SiLU.
struct SiLU : Module {
  Tensor forward(const Tensor& x) const;
  RETAPE_FIELDS()
};
/// torch: nn.Tanh.
struct Tanh : Module {
  Tensor forward(const Tensor& x) const;
  RETAPE_FIELDS()
};
/// 1 / (1 + e^-x). torch: nn.Sigmoid.
struct Sigmoid : Module {
  Tensor forward(const Tensor& x) const;
  RETAPE_FIELDS()
};
struct SoftplusOptions {
  double beta = 1;
};
/// log(1 + e^(beta x)) / beta, without overflow for any x (torch's `threshold` is not needed). torch: nn.Softplus.
struct Softplus : Module {
  double beta;
  explicit Softplus(SoftplusOptions options = {}) : beta(options.beta) {}
  Tensor forward(const Tensor& x) const;
  RETAPE_FIELDS()
};
/// e^x / sum e^x along a dim. torch: nn.Softmax.
struct Softmax : Module {
  int64_t dim;
  explicit Softmax(int64_t dim) : dim(dim) {}
  Tensor forward(const Tensor& x) const;
  RETAPE_FIELDS()
};
/// The logarithm of that. torch: nn.LogSoftmax.
struct LogSoftmax : Module {
  int64_t dim;
  explicit LogSoftmax(int64_t dim) : dim(dim) {}
  Tensor forward(const Tensor& x) const;
  RETAPE_FIELDS()
};

}  // namespace retape::nn
