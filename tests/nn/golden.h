// Comparing with numbers from PyTorch.
#pragma once
#include "../catch.h"

#include <algorithm>
#include <cmath>

namespace retape::testing {

/// sin(0.7 i + k) as f64: varied, and the same in every language.
inline Tensor wave(const Shape& shape, double k = 0) {
  std::vector<double> v(size_t(shape.numel()));
  for (size_t i = 0; i < v.size(); ++i) v[i] = std::sin(double(i) * 0.7 + k);
  return tensor(v, shape);
}
/// The module with wave(..., 0.3 * (i + 1)) in the i-th entry of its state_dict.
template <class M> M& waved(M& m) {
  const NoGrad off;
  double k = 0;
  for (auto& [name, t] : m.state_dict()) copy_into(wave(t.shape(), k += 0.3), t);
  return m;
}
/// The entries of a safetensors file of tests/golden.
class Golden {
 public:
  explicit Golden(const std::string& file) : all(SafeTensors::open(file).tensors()) {}
  /// Undefined if there is none of that name.
  Tensor operator()(const std::string& name) const {
    for (auto& [key, value] : all)
      if (key == name) return value;
    return {};
  }
  const NamedTensors all;
};
/// ||a - b|| / ||b||, for a b of zeros ||a||. Equal infinities are no difference; infinity unless both are there and of one shape.
inline double relative_difference(const Tensor& a, const Tensor& b) {
  if (!a || !b || !(a.shape() == b.shape())) return INFINITY;
  const auto x = a.to_vector<double>(), y = b.to_vector<double>();
  double difference = 0, size = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    if (std::isfinite(y[i])) size += y[i] * y[i];
    if (x[i] != y[i]) difference += (x[i] - y[i]) * (x[i] - y[i]);
  }
  return std::sqrt(difference / (size > 0 ? size : 1));
}
/// Equal in about ten digits: numbers were printed with twelve.
inline bool matches(const Tensor& x, const Shape& shape, const std::vector<double>& expected) {
  if (!(x.shape() == shape) || x.dtype() != DType::f64) return false;
  const auto v = x.to_vector<double>();
  for (size_t i = 0; i < v.size(); ++i)
    if (!(std::abs(v[i] - expected[i]) <= 1e-10 * (1 + std::abs(expected[i])))) return false;
  return v.size() == expected.size();
}

}  // namespace retape::testing
