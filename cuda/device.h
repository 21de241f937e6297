// The device and stream that this thread's kernels run on, memory there, and errors: what CUDA files share on the host's side.
#pragma once
#ifdef RETAPE_EMULATE_CUDA
#include <cuda/emulation.h>
#else
#include <cuda_runtime.h>
#endif
#include <cstddef>

namespace retape {
class Storage;
struct Device;
}  // namespace retape

namespace retape::cuda {

/// Makes a CUDA device this thread's current one. For the kernels of core/kernel_list.inc that has been done; others begin with it. Throws
/// Error if there is no such device.
void use(Device device);
/// This thread's stream on its current device.
cudaStream_t current_stream();
int current_device();
/// Throws Error with what CUDA says of `what`, naming the op that runs. After an error that leaves the device unusable, it says so.
void check(cudaError_t error, const char* what);
/// Memory on the current device, in the order of the current stream.
std::byte* allocate(size_t bytes);
void deallocate(std::byte* p, size_t bytes) noexcept;

/// Keeps the storage alive as long as the graph that this thread captures. data() calls it.
void hold(Storage& storage);

/// A wrong index, found on the device. The host learns of it when it next waits for the device, and throws it as an Error.
struct Fault {
  enum Kind : int { index, index_of_dim, masked_row };  // masked_row: of attention, a query that sees none of its keys
  int set;                                              // 1 once a fault has been stored
  Kind kind;
  const char* op;  // who found it: a string of the host
  int64_t value, size;
  int64_t dim;          // of index_of_dim
  int64_t head, batch;  // of masked_row
};
/// Where kernels on the current device report.
Fault* faults();

}  // namespace retape::cuda
