// A fully connected layer.
#pragma once
#include <retape/nn/module.h>

namespace retape::nn {

struct LinearOptions {
  bool bias = true;
};
/// x weight^T + bias for x (..., in_features). weight (out, in), bias (out); both start uniform within 1 / sqrt(in). torch: nn.Linear.
struct Linear : Module {
  Parameter weight, bias;
  Linear(int64_t in_features, int64_t out_features, LinearOptions options = {});
  Tensor forward(const Tensor& x) const;
  RETAPE_FIELDS(weight, bias)
};

}  // namespace retape::nn
