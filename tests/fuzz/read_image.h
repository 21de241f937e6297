// What a reader of images has accepted has the channels that were asked for, and comes back unchanged from a PNG.
#pragma once
#include <algorithm>
#include <string_view>

#include <retape/io/image.h>

#include "read_tensors.h"

namespace retape::testing {

inline void read_image_as_all(std::string_view bytes) {
  constexpr ImageReadMode modes[] = {ImageReadMode::unchanged, ImageReadMode::gray, ImageReadMode::gray_alpha, ImageReadMode::rgb,
                                     ImageReadMode::rgb_alpha};
  for (int channels = 0; channels <= 4; ++channels) {
    try {
      const Tensor image = decode_image(bytes, {.mode = modes[channels], .max_pixels = 1 << 16});
      require(image.numel() > 0 && (channels == 0 || image.size(0) == channels));
      read_all(image);
      if (channels == 0) {
        const Tensor again = decode_image(encode_png(image, 1));
        require(again.shape() == image.shape() &&
                std::equal(image.data<uint8_t>(), image.data<uint8_t>() + image.numel(), again.data<uint8_t>()));
      }
    } catch (const Error&) {
      return;
    }
  }
}

}  // namespace retape::testing
