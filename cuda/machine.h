// The state behind cuda/device.h: devices, blocks of memory, the graph that is being captured. Private to this folder's .cpp files.
#pragma once
#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include <retape/core/context.h>
#include <retape/core/memory.h>
#include <retape/cuda/device.h>

namespace retape::cuda {

struct DeviceState {
  cudaStream_t stream = nullptr;  // the default one of all threads
  Fault* faults = nullptr;        // pinned, so that the host reads it without a copy
  std::atomic<int64_t> live{0}, peak{0};
  std::vector<cudaStream_t> idle_streams[2];  // the second: urgent ones. Never destroyed, since memory may still name them
  std::vector<bool> reads_from;               // by device: whose memory this device has been given access to
};

class GraphMemory;
struct Block {
  cudaStream_t stream;  // where it was taken, and goes back to
  int device;
  std::vector<cudaStream_t> also = {};           // what these still do with it comes before that
  std::shared_ptr<GraphMemory> owner = nullptr;  // whose memory it is, if a graph's
};

// Never destroyed: tensors with static lifetime are freed after it would be.
struct Machine {
  std::mutex mutex;  // of what follows, but for the counts of bytes
  int count = 0;
  std::string unavailable;
  std::vector<std::unique_ptr<DeviceState>> devices;  // made when first used
  std::unordered_map<void*, Block> blocks;
};
Machine& machine();

/// Of the current device.
DeviceState& state();
DeviceState& state_of(int device);
void use(int device);
/// Null: the default one.
void set_stream(int device, cudaStream_t stream);
/// Throws what kernels have reported on the current device, once it has been waited for.
void throw_faults();
void count(DeviceState& s, int64_t bytes) noexcept;
inline void quietly(cudaError_t error) noexcept {
  if (error != cudaSuccess) cudaGetLastError();
}
/// Throws Error, naming the op, if this thread captures a graph: `what` would wait for the device.
void refuse_in_capture(const char* what);

// memory.cpp
void record_stream(std::byte* p, void* stream);
std::byte* allocate_pinned(size_t bytes);
void deallocate_pinned(std::byte* p) noexcept;
bool is_pinned(const void* p);
/// The pinned block of `p`, if it is in one, is not used again before the current stream has come here.
void hold_pinned(const void* p);
MemoryStats memory_stats(int device);
void empty_cache();

// copies.cpp
void copy_from_host(const void* from, std::byte* to, size_t bytes, bool no_wait);
void copy_to_host(const std::byte* from, void* to, size_t bytes, bool no_wait);
void copy_between(const std::byte* from, int from_device, std::byte* to, int to_device, size_t bytes);

// streams.cpp
void* take_stream(int device, bool urgent);
void give_stream(int device, void* stream, bool urgent) noexcept;
void wait_for_stream(int device, void* stream);
bool stream_is_done(void* stream);
void* make_event(int device, bool timing);
void drop_event(void* event) noexcept;
void record_event(void* event, void* stream);
void stream_waits(void* stream, void* event);
void wait_for_event(int device, void* event);
bool event_is_done(void* event);
double milliseconds(void* from, void* to);

// graph.cpp
Capture* begin_capture(int device);
void end_capture(Capture* capture);
void launch_graph(Capture* capture);
void drop_capture(Capture* capture) noexcept;
const void* captured_value(size_t bytes, std::function<void(void* to, bool first)> write);
int device_of(const Capture& capture);
GraphMemory& memory_of(const Capture& capture);
/// Memory for tensors of a captured function: stays at its addresses until graph and tensors are gone, so that launches can use it again.
class GraphMemory : public std::enable_shared_from_this<GraphMemory> {
 public:
  explicit GraphMemory(int device);
  ~GraphMemory();
  void* take(size_t bytes, cudaStream_t stream);  // of what the capture has given back on this stream, or new
  void give(void* p, cudaStream_t stream) noexcept;
  void stop_reusing();  // the capture is over
  bool has(const void* p);

 private:
  std::mutex mutex_;
  int device_;
  bool reuse_ = true;
  std::unordered_map<const void*, size_t> sizes_;
  std::unordered_map<cudaStream_t, std::vector<void*>> free_;
};

}  // namespace retape::cuda
