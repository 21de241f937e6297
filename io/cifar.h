// The binary files of CIFAR-10 and CIFAR-100.
#pragma once
#include <filesystem>
#include <string_view>

#include <retape/core/tensor.h>

namespace retape {

/// images u8 (N, 3, 32, 32); labels i64 (N). coarse_labels i64 (N), the 20 superclasses, for CIFAR-100 only.
struct CifarImages {
  Tensor images, labels, coarse_labels;
};
/// A file of records, plain or compressed with gzip: one byte of label (`classes` 10), or two, coarse and fine (`classes` 100), and 3072
/// of image. Throws Error for other `classes`, for a file that is empty or does not end with a whole record, and for labels out of range.
/// Format: https://www.cs.toronto.edu/~kriz/cifar.html.
CifarImages read_cifar(const std::filesystem::path& path, int classes = 10);
/// The same for a file's content; `file` is its name in messages.
CifarImages decode_cifar(std::string_view bytes, int classes = 10, std::string_view file = "memory");

}  // namespace retape
