// New tensors from the elements of others in another order: joining, reversing, repeating, padding, combining. Views are in views.h.
#pragma once
#include <vector>

#include <retape/core/tensor.h>

namespace retape {

/// Tensors joined along a dim; all other sizes must be equal, dtypes promote. torch: cat.
Tensor cat(const std::vector<Tensor>& xs, int64_t dim = 0);
/// Tensors of equal shape joined along a new dim. torch: stack.
Tensor stack(const std::vector<Tensor>& xs, int64_t dim = 0);
/// Tensors joined along dim 1, vectors along dim 0. torch: hstack.
Tensor hstack(const std::vector<Tensor>& xs);
/// Tensors joined along dim 0 after atleast_2d(). torch: vstack.
Tensor vstack(const std::vector<Tensor>& xs);
/// Tensors joined along dim 2 after atleast_3d(). torch: dstack.
Tensor dstack(const std::vector<Tensor>& xs);
/// Vectors as columns, and matrices, joined along dim 1. torch: column_stack.
Tensor column_stack(const std::vector<Tensor>& xs);

/// The elements of the given dims in reverse order; a copy. torch: flip, fliplr, flipud.
Tensor flip(const Tensor& x, const Shape& dims);
Tensor fliplr(const Tensor& x);  ///< dim 1; throws Error for fewer than two dims
Tensor flipud(const Tensor& x);  ///< dim 0; throws Error for no dims
/// x turned k times by 90 degrees from dims[0] towards dims[1]. torch: rot90.
Tensor rot90(const Tensor& x, int64_t k = 1, const Shape& dims = {0, 1});
/// Elements shifted along dims, those beyond the end coming in at the start; without a dim, all elements in row-major order.
/// torch: roll.
Tensor roll(const Tensor& x, const Shape& shifts, const Shape& dims);
inline Tensor roll(const Tensor& x, int64_t shift, int64_t dim) { return roll(x, Shape{shift}, Shape{dim}); }
Tensor roll(const Tensor& x, int64_t shift);

/// x so many times along each dim; sizes beyond x's number of dims are new dims in front. torch: Tensor.repeat.
Tensor repeat(const Tensor& x, const Shape& sizes);
/// repeat() with 1 for the dims in front that sizes leaves out. torch: tile; NumPy: tile.
Tensor tile(const Tensor& x, const Shape& sizes);
/// Every element of a dim `repeats` times in a row; without a dim, of all elements in row-major order. torch: repeat_interleave.
Tensor repeat_interleave(const Tensor& x, int64_t repeats, int64_t dim);
Tensor repeat_interleave(const Tensor& x, int64_t repeats);
/// Element j of the dim repeats[j] times; repeats (size of the dim), or one number for all, of i64 or i32. Reads repeats on the host.
/// Throws Error for negative repeats and on meta. torch: repeat_interleave.
Tensor repeat_interleave(const Tensor& x, const Tensor& repeats, int64_t dim);
Tensor repeat_interleave(const Tensor& x, const Tensor& repeats);

enum class PadMode : uint8_t { constant, reflect, replicate, circular };
/// x with elements added before and after: pads has (before, after) of the last dim, then of the one before it, and so on; negative
/// ones take elements away. reflect mirrors without repeating the border and needs pads below the dim's size, circular at most that
/// size, replicate a dim that is not empty. Any number of dims in every mode. torch: functional.pad.
Tensor pad(const Tensor& x, const std::vector<int64_t>& pads, PadMode mode = PadMode::constant, double value = 0);

/// All tuples of one element from each of the vectors, (product of the sizes, number of vectors); of one vector, itself.
/// torch: cartesian_prod.
Tensor cartesian_prod(const std::vector<Tensor>& xs);
/// All choices of r elements of a vector in order, (number of choices, r). torch: combinations.
Tensor combinations(const Tensor& x, int64_t r = 2, bool with_replacement = false);
/// i64 (..., num_classes) with 1 at the class that x (...) of i64 or i32 names; -1 takes one more than the largest. Throws Error for
/// classes that are negative or too large. torch: functional.one_hot.
Tensor one_hot(const Tensor& x, int64_t num_classes = -1);

}  // namespace retape
