// Inputs that other programs can make again, for results that were computed by PyTorch.
#pragma once
#include <cmath>

#include "catch.h"

namespace retape::testing {

/// f64: element i of row-major order is sin(seed + 1 + 0.7 i).
inline Tensor sines(const Shape& shape, double seed = 0) {
  std::vector<double> v(size_t(shape.numel()));
  for (size_t i = 0; i < v.size(); ++i) v[i] = std::sin(seed + 1 + 0.7 * double(i));
  return tensor(v, shape);
}
/// Has x this shape, and these values up to `tolerance` relative to 1 + |value|?
inline bool close(const Tensor& x, const Shape& shape, const std::vector<double>& wanted, double tolerance = 1e-11) {
  const auto got = x.to_vector<double>();
  if (!(x.shape() == shape) || got.size() != wanted.size()) return false;
  for (size_t i = 0; i < got.size(); ++i)
    if (!(std::abs(got[i] - wanted[i]) <= tolerance * (1 + std::abs(wanted[i])))) return false;
  return true;
}

}  // namespace retape::testing
