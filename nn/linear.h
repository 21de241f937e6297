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

/// x1 weight x2 + bias, an output for each of weight's matrices: x1 (..., in1_features), x2 (..., in2_features), weight (out, in1, in2), bias (out); both start
/// uniform within 1 / sqrt(in1_features). torch: nn.Bilinear.
struct Bilinear : Module {
  Parameter weight, bias;
  Bilinear(int64_t in1_features, int64_t in2_features, int64_t out_features, LinearOptions options = {});
  Tensor forward(const Tensor& x1, const Tensor& x2) const;
  RETAPE_FIELDS(weight, bias)
};
struct FlattenOptions {
  int64_t start_dim = 1, end_dim = -1;
};
/// Dims start_dim to end_dim become one. torch: nn.Flatten.
struct Flatten : Module {
  FlattenOptions options;
  explicit Flatten(FlattenOptions options = {}) : options(options) {}
  Tensor forward(const Tensor& x) const;
  RETAPE_FIELDS()
};
/// Dim `dim` becomes several, of which one may be -1. torch: nn.Unflatten.
struct Unflatten : Module {
  int64_t dim;
  Shape sizes;
  Unflatten(int64_t dim, const Shape& sizes) : dim(dim), sizes(sizes) {}
  Tensor forward(const Tensor& x) const;
  RETAPE_FIELDS()
};

}  // namespace retape::nn
