#include <retape/nn/activation.h>

#include <retape/autograd/softmax.h>
#include <retape/autograd/unary.h>

namespace retape::nn {

Tensor ReLU::forward(const Tensor& x) const { return relu(x); }
Tensor GELU::forward(const Tensor& x) const { return approximate == Approximate::tanh ? gelu_tanh(x) : gelu(x); }
Tensor SiLU::forward(const Tensor& x) const { return silu(x); }
Tensor Tanh::forward(const Tensor& x) const { return tanh(x); }
Tensor Sigmoid::forward(const Tensor& x) const { return sigmoid(x); }
Tensor Softplus::forward(const Tensor& x) const { return beta == 1 ? softplus(x) : softplus(x * beta) / beta; }
Tensor Softmax::forward(const Tensor& x) const { return softmax(x, dim); }
Tensor LogSoftmax::forward(const Tensor& x) const { return log_softmax(x, dim); }

}  // namespace retape::nn
