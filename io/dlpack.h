// DLPack: tensors handed to and taken from other frameworks in the same process, without copies.
#pragma once
#include <retape/core/tensor.h>

struct DLManagedTensor;  // <dlpack/dlpack.h>

namespace retape {

/// The tensor as DLPack describes it. It shares the memory, which lives until the receiver calls the structure's deleter (once; if nobody
/// does, the memory is never freed). Throws Error for undefined tensors, for those that want a gradient (detach() first), and for devices
/// other than the CPU. bool is DLPack's kDLBool. torch: utils.dlpack.to_dlpack.
DLManagedTensor* to_dlpack(const Tensor& x);

/// A tensor over DLPack's memory. Its deleter is called once, when the last tensor that shares the memory goes; if this throws, the
/// structure still belongs to the caller. Throws Error for null, devices other than the CPU, dtypes that a Tensor cannot have, vector
/// lanes, more than 8 dims, and what from_blob() refuses. torch: utils.dlpack.from_dlpack.
Tensor from_dlpack(DLManagedTensor* managed);

}  // namespace retape
