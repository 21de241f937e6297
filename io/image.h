// PNG and JPEG images as tensors u8 (channels, height, width).
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include <retape/core/tensor.h>

namespace retape {

/// The channels that an image is read as. torchvision: io.ImageReadMode.
enum class ImageReadMode : uint8_t {
  unchanged,   ///< those of the file, 1 to 4
  gray,        ///< 1: 0.299 R + 0.587 G + 0.114 B
  gray_alpha,  ///< 2
  rgb,         ///< 3
  rgb_alpha,   ///< 4; an image without alpha is opaque, 255
};

struct ImageReadOptions {
  ImageReadMode mode = ImageReadMode::unchanged;
  int64_t max_pixels = int64_t{1} << 27;  ///< an image with more is refused before memory is taken for it
};

/// Reads a PNG or JPEG file, whichever its first bytes say, as u8 (channels, height, width).
///
/// PNG: samples of 16 bits lose their lower 8, those of 1 to 4 are spread over 0 to 255, palettes become their colours, and transparent
/// colours become an alpha channel (torchvision leaves palettes as indices). Gamma and colour profiles are not applied.
/// JPEG: baseline, progressive and arithmetic; one channel or RGB, and CMYK, taken inverted as Adobe writes it, becomes RGB. The
/// orientation that a camera noted is not applied.
///
/// Throws Error, naming the file, if it cannot be read, is neither PNG nor JPEG, has more than max_pixels, is damaged, or
/// is cut off: a JPEG that ends early is not filled up with gray, as some decoders do. torchvision: io.read_image.
Tensor read_image(const std::filesystem::path& path, const ImageReadOptions& options = {});
/// The same for a file's content; `file` is its name in messages. torchvision: io.decode_image.
Tensor decode_image(std::string_view bytes, const ImageReadOptions& options = {}, std::string_view file = "memory");

/// Writes u8 (channels, height, width) as a PNG file: gray, gray and alpha, RGB or RGB and alpha, as there are 1 to 4 channels. The
/// file is replaced as a whole or not at all. Throws Error for other shapes and dtypes, for a compression_level out of
/// 0 to 9, and if writing fails. torchvision: io.write_png.
void write_png(const std::filesystem::path& path, const Tensor& image, int compression_level = 6);
/// What write_png() writes. torchvision: io.encode_png.
std::string encode_png(const Tensor& image, int compression_level = 6);

}  // namespace retape
