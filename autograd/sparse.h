// Gradients of some rows of a leaf: what embedding(weight, ids, padding_idx, sparse) leaves instead of a gradient as large as its weight.
//
// backward() puts such a gradient beside the leaf's dense one, which stays undefined. Optimizers that can (SGD, Adagrad, SparseAdam) change
// those rows and their state only. Where a leaf gets both, the rows are added to the dense gradient.
#pragma once
#include <optional>

#include <retape/core/tensor.h>

namespace retape {

/// Rows of a gradient; a row may be there several times, and counts with its sum. torch: a sparse tensor with one sparse dim.
struct SparseRows {
  Tensor ids;     ///< i64 (n)
  Tensor values;  ///< (n, ...)
  Shape shape;    ///< of the whole gradient
};

/// What backward() has added up for a leaf by rows, coalesced; nothing if there is none, as with a dense gradient.
std::optional<SparseRows> sparse_grad(const Tensor& leaf);
/// Replaces it; nothing drops it. Throws Error unless ids are i64 with one dim, and values fit them and the leaf in shape, dtype and device.
void set_sparse_grad(const Tensor& leaf, std::optional<SparseRows> grad);

/// Each row once, in rising order; what it had several times is added in the order given. torch: Tensor.coalesce.
SparseRows coalesce(const SparseRows& rows);
/// The whole gradient, with zeros in all other rows. torch: Tensor.to_dense.
Tensor to_dense(const SparseRows& rows);

namespace detail {
/// Adds rows to what the leaf has, dense or not. The leaf's lock is held.
void add_rows(TensorImpl& leaf, SparseRows rows);
/// Adds the rows of the leaf, if there are any, to the dense gradient that it has got. The leaf's lock is held.
void merge_rows(TensorImpl& leaf);
/// The values of a leaf's gradient, dense or by rows; undefined if there is none. To be changed in place.
Tensor gradient_values(const Tensor& leaf);
}  // namespace detail

}  // namespace retape
