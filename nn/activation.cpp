#include <retape/nn/activation.h>

#include <fmt/format.h>

#include <retape/autograd/activation.h>
#include <retape/autograd/softmax.h>
#include <retape/autograd/unary.h>
#include <retape/nn/init.h>

namespace retape::nn {

Tensor ReLU::forward(const Tensor& x) const { return relu(x); }
Tensor GELU::forward(const Tensor& x) const { return approximate == Approximate::tanh ? gelu_tanh(x) : gelu(x); }
Tensor SiLU::forward(const Tensor& x) const { return silu(x); }
Tensor Tanh::forward(const Tensor& x) const { return tanh(x); }
Tensor Sigmoid::forward(const Tensor& x) const { return sigmoid(x); }
Tensor Softplus::forward(const Tensor& x) const { return softplus(x, beta, threshold); }
Tensor Softmax::forward(const Tensor& x) const { return softmax(x, dim); }
Tensor LogSoftmax::forward(const Tensor& x) const { return log_softmax(x, dim); }
Tensor SELU::forward(const Tensor& x) const { return selu(x); }
Tensor Mish::forward(const Tensor& x) const { return mish(x); }
Tensor Softsign::forward(const Tensor& x) const { return softsign(x); }
Tensor Tanhshrink::forward(const Tensor& x) const { return tanhshrink(x); }
Tensor LogSigmoid::forward(const Tensor& x) const { return logsigmoid(x); }
Tensor Hardsigmoid::forward(const Tensor& x) const { return hardsigmoid(x); }
Tensor Hardswish::forward(const Tensor& x) const { return hardswish(x); }
Tensor ReLU6::forward(const Tensor& x) const { return relu6(x); }
Tensor Softmax2d::forward(const Tensor& x) const {
  if (!x || (x.dim() != 3 && x.dim() != 4))
    throw Error(fmt::format("Softmax2d: x has shape {}; it must be (N, C, H, W) or (C, H, W)", x ? x.shape().str() : "(undefined)"));
  return softmax(x, -3);
}
Tensor ELU::forward(const Tensor& x) const { return elu(x, options.alpha); }
Tensor CELU::forward(const Tensor& x) const { return celu(x, options.alpha); }
Tensor LeakyReLU::forward(const Tensor& x) const { return leaky_relu(x, options.negative_slope); }
Tensor RReLU::forward(const Tensor& x) const { return rrelu(x, options.lower, options.upper, is_training()); }
Tensor Hardtanh::forward(const Tensor& x) const { return hardtanh(x, options.min_val, options.max_val); }
Tensor Hardshrink::forward(const Tensor& x) const { return hardshrink(x, options.lambd); }
Tensor Softshrink::forward(const Tensor& x) const { return softshrink(x, options.lambd); }
Tensor GLU::forward(const Tensor& x) const { return glu(x, options.dim); }
Tensor Threshold::forward(const Tensor& x) const { return retape::threshold(x, threshold, value); }
PReLU::PReLU(PReLUOptions options) : weight(empty_parameter({options.num_parameters})) { init::constant(weight, options.init); }
Tensor PReLU::forward(const Tensor& x) const { return prelu(x, weight); }
Tensor Softmin::forward(const Tensor& x) const { return softmin(x, dim); }

}  // namespace retape::nn
