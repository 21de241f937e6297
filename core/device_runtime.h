// What core needs of a device besides kernels: memory, copies, waiting. cuda/runtime.cu fills it; in a build without CUDA there is none.
#pragma once
#include <retape/core/kernel_table.h>

namespace retape {

struct DeviceRuntime {
  const Kernels* kernels;
  std::string (*why_unavailable)();  // empty: it is
  int (*device_count)();
  void (*use)(int device);               // makes it the thread's current one; throws Error if there is none of that number
  std::byte* (*allocate)(size_t bytes);  // on the current device, in the order of its stream; throws Error
  void (*deallocate)(int device, std::byte* p, size_t bytes) noexcept;
  void (*from_host)(const void* from, std::byte* to, size_t bytes);  // to the current device; `from` may be changed afterwards
  void (*to_host)(const std::byte* from, void* to, size_t bytes);    // from the current device, waiting for it
  void (*between)(const std::byte* from, int from_device, std::byte* to, int to_device, size_t bytes);
  void (*synchronize)(int device);
  MemoryStats (*memory_stats)(int device);
  void (*reset_peak_memory)(int device);
  void (*empty_cache)();
};

namespace detail {
extern const DeviceRuntime* cuda_runtime;  // null: a build without CUDA
}

}  // namespace retape
