// Group normalisation, and normalisation by the responses of neighbouring channels.
#pragma once
#include <retape/nn/module.h>

namespace retape::nn {

struct GroupNormOptions {
  double eps = 1e-5;
  bool affine = true;
};
/// Normalises x (N, C, ...) by the mean and variance of each of num_groups groups of channels of each sample. weight (C) starts at 1, bias (C)
/// at 0. Throws Error unless num_groups divides num_channels. Wu & He 2018; torch: nn.GroupNorm.
struct GroupNorm : Module {
  int64_t num_groups, num_channels;
  double eps;
  Parameter weight, bias;
  GroupNorm(int64_t num_groups, int64_t num_channels, const GroupNormOptions& options = {});
  Tensor forward(const Tensor& x) const;
  RETAPE_FIELDS(weight, bias)
};

struct LocalResponseNormOptions {
  double alpha = 1e-4, beta = 0.75, k = 1;
};
/// x / (k + alpha * mean of x^2 over `size` neighbouring channels)^beta. Krizhevsky et al. 2012; torch: nn.LocalResponseNorm.
struct LocalResponseNorm : Module {
  int64_t size;
  LocalResponseNormOptions options;
  explicit LocalResponseNorm(int64_t size, const LocalResponseNormOptions& options = {});
  Tensor forward(const Tensor& x) const;
  RETAPE_FIELDS()
};

}  // namespace retape::nn
