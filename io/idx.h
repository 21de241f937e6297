// IDX files: what MNIST and its relatives come in.
#pragma once
#include <filesystem>
#include <string_view>

#include <retape/core/tensor.h>

namespace retape {

/// The array of an IDX file, plain or compressed with gzip. u8, i32, f32 and f64 keep their dtype; i8 and i16 become i32. Throws Error
/// for what is no IDX file, for more than 8 dims, and if the file has fewer or more bytes than its header says.
/// Format: http://yann.lecun.com/exdb/mnist.
Tensor read_idx(const std::filesystem::path& path);
/// The same for a file's content; `file` is its name in messages.
Tensor decode_idx(std::string_view bytes, std::string_view file = "memory");

}  // namespace retape
