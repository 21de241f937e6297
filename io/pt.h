// PyTorch's checkpoints: what torch.save writes since version 1.6, a zip archive of a pickle and the bytes of its storages. The pickle is
// read as data: nothing in it is executed.
//
//     model.load_state_dict(load_pt("model.pt"));
#pragma once
#include <filesystem>

#include <retape/core/tensor.h>

namespace retape {

class ZipReader;

/// The tensors of a .pt or .pth file, in its order. Keys of nested dictionaries and places in lists and tuples are joined with dots:
/// {"model": {"up.weight": w}, "steps": [s, t]} gives model.up.weight, steps.0, steps.1; a lone tensor has the name "". Numbers, text
/// and None are left out. Complex tensors get a last dim of 2. Strides are kept, and tensors that share a storage in the file share it
/// here. The file is mapped; storages that are aligned in it, as torch stores them, are not copied, and writing to a tensor does not
/// change the file.
/// Throws Error for files that are malformed or older than that format, big-endian ones, dtypes that a Tensor cannot have, and, naming
/// it, for any class or function in the pickle but those of dictionaries, tensors and parameters. torch: load(weights_only=True).
NamedTensors load_pt(const std::filesystem::path& path);
NamedTensors load_pt(const ZipReader& archive);

}  // namespace retape
