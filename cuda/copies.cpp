// Copies between host and devices, in the order of the current stream.
#include <retape/core/error.h>
#include <retape/cuda/machine.h>

namespace retape::cuda {
namespace {

class BriefEvent {
 public:
  BriefEvent() { check(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "cudaEventCreate"); }
  BriefEvent(const BriefEvent&) = delete;
  ~BriefEvent() { quietly(cudaEventDestroy(event_)); }
  operator cudaEvent_t() const { return event_; }

 private:
  cudaEvent_t event_;
};

// Without it a copy goes through the host. Where the machine does not allow it, that is what happens.
void give_access(int reader, int owner) {
  Machine& m = machine();
  {
    const std::lock_guard lock(m.mutex);
    auto& given = m.devices[size_t(reader)]->reads_from;
    given.resize(size_t(m.count));
    if (given[size_t(owner)]) return;
    given[size_t(owner)] = true;
  }
  int possible = 0;
  quietly(cudaDeviceCanAccessPeer(&possible, reader, owner));
  if (!possible) return;
  cudaMemPool_t pool;
  check(cudaDeviceGetDefaultMemPool(&pool, owner), "cudaDeviceGetDefaultMemPool");
  cudaMemAccessDesc access{};
  access.location.type = cudaMemLocationTypeDevice;
  access.location.id = reader;
  access.flags = cudaMemAccessFlagsProtReadWrite;
  quietly(cudaMemPoolSetAccess(pool, &access, 1));
}

// Also what others have locked.
bool is_page_locked(const void* p) {
  cudaPointerAttributes attributes{};
  quietly(cudaPointerGetAttributes(&attributes, p));
  return attributes.type == cudaMemoryTypeHost;
}

}  // namespace

// From pageable memory CUDA takes a copy of its own before it returns.
void copy_from_host(const void* from, std::byte* to, size_t bytes, bool no_wait) {
  refuse_in_capture("a copy from the CPU");
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, current_stream()), "copy from the CPU");
  if (no_wait && is_pinned(from)) hold_pinned(from);
  else if (is_page_locked(from)) check(cudaStreamSynchronize(current_stream()), "copy from the CPU");
}

void copy_to_host(const std::byte* from, void* to, size_t bytes, bool no_wait) {
  refuse_in_capture("a copy to the CPU");
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, current_stream()), "copy to the CPU");
  if (no_wait) return hold_pinned(to);
  check(cudaStreamSynchronize(current_stream()), "copy to the CPU");
  throw_faults();
}

// On the receiver's stream, after what the sender has been given so far; what the sender is given next comes after the copy.
void copy_between(const std::byte* from, int from_device, std::byte* to, int to_device, size_t bytes) {
  refuse_in_capture("a copy between devices");
  use(from_device);
  give_access(to_device, from_device);
  const cudaStream_t sender = current_stream();
  const BriefEvent ready;
  check(cudaEventRecord(ready, sender), "cudaEventRecord");
  use(to_device);
  check(cudaStreamWaitEvent(current_stream(), ready, 0), "cudaStreamWaitEvent");
  check(cudaMemcpyPeerAsync(to, to_device, from, from_device, bytes, current_stream()), "copy between devices");
  const BriefEvent done;
  check(cudaEventRecord(done, current_stream()), "cudaEventRecord");
  check(cudaStreamWaitEvent(sender, done, 0), "cudaStreamWaitEvent");
}

}  // namespace retape::cuda
