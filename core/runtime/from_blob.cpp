#include <retape/core/from_blob.h>

#include <fmt/format.h>

namespace retape {
namespace {

struct Blob final : Object {
  void* data = nullptr;
  std::function<void(void*)> deleter;
  void destroy() noexcept override {
    if (deleter) deleter(data);
    delete this;
  }
};

// Throws unless the sizes are possible; those beside a 0 count too, since strides are made from them.
void check_sizes(const Shape& shape, DType dtype) {
  auto bytes = int64_t(size_of(dtype));
  for (const int64_t n : shape) {
    if (n < 0) throw Error(fmt::format("from_blob: size {} in shape {} is negative", n, shape.str()));
    if (__builtin_mul_overflow(bytes, n > 1 ? n : 1, &bytes))
      throw Error(fmt::format("from_blob: a tensor of shape {} and {} has more than 2^63 bytes", shape.str(), name_of(dtype)));
  }
}

}  // namespace

Tensor from_blob(void* data, const Shape& shape, Options options, std::function<void(void*)> deleter) {
  check_sizes(shape, options.dtype);
  return from_blob(data, shape, contiguous_strides(shape), options, std::move(deleter));
}

Tensor from_blob(void* data, const Shape& shape, const Shape& strides, Options options, std::function<void(void*)> deleter) {
  if (!options.device.is_cpu()) throw Error("from_blob: only memory of the CPU is supported");
  if (strides.rank() != shape.rank())
    throw Error(fmt::format("from_blob: strides {} do not fit shape {}; there must be one for each dim", strides.str(), shape.str()));
  check_sizes(shape, options.dtype);
  const auto width = int64_t(size_of(options.dtype));
  int64_t last = 0;  // the element that is farthest from the first
  bool empty = false, overflow = false;
  for (int i = 0; i < shape.rank(); ++i) {
    if (strides[i] < 0)
      throw Error(fmt::format("from_blob: stride {} in {} is negative, which is not supported", strides[i], strides.str()));
    empty |= shape[i] == 0;
  }
  int64_t bytes = 0;
  for (int i = 0; i < shape.rank() && !empty; ++i) {
    int64_t step = 0;
    overflow |= __builtin_mul_overflow(shape[i] - 1, strides[i], &step) || __builtin_add_overflow(last, step, &last);
  }
  overflow |= last == INT64_MAX || __builtin_mul_overflow(last + 1, width, &bytes);
  if (overflow) throw Error(fmt::format("from_blob: shape {} with strides {} reaches over 2^63 bytes", shape.str(), strides.str()));
  if (empty) bytes = 0;
  if (!data && !empty) throw Error(fmt::format("from_blob: the memory is null, but shape {} has elements", shape.str()));
  if (reinterpret_cast<uintptr_t>(data) % uintptr_t(width) != 0)
    throw Error(
        fmt::format("from_blob: the memory at {} is not aligned for {}, which takes multiples of {}", data, name_of(options.dtype), width));

  const auto blob = Ref<Blob>::adopt(new Blob);
  blob->data = data;
  const Tensor t = make_tensor(Storage::wrap(data, size_t(bytes), Ref<Object>::share(blob.get())), {shape, strides, 0, options.dtype});
  blob->deleter = std::move(deleter);  // only now: nothing that throws comes after it
  return t;
}

}  // namespace retape
