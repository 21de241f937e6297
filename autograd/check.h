// Checks of arguments that many ops make. Private to autograd's sources.
#pragma once
#include <retape/core/tensor.h>

namespace retape {

[[noreturn]] void throw_undefined(const char* name);
inline void check_defined(const char* name, const Tensor& x) {
  if (!x) throw_undefined(name);
}
[[noreturn]] void throw_different_devices(const char* name, const Tensor* const* in, int n);
/// Throws Error with the shapes and devices of all unless those that are defined are where the first is.
template <class... T> void check_one_device(const char* name, const Tensor& x, const T&... others) {
  const Tensor* const all[] = {&x, &others...};
  for (const Tensor* t : all)
    if (*t && !(t->device() == x.device())) throw_different_devices(name, all, 1 + int(sizeof...(T)));
}
/// dim counted from the front, of a tensor that is defined.
int check_dim(const char* name, const Tensor& x, int64_t dim);
/// The same for ops that have no meaning for a tensor without dims.
int sized_dim(const char* name, const Tensor& x, int64_t dim);

namespace detail {
/// Where to call a kernel that, run on meta, counts its scratch memory (core/meta_scratch.h).
inline Device cpu_for_meta(Device device) { return device.is_meta() ? Device::cpu() : device; }
}  // namespace detail

}  // namespace retape
