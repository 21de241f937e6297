// Any bytes as a .npy file: they are refused with an Error, or the array can be read.
#include <cstdint>
#include <vector>

#include <retape/io/npy.h>

#include "read_tensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  struct Owner final : retape::Object {
    std::vector<std::byte> bytes;
    void destroy() noexcept override { delete this; }
  };
  const auto owner = retape::Ref<Owner>::adopt(new Owner);
  const auto* bytes = reinterpret_cast<const std::byte*>(data);
  owner->bytes.assign(bytes, bytes + size);
  try {
    retape::testing::read_all(retape::load_npy(owner->bytes.data(), size, retape::Ref<retape::Object>::share(owner.get())));
  } catch (const retape::Error&) {}
  return 0;
}
