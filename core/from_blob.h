// Tensors over memory that somebody else owns.
#pragma once
#include <functional>

#include <retape/core/tensor.h>

namespace retape {

/// A tensor over `data`, without a copy: contiguous, or with the given strides in elements. What writes to the tensor writes there.
/// `deleter(data)` is called once, when the last tensor that shares the memory goes, on the thread where it goes; it must not throw. If
/// there is none, the memory must outlive those tensors. Throws Error, and does not call the deleter, for null (unless the tensor is
/// empty), a negative size or stride, strides of another length, memory that is not aligned to its elements, and for devices other
/// than the CPU. torch: from_blob.
Tensor from_blob(void* data, const Shape& shape, Options options = {}, std::function<void(void*)> deleter = {});
Tensor from_blob(void* data, const Shape& shape, const Shape& strides, Options options = {}, std::function<void(void*)> deleter = {});

}  // namespace retape
