// Streams and events: work of a CUDA device that runs side by side, and how one part waits for another.
//
//     cuda::Stream side;                        // on cuda:0
//     {
//       const cuda::StreamGuard guard(side);    // this thread's work goes there
//       y = f(x);
//     }
//     cuda::Stream::current().wait(side);       // what follows comes after it
#pragma once
#include <memory>

#include <retape/core/tensor.h>

namespace retape::cuda {

class Event;

/// A queue of work on a device: what is in one queue runs in order, what is in two may run at the same time. Each thread starts on the
/// device's default stream. A tensor's memory belongs to the stream on which it was made: use it on another only after that has waited for
/// the first, and call record_stream() if it may be freed before the other is done with it. Copies of a Stream are the same queue; the
/// last one gives it back without waiting. Throws Error where there is no such device. torch: cuda.Stream.
class Stream {
 public:
  /// `urgent`: blocks of its kernels go before those of other streams (CUDA's highest priority).
  explicit Stream(Device device = Device::cuda(), bool urgent = false);
  static Stream current(Device device = Device::cuda());  ///< where this thread's work goes
  static Stream default_stream(Device device = Device::cuda());

  Device device() const { return device_; }
  /// Waits until the device has done all that is in the queue. Throws Error for what went wrong there.
  void synchronize() const;
  bool query() const;  ///< whether that is so
  /// What comes later in this queue starts after what is in the other one, or before the event, now. The host does not wait.
  void wait(const Stream& other) const;
  void wait(const Event& event) const;
  Event record() const;  ///< an event at the end of the queue
  /// CUDA's cudaStream_t, for calls of other libraries.
  void* handle() const { return handle_.get(); }
  bool operator==(const Stream& other) const { return handle_ == other.handle_; }

 private:
  Stream(Device device, std::shared_ptr<void> handle) : device_(device), handle_(std::move(handle)) {}
  Device device_;
  std::shared_ptr<void> handle_;
};

/// A place in a stream's queue. torch: cuda.Event.
class Event {
 public:
  /// `timing`: elapsed_ms() can be asked; costs a little.
  explicit Event(Device device = Device::cuda(), bool timing = false);
  /// Moves it to the end of the queue. Throws Error if the stream is another device's.
  void record(const Stream& stream);
  void record() { record(Stream::current(device_)); }
  void synchronize() const;  ///< waits until the device has come there; at once if it was never recorded
  bool query() const;        ///< whether it has
  /// Milliseconds of the device from this event to a later one. Throws Error unless both have `timing`, are recorded and have been reached.
  double elapsed_ms(const Event& end) const;
  Device device() const { return device_; }
  /// CUDA's cudaEvent_t.
  void* handle() const { return handle_.get(); }

 private:
  Device device_;
  bool timing_, recorded_ = false;
  std::shared_ptr<void> handle_;
};

/// Makes a stream the current one of this thread, on its device, for a scope. torch: cuda.stream.
class StreamGuard {
 public:
  explicit StreamGuard(const Stream& stream);
  ~StreamGuard();
  StreamGuard(const StreamGuard&) = delete;

 private:
  Stream stream_, before_;
};

/// The tensor's memory is not used again before the stream has done what is in its queue when the tensor is freed. torch: Tensor.record_stream.
void record_stream(const Tensor& x, const Stream& stream);

/// A copy on the CPU in page-locked memory, from and to which copies can run beside the host: to(x, device, true). Not recorded on the
/// tape. Throws Error for a tensor that is not on the CPU, or without a CUDA device. torch: Tensor.pin_memory.
Tensor pin_memory(const Tensor& x);
bool is_pinned(const Tensor& x);

/// A named range of the host's time, which Nsight Systems and other tools that know NVTX show; nothing without such a tool or without CUDA.
class Range {
 public:
  explicit Range(const char* name);
  ~Range();
  Range(const Range&) = delete;
};
/// While it lives, every module and op that this thread runs, forward and backward, is such a range. torch: autograd.profiler.emit_nvtx.
struct EmitRanges {
  Scoped<bool> scope{ctx.ranges, true};
};

}  // namespace retape::cuda
