// Any bytes as a .npz file: they are refused with an Error, or all tensors can be read. CRCs are not checked in this build.
#include <cstdint>
#include <vector>

#include <retape/io/npy.h>
#include <retape/io/zip.h>

#include "read_tensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto* bytes = reinterpret_cast<const std::byte*>(data);
  try {
    for (auto& [name, tensor] : retape::load_npz(retape::ZipReader::from_bytes({bytes, bytes + size}))) retape::testing::read_all(tensor);
  } catch (const retape::Error&) {}
  return 0;
}
