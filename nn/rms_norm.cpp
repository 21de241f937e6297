#include <retape/nn/rms_norm.h>

#include <retape/autograd/rms_norm.h>
#include <retape/nn/init.h>

namespace retape::nn {

RMSNorm::RMSNorm(const Shape& shape, RMSNormOptions options) : normalized_shape(shape), eps(options.eps) {
  if (!options.elementwise_affine) return;
  weight = empty_parameter(shape);
  init::ones(weight);
}
Tensor RMSNorm::forward(const Tensor& x) const { return rms_norm(x, normalized_shape, weight, eps); }

}  // namespace retape::nn
