// Any bytes as a safetensors file: it is refused with an Error, or all that its header lists can be read.
#include <cstdint>
#include <cstdlib>

#include <retape/io/safetensors.h>

using namespace retape;

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

void read_all(const SafeTensors& file, size_t size) {
  for (auto& entry : file.entries()) {
    require(entry.begin <= entry.end && entry.end <= size);
    require(&file.info(entry.name) == &entry);
    if (!SafeTensors::dtype_of(entry) || entry.shape.size() > size_t(Shape::max_rank)) continue;
    try {
      const Tensor t = file.tensor(entry.name);
      const size_t bytes = size_t(t.numel()) * size_of(t.dtype());
      require(bytes == entry.end - entry.begin);
      unsigned sum = 0;
      for (size_t i = 0; i < bytes; ++i) sum += unsigned(t->storage->data[i]);
      [[maybe_unused]] volatile unsigned sink = sum;
    } catch (const Error&) {  // a bool that is neither 0 nor 1
      require(entry.dtype == "BOOL");
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto* bytes = reinterpret_cast<const std::byte*>(data);
  try {
    read_all(SafeTensors::from_bytes({bytes, bytes + size}), size);
  } catch (const Error&) {}
  return 0;
}
