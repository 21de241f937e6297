// Dropout.
#pragma once
#include <retape/nn/module.h>

namespace retape::nn {

/// While training, sets each element to 0 with probability p and scales the others by 1 / (1 - p). Numbers come from the default
/// generator. Throws Error unless 0 <= p <= 1. Srivastava et al. 2014; torch: nn.Dropout.
struct Dropout : Module {
  double p;
  explicit Dropout(double p = 0.5);
  Tensor forward(const Tensor& x) const;
  RETAPE_FIELDS()
};

}  // namespace retape::nn
