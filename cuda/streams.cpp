// Streams and events: CUDA's side of core/stream.h.
#include <retape/cuda/machine.h>

namespace retape::cuda {
namespace {
cudaStream_t stream_of(void* handle) { return static_cast<cudaStream_t>(handle); }
cudaEvent_t event_of(void* handle) { return static_cast<cudaEvent_t>(handle); }
bool is_done(cudaError_t error, const char* what) {
  if (error == cudaErrorNotReady) {
    cudaGetLastError();
    return false;
  }
  check(error, what);
  return true;
}
}  // namespace

void* take_stream(int device, bool urgent) {
  use(device);
  auto& idle = state().idle_streams[urgent];
  {
    const std::lock_guard lock(machine().mutex);
    if (!idle.empty()) {
      const cudaStream_t stream = idle.back();
      idle.pop_back();
      return stream;
    }
  }
  int least = 0, greatest = 0;
  check(cudaDeviceGetStreamPriorityRange(&least, &greatest), "cudaDeviceGetStreamPriorityRange");
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, urgent ? greatest : least), "cudaStreamCreate");
  return stream;
}
void give_stream(int device, void* stream, bool urgent) noexcept {
  Machine& m = machine();
  const std::lock_guard lock(m.mutex);
  m.devices[size_t(device)]->idle_streams[urgent].push_back(stream_of(stream));
}
void wait_for_stream(int device, void* stream) {
  use(device);
  refuse_in_capture("waiting for a stream");
  check(cudaStreamSynchronize(stream_of(stream)), "synchronize");
  throw_faults();
}
bool stream_is_done(void* stream) { return is_done(cudaStreamQuery(stream_of(stream)), "query"); }

void* make_event(int device, bool timing) {
  use(device);
  cudaEvent_t event = nullptr;
  check(cudaEventCreateWithFlags(&event, timing ? cudaEventDefault : cudaEventDisableTiming), "cudaEventCreate");
  return event;
}
void drop_event(void* event) noexcept { quietly(cudaEventDestroy(event_of(event))); }
void record_event(void* event, void* stream) { check(cudaEventRecord(event_of(event), stream_of(stream)), "cudaEventRecord"); }
void stream_waits(void* stream, void* event) { check(cudaStreamWaitEvent(stream_of(stream), event_of(event), 0), "cudaStreamWaitEvent"); }
void wait_for_event(int device, void* event) {
  use(device);
  refuse_in_capture("waiting for an event");
  check(cudaEventSynchronize(event_of(event)), "synchronize");
  throw_faults();
}
bool event_is_done(void* event) { return is_done(cudaEventQuery(event_of(event)), "query"); }
double milliseconds(void* from, void* to) {
  float ms = 0;
  check(cudaEventElapsedTime(&ms, event_of(from), event_of(to)), "elapsed_ms");
  return double(ms);
}

}  // namespace retape::cuda
