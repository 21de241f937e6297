// What losses share. Private to nn's sources.
#pragma once
#include <retape/autograd/autocast.h>
#include <retape/autograd/cross_entropy.h>

namespace retape::detail {

/// Losses of single elements, reduced.
Tensor reduced(const char* name, const Tensor& losses, Reduction reduction);
/// Throws Error unless both are defined, floating and of one shape.
void check_pair(const char* name, const Tensor& input, const Tensor& target, const char* input_name = "input",
                const char* target_name = "target");
/// Throws Error unless x is defined, and floating.
void check_floating(const char* name, const Tensor& x, const char* what);
/// Throws Error unless `target` (i64 or i32, on the CPU) has values in [0, classes), or `ignored`.
void check_classes(const char* name, const Tensor& target, int64_t classes, int64_t ignored);
/// f(x...), which under autocast computes in f32.
template <class F, class... X> Tensor in_full_precision(F&& f, const X&... x) {
  if (autocasting()) return under_autocast(Precision::full, f, x...);
  return f(x...);
}

}  // namespace retape::detail
