// Reading and adding at positions given by an index tensor, i64 or i32. Values must be in [0, size), or an Error is thrown that names
// the value and the size; negative ones do not count from the end. Sums are made in the order of the index, whatever the threads.
#pragma once
#include <retape/core/tensor.h>

namespace retape {

/// The elements index (k) of a dim: x with size k there. Any dtype. torch: index_select.
Tensor index_select(const Tensor& x, int64_t dim, const Tensor& index);
/// x with source[..., j, ...] added at element index[j] of a dim, as a new tensor. index (k); source like x with size k at dim, cast to
/// x's dtype. torch: Tensor.index_add.
Tensor index_add(const Tensor& x, int64_t dim, const Tensor& index, const Tensor& source);
/// y[i, j, ...] = x[index[i, j, ...], j, ...] for dim 0, and so for other dims. index has x's number of dims and, except at dim, no size
/// above x's; y has index's shape. Any dtype. torch: gather.
Tensor gather(const Tensor& x, int64_t dim, const Tensor& index);
/// x with y[index[i, j, ...], j, ...] += source[i, j, ...] for dim 0, and so for other dims, as a new tensor. index fits x as in gather()
/// and has no size above source's; source is cast to x's dtype. torch: scatter_add.
Tensor scatter_add(const Tensor& x, int64_t dim, const Tensor& index, const Tensor& source);
/// Rows ids of weight (rows, dim): ids (...) gives (..., dim). The row padding_idx, if it is not -1, gets no gradient.
/// torch: functional.embedding.
Tensor embedding(const Tensor& weight, const Tensor& ids, int64_t padding_idx = -1);

}  // namespace retape
