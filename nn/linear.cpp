#include <retape/nn/linear.h>

#include <cmath>

#include <retape/autograd/matmul.h>
#include <retape/nn/init.h>

namespace retape::nn {

Linear::Linear(int64_t in_features, int64_t out_features, LinearOptions options) : weight(empty_parameter({out_features, in_features})) {
  init::kaiming_uniform(weight, {.negative_slope = std::sqrt(5.0)});
  if (!options.bias) return;
  bias = empty_parameter({out_features});
  const double bound = in_features > 0 ? 1 / std::sqrt(double(in_features)) : 0;
  init::uniform(bias, -bound, bound);
}
Tensor Linear::forward(const Tensor& x) const { return linear(x, weight, bias); }

}  // namespace retape::nn
