// Reductions over some dims, or over all of them where no dims are given (or an empty list). Sums are made in a fixed tree, so
// results do not depend on the number of threads. Half types add up in float.
#pragma once
#include <retape/core/tensor.h>

namespace retape {

/// Integers and bools add up in i64. torch: sum.
Tensor sum(const Tensor& x, const Shape& dims = {}, bool keepdim = false);
/// Floating only. torch: mean.
Tensor mean(const Tensor& x, const Shape& dims = {}, bool keepdim = false);
/// Equal extremes share the gradient evenly; nan wins. Throws Error over no elements. torch: amax, amin, and max, min over all.
Tensor amax(const Tensor& x, const Shape& dims = {}, bool keepdim = false);
Tensor amin(const Tensor& x, const Shape& dims = {}, bool keepdim = false);
/// The product; integers and bools multiply in i64. torch: prod.
Tensor prod(const Tensor& x, const Shape& dims = {}, bool keepdim = false);
/// Variance with divisor n - correction, and its root (`retape::std` where a `using namespace` would make
/// the name ambiguous). torch: var, std.
Tensor var(const Tensor& x, const Shape& dims = {}, int64_t correction = 1, bool keepdim = false);
Tensor std(const Tensor& x, const Shape& dims = {}, int64_t correction = 1, bool keepdim = false);
/// The vector norm (sum |x|^p)^(1/p); p may be infinity (the largest |x|), -infinity, or 0 (how many are not 0). At 0 the gradient
/// is 0. torch: linalg.vector_norm.
Tensor norm(const Tensor& x, double p = 2, const Shape& dims = {}, bool keepdim = false);
/// log(sum e^x), without overflow; -inf over no elements. torch: logsumexp.
Tensor logsumexp(const Tensor& x, const Shape& dims = {}, bool keepdim = false);
/// Sum and mean of what is not nan. torch: nansum, nanmean.
Tensor nansum(const Tensor& x, const Shape& dims = {}, bool keepdim = false);
Tensor nanmean(const Tensor& x, const Shape& dims = {}, bool keepdim = false);
/// How many elements are not 0, as i64. torch: count_nonzero.
Tensor count_nonzero(const Tensor& x, const Shape& dims = {}, bool keepdim = false);
/// Logical reductions; give bool. torch: any, all.
Tensor any(const Tensor& x, const Shape& dims = {}, bool keepdim = false);
Tensor all(const Tensor& x, const Shape& dims = {}, bool keepdim = false);
/// Index (i64) of the first largest or smallest element along a dim; nan counts as both. torch: argmax, argmin.
Tensor argmax(const Tensor& x, int64_t dim = -1, bool keepdim = false);
Tensor argmin(const Tensor& x, int64_t dim = -1, bool keepdim = false);

/// A value along a dim, and where it stands (i64, no gradient).
struct WithIndices {
  Tensor values, indices;
};
/// The largest or smallest element along a dim; the first of equals gets the whole gradient. torch: max(dim), min(dim).
WithIndices max(const Tensor& x, int64_t dim, bool keepdim = false);
WithIndices min(const Tensor& x, int64_t dim, bool keepdim = false);
/// Both extremes over some dims. torch: aminmax.
struct Range {
  Tensor min, max;
};
Range aminmax(const Tensor& x, const Shape& dims = {}, bool keepdim = false);

/// Sums the dims that broadcasting `shape` to x's shape would have made.
Tensor sum_to(const Tensor& x, const Shape& shape);

}  // namespace retape
