// Any bytes as an IDX file, plain or compressed: they are refused with an Error, or the array can be read.
#include <cstdint>

#include <retape/io/idx.h>

#include "read_tensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    retape::testing::read_all(retape::decode_idx({reinterpret_cast<const char*>(data), size}));
  } catch (const retape::Error&) {}
  return 0;
}
