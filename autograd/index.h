// Reading and writing along a dim at positions given by an index tensor, i64 or i32. Values must be in [0, size), or an Error is
// thrown that names the value and the size; negative ones do not count from the end (Tensor::at() and indexing.h have those). Where an
// index names an element several times, sums are made in the order of the index and the last value replaces, whatever the threads;
// gradients follow the values that stayed.
#pragma once
#include <retape/autograd/binary.h>
#include <retape/core/tensor.h>

namespace retape {

/// The elements index (k) of a dim: x with size k there. Any dtype. torch: index_select.
Tensor index_select(const Tensor& x, int64_t dim, const Tensor& index);
/// x with source[..., j, ...] added at element index[j] of a dim, as a new tensor. index (k); source like x with size k at dim, cast to
/// x's dtype. torch: Tensor.index_add.
Tensor index_add(const Tensor& x, int64_t dim, const Tensor& index, const Tensor& source);
/// The same, with elements replaced. torch: Tensor.index_copy.
Tensor index_copy(const Tensor& x, int64_t dim, const Tensor& index, const Tensor& source);
/// The same, with all elements replaced by value, a number or a 0-dim tensor. torch: Tensor.index_fill.
Tensor index_fill(const Tensor& x, int64_t dim, const Tensor& index, const Operand& value);

/// y[i, j, ...] = x[index[i, j, ...], j, ...] for dim 0, and so for other dims. index has x's number of dims and, except at dim, no size
/// above x's; y has index's shape. Any dtype. torch: gather.
Tensor gather(const Tensor& x, int64_t dim, const Tensor& index);
/// gather() with all dims but `dim` broadcast; without a dim, from all elements in row-major order. torch: take_along_dim.
Tensor take_along_dim(const Tensor& x, const Tensor& index, int64_t dim);
Tensor take_along_dim(const Tensor& x, const Tensor& index);
/// x with y[index[i, j, ...], j, ...] += source[i, j, ...] for dim 0, and so for other dims, as a new tensor. index fits x as in gather()
/// and has no size above source's; source is cast to x's dtype. torch: scatter_add.
Tensor scatter_add(const Tensor& x, int64_t dim, const Tensor& index, const Tensor& source);
/// The same, with elements replaced by source, or joined with it; source may be a number. torch: scatter.
enum class ScatterMode : uint8_t { none, add, multiply };
Tensor scatter(const Tensor& x, int64_t dim, const Tensor& index, const Operand& source, ScatterMode reduce = ScatterMode::none);

/// scatter_reduce: the elements that index names become the sum, product, mean, largest or smallest of what source sends there and, with
/// include_self, of x's own element; others stay. Means of integers round down. Equal extremes share the gradient. The gradient of a
/// product is right where factors are 0; a second derivative with several zero factors of source in one product throws Error, as in
/// PyTorch. torch: scatter_reduce.
enum class ReduceMode : uint8_t { sum, prod, mean, amax, amin };
Tensor scatter_reduce(const Tensor& x, int64_t dim, const Tensor& index, const Tensor& source, ReduceMode reduce, bool include_self = true);
/// The same with index and source as in index_add(). torch: Tensor.index_reduce.
Tensor index_reduce(const Tensor& x, int64_t dim, const Tensor& index, const Tensor& source, ReduceMode reduce, bool include_self = true);

/// Rows ids of weight (rows, dim): ids (...) gives (..., dim). The row padding_idx, if it is not -1, gets no gradient.
/// With `sparse`, backward() leaves a leaf weight the gradient of those rows only (autograd/sparse.h). torch: functional.embedding.
Tensor embedding(const Tensor& weight, const Tensor& ids, int64_t padding_idx = -1, bool sparse = false);

}  // namespace retape
