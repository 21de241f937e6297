// Checks of arguments that many ops make. Private to autograd's sources.
#pragma once
#include <retape/core/tensor.h>

namespace retape {

[[noreturn]] void throw_undefined(const char* name);
inline void check_defined(const char* name, const Tensor& x) {
  if (!x) throw_undefined(name);
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
