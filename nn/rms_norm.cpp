#include <retape/nn/rms_norm.h>

#include <limits>

#include <retape/autograd/rms_norm.h>
#include <retape/nn/init.h>

namespace retape::nn {
namespace {
double epsilon(DType d) {
  switch (d) {
    case DType::f64: return std::numeric_limits<double>::epsilon();
    case DType::f16: return 0x1p-10;
    case DType::bf16: return 0x1p-7;
    default: return std::numeric_limits<float>::epsilon();
  }
}
}  // namespace

RMSNorm::RMSNorm(const Shape& shape, RMSNormOptions options) : normalized_shape(shape), eps(options.eps) {
  if (!options.elementwise_affine) return;
  weight = empty_parameter(shape);
  init::ones(weight);
}
Tensor RMSNorm::forward(const Tensor& x) const { return rms_norm(x, normalized_shape, weight, eps.value_or(epsilon(x.dtype()))); }

}  // namespace retape::nn
