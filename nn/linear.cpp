#include <retape/nn/linear.h>

#include <fmt/format.h>

#include <cmath>

#include <retape/autograd/einsum.h>
#include <retape/autograd/matmul.h>
#include <retape/autograd/views.h>
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

Bilinear::Bilinear(int64_t in1, int64_t in2, int64_t out, LinearOptions options) : weight(empty_parameter({out, in1, in2})) {
  const double bound = in1 > 0 ? 1 / std::sqrt(double(in1)) : 0;
  init::uniform(weight, -bound, bound);
  if (!options.bias) return;
  bias = empty_parameter({out});
  init::uniform(bias, -bound, bound);
}
Tensor Bilinear::forward(const Tensor& x1, const Tensor& x2) const {
  const auto check = [](const Tensor& x, int64_t wanted) {
    if (!x || x.dim() == 0 || x.shape()[-1] != wanted)
      throw Error(fmt::format("Bilinear: an input has shape {}; its last size must be {}", x ? x.shape().str() : "(undefined)", wanted));
  };
  check(x1, weight->shape()[1]), check(x2, weight->shape()[2]);
  const Tensor y = einsum("...i,oij,...j->...o", {x1, weight, x2});
  return bias ? y + bias : y;
}
Tensor Flatten::forward(const Tensor& x) const { return flatten(x, options.start_dim, options.end_dim); }
Tensor Unflatten::forward(const Tensor& x) const { return unflatten(x, dim, sizes); }

}  // namespace retape::nn
