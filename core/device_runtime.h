// What core needs of a device besides kernels: memory, copies, streams, graphs. cuda/runtime.cpp fills it; in a build without CUDA there
// is none. Streams and events are CUDA's own handles.
#pragma once
#include <functional>

#include <retape/core/context.h>
#include <retape/core/kernel_table.h>

namespace retape {

struct DeviceRuntime {
  const Kernels* kernels;
  std::string (*why_unavailable)();  // empty: it is
  int (*device_count)();
  void (*use)(int device);  // makes it the thread's current one; throws Error if there is none of that number
  void (*synchronize)(int device);

  // memory
  std::byte* (*allocate)(size_t bytes);  // on the current device, in the order of its stream; throws Error
  void (*deallocate)(int device, std::byte* p, size_t bytes) noexcept;
  int64_t (*live_memory)(int device);
  MemoryStats (*memory_stats)(int device);
  void (*reset_peak_memory)(int device);
  void (*empty_cache)();
  void (*record_stream)(std::byte* p, void* stream);  // `p` as allocate() gave it
  std::byte* (*allocate_pinned)(size_t bytes);        // on the host; throws Error
  void (*deallocate_pinned)(std::byte* p) noexcept;   // may be used again once all copies that read or write it are done
  bool (*is_pinned)(const void* p);

  // Copies, in the order of the current stream. Unless `no_wait`, memory of the host may be changed or read when they return.
  void (*from_host)(const void* from, std::byte* to, size_t bytes, bool no_wait);
  void (*to_host)(const std::byte* from, void* to, size_t bytes, bool no_wait);
  void (*between)(const std::byte* from, int from_device, std::byte* to, int to_device, size_t bytes);

  // streams and events
  void* (*take_stream)(int device, bool urgent);
  void (*give_stream)(int device, void* stream, bool urgent) noexcept;
  void* (*current_stream)(int device);
  void (*set_stream)(int device, void* stream);  // of this thread; null: the default one
  void* (*default_stream)(int device);
  void (*wait_for_stream)(int device, void* stream);
  bool (*stream_is_done)(void* stream);
  void* (*make_event)(int device, bool timing);
  void (*drop_event)(void* event) noexcept;
  void (*record_event)(void* event, void* stream);
  void (*stream_waits)(void* stream, void* event);
  void (*wait_for_event)(int device, void* event);
  bool (*event_is_done)(void* event);
  double (*milliseconds)(void* from, void* to);

  // graphs
  cuda::Capture* (*begin_capture)(int device);            // from now on, of this thread; ctx.capture is its
  void (*end_capture)(cuda::Capture* capture);            // makes the graph; throws Error
  void (*launch)(cuda::Capture* capture);                 // after end_capture()
  void (*drop_capture)(cuda::Capture* capture) noexcept;  // also one that has not ended
  const void* (*captured_value)(size_t bytes, std::function<void(void* to, bool first)> write);  // see core/capture.h

  // ranges that a profiler shows
  void (*begin_range)(const char* name);
  void (*end_range)();
};

namespace detail {
extern const DeviceRuntime* cuda_runtime;  // null: a build without CUDA
}

}  // namespace retape
