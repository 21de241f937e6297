// Numerical tests of gradients, for the library's ops and for users' own.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include <retape/core/tensor.h>

namespace retape {

using TensorFunction = std::function<Tensor(const std::vector<Tensor>&)>;

struct GradcheckOptions {
  double eps = 1e-6;  ///< step of the central difference
  double atol = 1e-5;
  double rtol = 1e-3;
};
struct GradcheckResult {
  bool passed = true;
  std::string report;  ///< the worst element: which input, its analytic and numeric derivative; empty if all is well
  explicit operator bool() const { return passed; }
};

/// Compares the gradients of f at x with central differences. f must be a pure function of x; those x that want gradients must be f64
/// leaves (the defaults hold for f64 only; Error otherwise). The output is weighted with fixed random numbers, so that
/// compensating mistakes show. Must fail for a wrong gradient: |a - n| > atol + rtol |n|. torch: autograd.gradcheck.
GradcheckResult gradcheck(const TensorFunction& f, const std::vector<Tensor>& x, GradcheckOptions options = {});
/// The same for second derivatives, with respect to x and to the incoming gradient. torch: gradgradcheck.
GradcheckResult gradgradcheck(const TensorFunction& f, const std::vector<Tensor>& x, GradcheckOptions options = {});

}  // namespace retape
