// What layer_norm and rms_norm share: the last dims, of given sizes, seen as one. Private to autograd's sources.
#pragma once
#include <fmt/format.h>

#include <retape/autograd/check.h>
#include <retape/autograd/views.h>

namespace retape {
namespace {

inline void check_normalized(const char* name, const Tensor& x, const Shape& normalized, const Tensor& parameter, const char* what) {
  check_defined(name, x);
  if (!is_floating(x.dtype()))
    throw Error(
        fmt::format("{}: a tensor of {} cannot be normalised in its own dtype; cast() it to a floating dtype", name, name_of(x.dtype())));
  bool fits = normalized.rank() > 0 && normalized.rank() <= x.dim();
  for (int d = 1; fits && d <= normalized.rank(); ++d) fits = normalized[-d] == x.shape()[-d];
  if (!fits)
    throw Error(fmt::format("{}: normalized_shape {} does not fit x of shape {}; it must be the sizes of x's last dims", name,
                            normalized.str(), x.shape().str()));
  if (!parameter) return;
  if (!(parameter.shape() == normalized))
    throw Error(fmt::format("{}: {} of shape {} does not fit normalized_shape {}; they must be equal", name, what, parameter.shape().str(),
                            normalized.str()));
  if (!is_floating(parameter.dtype()))
    throw Error(fmt::format("{}: {} has dtype {}; it must be floating", name, what, name_of(parameter.dtype())));
  check_one_device(name, x, parameter);
}
// x as (rows, elements that are normalised together)
inline Tensor as_rows(const Tensor& x, const Shape& normalized) {
  const int64_t n = normalized.numel();
  int64_t rows = 1;
  for (int d = 0; d < x.dim() - normalized.rank(); ++d) rows *= x.shape()[d];
  return reshape(x, {rows, n});
}
// A weight or a bias as one contiguous row, or nothing.
inline Tensor as_row(const Tensor& w) { return w ? contiguous(reshape(w, {w.numel()})) : w; }
// Statistics of half types are kept in f32.
inline Options statistics_of(const Tensor& x) { return {x.dtype() == DType::f64 ? DType::f64 : DType::f32, x.device()}; }

}  // namespace
}  // namespace retape
