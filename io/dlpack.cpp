#include <retape/io/dlpack.h>

#include <dlpack/dlpack.h>
#include <fmt/format.h>

#include <memory>
#include <optional>

#include <retape/core/from_blob.h>

namespace retape {
namespace {

constexpr int code_bool = 6;  // kDLBool, which older headers do not have

DLDataType dl_type(DType d) {
  int code = kDLInt;
  if (is_floating(d)) code = d == DType::bf16 ? int(kDLBfloat) : int(kDLFloat);
  else if (d == DType::u8) code = kDLUInt;
  else if (d == DType::boolean) code = code_bool;
  return {uint8_t(code), uint8_t(8 * size_of(d)), 1};
}
std::optional<DType> dtype_of_dl(DLDataType type) {
  for (const DType d : {DType::f64, DType::f32, DType::f16, DType::bf16, DType::i64, DType::i32, DType::u8, DType::boolean}) {
    const DLDataType known = dl_type(d);
    if (known.code == type.code && known.bits == type.bits && known.lanes == type.lanes) return d;
  }
  return {};
}

struct Exported {
  DLManagedTensor managed{};
  Tensor tensor;
  Shape shape, strides;
};

}  // namespace

DLManagedTensor* to_dlpack(const Tensor& x) {
  if (!x) throw Error("to_dlpack: the tensor is undefined");
  if (!x.device().is_cpu())
    throw Error(
        fmt::format("to_dlpack: a tensor of shape {} is not on the CPU; only the CPU's memory can be handed over", x.shape().str()));
  if (x.requires_grad()) throw Error("to_dlpack: the tensor wants a gradient, which others would not see; use detach()");
  auto exported = std::make_unique<Exported>();
  exported->tensor = x.detach();
  exported->shape = x.shape();
  exported->strides = x.strides();
  DLTensor& t = exported->managed.dl_tensor;
  t.data = x->storage->data;
  t.byte_offset = uint64_t(x.offset()) * size_of(x.dtype());
  t.device = {kDLCPU, 0};
  t.ndim = x.dim();
  t.dtype = dl_type(x.dtype());
  t.shape = x.dim() ? &exported->shape[0] : nullptr;
  t.strides = x.dim() ? &exported->strides[0] : nullptr;
  exported->managed.manager_ctx = exported.get();
  exported->managed.deleter = [](DLManagedTensor* self) { delete static_cast<Exported*>(self->manager_ctx); };
  return &exported.release()->managed;
}

Tensor from_dlpack(DLManagedTensor* managed) {
  if (!managed) throw Error("from_dlpack: the tensor is null");
  const DLTensor& t = managed->dl_tensor;
  if (t.device.device_type != kDLCPU)
    throw Error(fmt::format("from_dlpack: device type {} is not supported; expected the CPU ({})", int(t.device.device_type), int(kDLCPU)));
  const auto dtype = dtype_of_dl(t.dtype);
  if (!dtype)
    throw Error(
        fmt::format("from_dlpack: dtype code {} of {} bits and {} lanes is not supported; f64, f32, f16, bf16, i64, i32, u8 and bool are",
                    int(t.dtype.code), int(t.dtype.bits), int(t.dtype.lanes)));
  if (t.ndim < 0 || t.ndim > Shape::max_rank)
    throw Error(fmt::format("from_dlpack: {} dims are not supported; expected 0 to {}", t.ndim, int(Shape::max_rank)));
  if (t.ndim > 0 && !t.shape) throw Error(fmt::format("from_dlpack: the shape of {} dims is null", t.ndim));
  const Shape shape(t.shape, size_t(t.ndim));
  void* data = t.data ? static_cast<std::byte*>(t.data) + t.byte_offset : nullptr;
  const auto deleter = [managed](void*) {
    if (managed->deleter) managed->deleter(managed);
  };
  if (!t.strides) return from_blob(data, shape, {*dtype}, deleter);
  return from_blob(data, shape, Shape(t.strides, size_t(t.ndim)), {*dtype}, deleter);
}

}  // namespace retape
