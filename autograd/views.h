// Shape and layout: views share the storage of what they view; contiguous, clone, cast and to make new tensors. More that copies is in
// rearrange.h.
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
/// `sections` parts whose sizes differ by at most one, the larger ones first. torch: tensor_split.
std::vector<Tensor> tensor_split(const Tensor& x, int64_t sections, int64_t dim = 0);
/// The parts between cuts: [0, i0), [i0, i1), ..., [in, size), as slices, so that cuts beyond the end give empty parts.
/// torch: tensor_split.
std::vector<Tensor> tensor_split(const Tensor& x, const std::vector<int64_t>& indices, int64_t dim = 0);
/// All elements of a dim, each without the dim. torch: unbind.
std::vector<Tensor> unbind(const Tensor& x, int64_t dim = 0);

/// x with the dims `source` at the places `destination` and the other dims in order around them. torch: movedim.
Tensor movedim(const Tensor& x, const Shape& source, const Shape& destination);
inline Tensor movedim(const Tensor& x, int64_t source, int64_t destination) { return movedim(x, Shape{source}, Shape{destination}); }
/// transpose() under its other names. torch: swapaxes, swapdims.
inline Tensor swapaxes(const Tensor& x, int64_t axis0, int64_t axis1) { return transpose(x, axis0, axis1); }
inline Tensor swapdims(const Tensor& x, int64_t dim0, int64_t dim1) { return transpose(x, dim0, dim1); }
/// Dim `dim` becomes several of the given sizes, one of which may be -1. torch: unflatten.
Tensor unflatten(const Tensor& x, int64_t dim, const Shape& sizes);
/// Windows of `size` elements that begin every `step` elements of a dim: the dim counts windows, a new last dim has their elements. A
/// view, also where windows overlap. Throws Error for a window larger than the dim. torch: Tensor.unfold.
Tensor unfold(const Tensor& x, int64_t dim, int64_t size, int64_t step);
/// expand() under another name. torch: broadcast_to.
inline Tensor broadcast_to(const Tensor& x, const Shape& shape) { return expand(x, shape); }
/// The tensors expanded to their common shape. torch: broadcast_tensors.
std::vector<Tensor> broadcast_tensors(const std::vector<Tensor>& xs);
inline Tensor reshape_as(const Tensor& x, const Tensor& other) { return reshape(x, other.shape()); }
inline Tensor expand_as(const Tensor& x, const Tensor& other) { return expand(x, other.shape()); }
/// Vectors as the coordinates of a grid, all of shape (size of the first, size of the second, ...); with xy, the first two dims change
/// places. 0-dim tensors count as vectors of one element. torch: meshgrid.
enum class Indexing : uint8_t { ij, xy };
std::vector<Tensor> meshgrid(const std::vector<Tensor>& xs, Indexing indexing = Indexing::ij);
/// x with dims of size 1 added until it has 1, 2 or 3: (n) becomes (1, n) or (1, n, 1), (m, n) becomes (m, n, 1). torch: atleast_1d, ...
Tensor atleast_1d(const Tensor& x);
Tensor atleast_2d(const Tensor& x);
Tensor atleast_3d(const Tensor& x);

/// x itself if it is contiguous, else a copy that is. torch: contiguous.
Tensor contiguous(const Tensor& x);
/// The same for another order of the elements: channels_last for (N, C, ...). Throws Error for fewer than 3 dims.
/// torch: contiguous(memory_format=torch.channels_last).
Tensor contiguous(const Tensor& x, MemoryFormat format);
/// A copy in new, contiguous memory. torch: clone.
Tensor clone(const Tensor& x);
/// x in another dtype; x itself if it has it. Floating to integer truncates. torch: Tensor.to(dtype).
Tensor cast(const Tensor& x, DType dtype);
/// x on another device; x itself if it is there. To `meta`, the data is left behind. With `non_blocking` the host does not wait for copies
/// between pin_memory() and a CUDA device: x must stay as it is until the device has made one; what comes to the CPU is pinned, and there
/// once the stream has been synchronized. torch: Tensor.to(device, non_blocking).
Tensor to(const Tensor& x, Device device, bool non_blocking = false);
/// Writes the values of x (broadcast, converted) into y in place; not recorded. Throws Error if y wants a gradient and the tape
/// records. torch: Tensor.copy_.
void copy_into(const Tensor& x, const Tensor& y);

}  // namespace retape
