#include <retape/nn/layer_norm.h>

#include <retape/autograd/layer_norm.h>
#include <retape/nn/init.h>

namespace retape::nn {

LayerNorm::LayerNorm(const Shape& shape, LayerNormOptions options) : normalized_shape(shape), eps(options.eps) {
  if (!options.elementwise_affine) return;
  weight = empty_parameter(shape);
  init::ones(weight);
  if (!options.bias) return;
  bias = empty_parameter(shape);
  init::zeros(bias);
}
Tensor LayerNorm::forward(const Tensor& x) const { return layer_norm(x, normalized_shape, weight, bias, eps); }

}  // namespace retape::nn
