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

/// Dropout of whole channels: each (..., C, d1, ...) of an input (N, C, d1, ...) or (C, d1, ...) becomes 0 with probability p. torch: nn.Dropout1d for two
/// or three dims, Dropout2d and Dropout3d for one and two more. Throws Error for another number of dims.
struct Dropout1d : Module {
  double p;
  explicit Dropout1d(double p = 0.5);
  Tensor forward(const Tensor& x) const;
  RETAPE_FIELDS()
};
struct Dropout2d : Module {
  double p;
  explicit Dropout2d(double p = 0.5);
  Tensor forward(const Tensor& x) const;
  RETAPE_FIELDS()
};
struct Dropout3d : Module {
  double p;
  explicit Dropout3d(double p = 0.5);
  Tensor forward(const Tensor& x) const;
  RETAPE_FIELDS()
};
/// alpha_dropout(). torch: nn.AlphaDropout.
struct AlphaDropout : Module {
  double p;
  explicit AlphaDropout(double p = 0.5);
  Tensor forward(const Tensor& x) const;
  RETAPE_FIELDS()
};
/// The same for whole channels. torch: nn.FeatureAlphaDropout.
struct FeatureAlphaDropout : Module {
  double p;
  explicit FeatureAlphaDropout(double p = 0.5);
  Tensor forward(const Tensor& x) const;
  RETAPE_FIELDS()
};
/// Stochastic depth: while training, sets each example of a batch (dim 0) to 0 with probability drop_prob and scales the others by 1 / (1 - drop_prob), for the
/// branch beside a residual connection. Huang et al. 2016; timm: DropPath, torchvision: StochasticDepth with mode "row".
struct DropPath : Module {
  double drop_prob;
  explicit DropPath(double drop_prob = 0);
  Tensor forward(const Tensor& x) const;
  RETAPE_FIELDS()
};

}  // namespace retape::nn
