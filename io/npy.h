// NumPy's files: .npy, one array, and .npz, a zip archive of named ones.
//
//     save_npz("weights.npz", model.state_dict());      # np.load("weights.npz")["up.weight"]
//     model.load_state_dict(load_npz("weights.npz"));
#pragma once
#include <filesystem>
#include <string_view>

#include <retape/core/tensor.h>

namespace retape {

class ZipReader;

/// Writes a tensor in row-major order; the file is replaced as a whole or not at all. Throws Error for bf16, which NumPy does not have,
/// for undefined and meta tensors, and if writing fails. numpy: save.
void save_npy(const std::filesystem::path& path, const Tensor& x);
/// Reads versions 1 to 3 of the format, f8 f4 f2 i8 i4 u1 b1 in both byte orders, and arrays in Fortran order, whose strides the tensor
/// keeps. Complex numbers (c8, c16) become f32 or f64 with a last dim of 2. The file is mapped: what is aligned and little-endian is not
/// copied, and writing to the tensor does not change the file. Throws Error for other dtypes, object and structured arrays, more than 8
/// dims, and files that are malformed, cut off or too long. numpy: load.
Tensor load_npy(const std::filesystem::path& path);
/// The same for a file's content; the tensor keeps `owner` where it does not copy. `file` is its name in messages.
Tensor load_npy(const std::byte* data, size_t size, Ref<Object> owner, std::string_view file = "memory");

/// Writes each tensor as the entry `name.npy`, deflated if `compress`; see save_npy(). Throws Error also for empty names and for those
/// that are there twice. numpy: savez, savez_compressed.
void save_npz(const std::filesystem::path& path, const NamedTensors& tensors, bool compress = false);
/// All arrays of an archive, in its order; see load_npy(). Throws Error for an entry that is no array, and if a CRC is wrong.
NamedTensors load_npz(const std::filesystem::path& path);
NamedTensors load_npz(const ZipReader& archive);

}  // namespace retape
