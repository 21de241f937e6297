// Shape and layout: views share the storage of what they view; cat, stack, contiguous and cast make new tensors.
#pragma once
#include <vector>

#include <retape/core/tensor.h>

namespace retape {

/// The same value under a new name on the tape.
Tensor identity(const Tensor& x);
/// x with the same elements in another shape; one size may be -1. A view where the strides allow, else a copy. Throws Error if the
/// number of elements differs. torch: reshape.
Tensor reshape(const Tensor& x, const Shape& shape);
/// Dims start..end (inclusive) become one. torch: flatten.
Tensor flatten(const Tensor& x, int64_t start = 0, int64_t end = -1);
/// x with two dims exchanged. torch: transpose.
Tensor transpose(const Tensor& x, int64_t dim0, int64_t dim1);
/// The matrix transpose of the last two dims. torch: mT.
inline Tensor transpose(const Tensor& x) { return transpose(x, -2, -1); }
/// x with its dims in the given order. torch: permute.
Tensor permute(const Tensor& x, const Shape& dims);
/// x broadcast to `shape` by stride 0; -1 keeps a size. torch: expand.
Tensor expand(const Tensor& x, const Shape& shape);
/// A dim of size 1 inserted before `dim`. torch: unsqueeze.
Tensor unsqueeze(const Tensor& x, int64_t dim);
/// The dim of size 1 removed; unchanged if its size is not 1. torch: squeeze.
Tensor squeeze(const Tensor& x, int64_t dim);
/// Elements [start, start + length) of a dim. Throws Error if they are not all there. torch: narrow.
Tensor narrow(const Tensor& x, int64_t dim, int64_t start, int64_t length);
/// Elements start, start + step, ... below end of a dim; start and end are clamped, negative ones count from the end, step > 0.
Tensor slice(const Tensor& x, int64_t dim, int64_t start, int64_t end, int64_t step = 1);
/// Element `index` of a dim, without the dim. torch: select.
Tensor select(const Tensor& x, int64_t dim, int64_t index);
/// Parts of size `size` (the last may be smaller) along a dim. torch: split.
std::vector<Tensor> split(const Tensor& x, int64_t size, int64_t dim = 0);
/// Parts of the given sizes, which must add up to the dim's. torch: split with sections.
std::vector<Tensor> split(const Tensor& x, const std::vector<int64_t>& sizes, int64_t dim = 0);
/// `count` parts of equal size (the last may be smaller). torch: chunk.
std::vector<Tensor> chunk(const Tensor& x, int64_t count, int64_t dim = 0);
/// Tensors joined along a dim; all other sizes must be equal, dtypes promote. torch: cat.
Tensor cat(const std::vector<Tensor>& xs, int64_t dim = 0);
/// Tensors of equal shape joined along a new dim. torch: stack.
Tensor stack(const std::vector<Tensor>& xs, int64_t dim = 0);

/// x itself if it is contiguous, else a copy that is. torch: contiguous.
Tensor contiguous(const Tensor& x);
/// A copy in new, contiguous memory. torch: clone.
Tensor clone(const Tensor& x);
/// x in another dtype; x itself if it has it. Floating to integer truncates. torch: Tensor.to(dtype).
Tensor cast(const Tensor& x, DType dtype);
/// x on another device; x itself if it is there. To `meta`, the data is left behind. torch: Tensor.to(device).
Tensor to(const Tensor& x, Device device);
/// Writes the values of x (broadcast, converted) into y in place; not recorded. Throws Error if y wants a gradient and the tape
/// records. torch: Tensor.copy_.
void copy_into(const Tensor& x, const Tensor& y);

}  // namespace retape
