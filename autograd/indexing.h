// Indexing with several indices, with positions of elements laid flat, and with masks. Tensor::at() and Tensor::put() of core/tensor.h
// are defined here too.
#pragma once
#include <retape/core/tensor.h>

namespace retape {

/// x with x.at(indices) replaced by values (broadcast, cast to x's dtype), or, if `accumulate`, with values added, as a new tensor.
/// torch: index_put.
Tensor index_put(const Tensor& x, const std::vector<Index>& indices, const Tensor& values, bool accumulate = false);

/// The elements of x, laid flat in row-major order, at positions index (any shape), which is the result's shape. Negative positions
/// count from the end. torch: take.
Tensor take(const Tensor& x, const Tensor& index);
/// x with the elements at such positions replaced by source, which has as many elements as index, or, if `accumulate`, with source
/// added, as a new tensor. torch: put.
Tensor put(const Tensor& x, const Tensor& index, const Tensor& source, bool accumulate = false);

/// Coordinates of the elements that are not 0 (nan is not), in row-major order: i64 (how many, number of dims). Throws Error on meta,
/// where there are no values. torch: nonzero, argwhere.
Tensor nonzero(const Tensor& x);
Tensor argwhere(const Tensor& x);
/// The elements of x where mask (bool) is true, in row-major order; the two broadcast. torch: masked_select.
Tensor masked_select(const Tensor& x, const Tensor& mask);
/// x with its elements where mask (bool, broadcast to x) is true replaced by the first elements of source, in row-major order. Throws
/// Error if source has too few. torch: masked_scatter.
Tensor masked_scatter(const Tensor& x, const Tensor& mask, const Tensor& source);

}  // namespace retape
