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
  double beta = 1, threshold = 20;
};
/// log(1 + e^(beta x)) / beta, without overflow for any x; x itself where beta x is above threshold. torch: nn.Softplus.
struct Softplus : Module {
  double beta, threshold;
  explicit Softplus(SoftplusOptions options = {}) : beta(options.beta), threshold(options.threshold) {}
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

/// selu(). torch: nn.SELU.
struct SELU : Module {
  Tensor forward(const Tensor& x) const;
  RETAPE_FIELDS()
};
/// x tanh(softplus(x)). torch: nn.Mish.
struct Mish : Module {
  Tensor forward(const Tensor& x) const;
  RETAPE_FIELDS()
};
/// x / (1 + |x|). torch: nn.Softsign.
struct Softsign : Module {
  Tensor forward(const Tensor& x) const;
  RETAPE_FIELDS()
};
/// x - tanh(x). torch: nn.Tanhshrink.
struct Tanhshrink : Module {
  Tensor forward(const Tensor& x) const;
  RETAPE_FIELDS()
};
/// log(sigmoid(x)). torch: nn.LogSigmoid.
struct LogSigmoid : Module {
  Tensor forward(const Tensor& x) const;
  RETAPE_FIELDS()
};
/// clamp(x / 6 + 1 / 2, 0, 1). torch: nn.Hardsigmoid.
struct Hardsigmoid : Module {
  Tensor forward(const Tensor& x) const;
  RETAPE_FIELDS()
};
/// x hardsigmoid(x). torch: nn.Hardswish.
struct Hardswish : Module {
  Tensor forward(const Tensor& x) const;
  RETAPE_FIELDS()
};
/// clamp(x, 0, 6). torch: nn.ReLU6.
struct ReLU6 : Module {
  Tensor forward(const Tensor& x) const;
  RETAPE_FIELDS()
};
/// softmax() over the channels of (N, C, H, W) or (C, H, W). Throws Error for another number of dims. torch: nn.Softmax2d.
struct Softmax2d : Module {
  Tensor forward(const Tensor& x) const;
  RETAPE_FIELDS()
};
struct ELUOptions {
  double alpha = 1;
};
/// elu(). torch: nn.ELU.
struct ELU : Module {
  ELUOptions options;
  explicit ELU(ELUOptions options = {}) : options(options) {}
  Tensor forward(const Tensor& x) const;
  RETAPE_FIELDS()
};
struct CELUOptions {
  double alpha = 1;
};
/// celu(). torch: nn.CELU.
struct CELU : Module {
  CELUOptions options;
  explicit CELU(CELUOptions options = {}) : options(options) {}
  Tensor forward(const Tensor& x) const;
  RETAPE_FIELDS()
};
struct LeakyReLUOptions {
  double negative_slope = 0.01;
};
/// leaky_relu(). torch: nn.LeakyReLU.
struct LeakyReLU : Module {
  LeakyReLUOptions options;
  explicit LeakyReLU(LeakyReLUOptions options = {}) : options(options) {}
  Tensor forward(const Tensor& x) const;
  RETAPE_FIELDS()
};
struct RReLUOptions {
  double lower = 1.0 / 8;
  double upper = 1.0 / 3;
};
/// rrelu(), with numbers of the default generator. torch: nn.RReLU.
struct RReLU : Module {
  RReLUOptions options;
  explicit RReLU(RReLUOptions options = {}) : options(options) {}
  Tensor forward(const Tensor& x) const;
  RETAPE_FIELDS()
};
struct HardtanhOptions {
  double min_val = -1;
  double max_val = 1;
};
/// hardtanh(). torch: nn.Hardtanh.
struct Hardtanh : Module {
  HardtanhOptions options;
  explicit Hardtanh(HardtanhOptions options = {}) : options(options) {}
  Tensor forward(const Tensor& x) const;
  RETAPE_FIELDS()
};
struct HardshrinkOptions {
  double lambd = 0.5;
};
/// hardshrink(). torch: nn.Hardshrink.
struct Hardshrink : Module {
  HardshrinkOptions options;
  explicit Hardshrink(HardshrinkOptions options = {}) : options(options) {}
  Tensor forward(const Tensor& x) const;
  RETAPE_FIELDS()
};
struct SoftshrinkOptions {
  double lambd = 0.5;
};
/// softshrink(). torch: nn.Softshrink.
struct Softshrink : Module {
  SoftshrinkOptions options;
  explicit Softshrink(SoftshrinkOptions options = {}) : options(options) {}
  Tensor forward(const Tensor& x) const;
  RETAPE_FIELDS()
};
struct GLUOptions {
  int64_t dim = -1;
};
/// glu(). torch: nn.GLU.
struct GLU : Module {
  GLUOptions options;
  explicit GLU(GLUOptions options = {}) : options(options) {}
  Tensor forward(const Tensor& x) const;
  RETAPE_FIELDS()
};
/// x above threshold, else value. torch: nn.Threshold.
struct Threshold : Module {
  double threshold, value;
  Threshold(double threshold, double value) : threshold(threshold), value(value) {}
  Tensor forward(const Tensor& x) const;
  RETAPE_FIELDS()
};
struct PReLUOptions {
  int64_t num_parameters = 1;  ///< or as many as channels, which are dim 1
  double init = 0.25;
};
/// leaky_relu() whose slope is trained: weight (num_parameters). torch: nn.PReLU.
struct PReLU : Module {
  Parameter weight;
  explicit PReLU(PReLUOptions options = {});
  Tensor forward(const Tensor& x) const;
  RETAPE_FIELDS(weight)
};
/// softmax() of -x along a dim. torch: nn.Softmin.
struct Softmin : Module {
  int64_t dim;
  explicit Softmin(int64_t dim) : dim(dim) {}
  Tensor forward(const Tensor& x) const;
  RETAPE_FIELDS()
};

}  // namespace retape::nn
