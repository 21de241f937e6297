// Catch2 2 or 3, and what most tests need.
#pragma once
#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
using Catch::Approx;
using Catch::Matchers::ContainsSubstring;
#else
#include <catch2/catch.hpp>
inline auto ContainsSubstring(const std::string& s) { return Catch::Contains(s); }
#endif

#include <cstring>

#include <retape/retape.h>

namespace retape::testing {

/// f64 leaf with uniform values that depend on the seed only.
inline Tensor leaf(const Shape& shape, double low = -1, double high = 1, uint64_t seed = 1) {
  Generator generator(seed);
  Tensor t = uniform(shape, low, high, {DType::f64}, generator);
  t.set_requires_grad();
  return t;
}
inline Tensor values(const Shape& shape, double low = -1, double high = 1, uint64_t seed = 1, DType dtype = DType::f64) {
  return cast(leaf(shape, low, high, seed).detach(), dtype);
}

inline bool same_bits(const Tensor& a, const Tensor& b) {
  if (!(a.shape() == b.shape()) || a.dtype() != b.dtype()) return false;
  const NoGrad off;
  const Tensor x = contiguous(a), y = contiguous(b);
  const size_t size = size_of(x.dtype());
  return !std::memcmp(x->storage->data + size_t(x.offset()) * size, y->storage->data + size_t(y.offset()) * size, size_t(x.numel()) * size);
}

/// What |a - b| may be, relative to 1 + |b|: one table for all tests, by the dtype in which an op stores its result.
inline double tolerance(DType d) {
  switch (d) {
    case DType::f64: return 1e-11;
    case DType::f32: return 2e-5;
    case DType::f16: return 4e-3;
    case DType::bf16: return 3e-2;
    default: return 0;
  }
}
/// The largest difference in units of the tolerance; nan unless all is comparable. At most 1 passes.
inline double difference(const Tensor& a, const Tensor& b, DType dtype) {
  if (!(a.shape() == b.shape())) return NAN;
  const auto x = a.to_vector<double>(), y = b.to_vector<double>();
  double worst = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    if (x[i] == y[i] || (x[i] != x[i] && y[i] != y[i])) continue;
    const double e = std::abs(x[i] - y[i]) / (tolerance(dtype) * (1 + std::abs(y[i])));
    if (!(e <= worst)) worst = e;
  }
  return worst;
}

template <class F> std::string error_of(F&& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "(no error)";
}

}  // namespace retape::testing
