// Numbers that an op takes from the host and that change from step to step (learning rates, places in random streams) would be frozen in a
// captured CUDA graph. This is how they stay alive: the graph reads them from the device, where they are written before each launch.
#pragma once
#include <functional>
#include <type_traits>

#include <retape/core/context.h>
#include <retape/core/device_runtime.h>

namespace retape::detail {

/// Null unless this thread captures a graph. Else where on the device each launch finds what f() gives then; the launch that follows the
/// capture finds `now`. f runs on the host before each later launch, in the order of these calls, and must own what it reads.
template <class T> const T* captured_value(const T& now, std::function<T()> f) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) % 8 == 0);
  if (!ctx.capture) return nullptr;
  return static_cast<const T*>(
      cuda_runtime->captured_value(sizeof(T), [now, f = std::move(f)](void* to, bool first) { *static_cast<T*>(to) = first ? now : f(); }));
}

}  // namespace retape::detail
