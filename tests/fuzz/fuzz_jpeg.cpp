// Any bytes as a JPEG file: they are refused with an Error, or the image can be read in every mode.
#include <cstdint>

#include "read_image.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  retape::testing::read_image_as_all({reinterpret_cast<const char*>(data), size});
  return 0;
}
