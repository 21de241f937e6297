#include <retape/nn/group_norm.h>

#include <fmt/format.h>

#include <retape/autograd/group_norm.h>
#include <retape/nn/init.h>

namespace retape::nn {

GroupNorm::GroupNorm(int64_t groups, int64_t channels, const GroupNormOptions& o) : num_groups(groups), num_channels(channels), eps(o.eps) {
  if (groups <= 0 || channels <= 0 || channels % groups != 0)
    throw Error(fmt::format("GroupNorm: num_groups {} does not divide num_channels {}; it must", groups, channels));
  if (!o.affine) return;
  weight = empty_parameter({channels}), bias = empty_parameter({channels});
  init::ones(weight), init::zeros(bias);
}
Tensor GroupNorm::forward(const Tensor& x) const {
  if (x && x.dim() > 1 && x.shape()[1] != num_channels)
    throw Error(fmt::format("GroupNorm: the input is {}, with {} channels; it must have {}", x.shape().str(), x.shape()[1], num_channels));
  return group_norm(x, num_groups, weight, bias, eps);
}

LocalResponseNorm::LocalResponseNorm(int64_t n, const LocalResponseNormOptions& o) : size(n), options(o) {
  if (n <= 0) throw Error(fmt::format("LocalResponseNorm: size is {}; it must be above 0", n));
}
Tensor LocalResponseNorm::forward(const Tensor& x) const { return local_response_norm(x, size, options.alpha, options.beta, options.k); }

}  // namespace retape::nn
