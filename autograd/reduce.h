// Reductions over some dims, or over all of them where no dims are given (or an empty list). Sums are made in a fixed tree, so
// results do not depend on the number of threads. Half types add up in float.
#pragma once
#include <retape/core/tensor.h>

namespace retape {

/// Integers and bools add up in i64. torch: sum.
Tensor sum(const Tensor& x, const Shape& dims = {}, bool keepdim = false);
/// Floating only. torch: mean.
Tensor mean(const Tensor& x, const Shape& dims = {}, bool keepdim = false);
/// Equal extremes share the gradient evenly. Throws Error over no elements. torch: amax, amin.
Tensor amax(const Tensor& x, const Shape& dims = {}, bool keepdim = false);
Tensor amin(const Tensor& x, const Shape& dims = {}, bool keepdim = false);
/// Variance with divisor n - correction. torch: var.
Tensor var(const Tensor& x, const Shape& dims = {}, int64_t correction = 1, bool keepdim = false);
/// Logical reductions; give bool. torch: any, all.
Tensor any(const Tensor& x, const Shape& dims = {}, bool keepdim = false);
Tensor all(const Tensor& x, const Shape& dims = {}, bool keepdim = false);
/// Index (i64) of the first largest or smallest element along a dim. torch: argmax, argmin.
Tensor argmax(const Tensor& x, int64_t dim = -1, bool keepdim = false);
Tensor argmin(const Tensor& x, int64_t dim = -1, bool keepdim = false);
/// Sums the dims that broadcasting `shape` to x's shape would have made.
Tensor sum_to(const Tensor& x, const Shape& shape);

}  // namespace retape
