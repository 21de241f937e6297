// Memory of devices, from CUDA's own pool in the order of streams, and page-locked memory of the host.
#include <algorithm>
#include <map>

#include <retape/core/device.h>
#include <retape/core/error.h>
#include <retape/cuda/machine.h>

namespace retape::cuda {
namespace {

struct PinnedBlock {
  size_t bytes;
  bool used = true;
  std::vector<cudaEvent_t> reached = {};  // copies that still read or write it come before these
};
// A block is found by any address in it. Freeing such memory would wait for all devices, so that it is kept and used again.
struct Pinned {
  std::mutex mutex;
  std::map<const std::byte*, PinnedBlock> blocks;
};
Pinned& pinned() {
  static auto* const p = new Pinned;
  return *p;
}
std::map<const std::byte*, PinnedBlock>::iterator find_pinned(const void* p) {
  auto& blocks = pinned().blocks;
  auto at = blocks.upper_bound(static_cast<const std::byte*>(p));
  if (at == blocks.begin()) return blocks.end();
  --at;
  return static_cast<const std::byte*>(p) < at->first + at->second.bytes ? at : blocks.end();
}
bool is_free(PinnedBlock& block) {
  if (block.used) return false;
  std::erase_if(block.reached, [](cudaEvent_t event) {
    if (cudaEventQuery(event) == cudaErrorNotReady) {
      cudaGetLastError();
      return false;
    }
    quietly(cudaEventDestroy(event));
    return true;
  });
  return block.reached.empty();
}

}  // namespace

std::byte* allocate(size_t bytes) {
  DeviceState& s = state();
  if (retape::detail::make_room) retape::detail::make_room(Device::cuda(current_device()), int64_t(bytes));
  const cudaStream_t stream = current_stream();
  void* p = nullptr;
  Block block{stream, current_device()};
  if (ctx.capture) {
    block.owner = memory_of(*ctx.capture).shared_from_this();
    p = block.owner->take(bytes, stream);
  } else {
    cudaError_t error = cudaMallocAsync(&p, bytes, stream);
    if (error == cudaErrorMemoryAllocation) {  // what is on its way back may be enough
      cudaGetLastError();
      check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
      error = cudaMallocAsync(&p, bytes, stream);
      if (error == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        retape::detail::out_of_memory(Device::cuda(current_device()), bytes, s.live.load());
      }
    }
    check(error, "cudaMallocAsync");
    count(s, int64_t(bytes));
  }
  Machine& m = machine();
  const std::lock_guard lock(m.mutex);
  m.blocks[p] = std::move(block);
  return static_cast<std::byte*>(p);
}

void deallocate(std::byte* p, size_t bytes) noexcept {
  Machine& m = machine();
  Block block;
  {
    const std::lock_guard lock(m.mutex);
    const auto found = m.blocks.find(p);
    if (found == m.blocks.end()) return;
    block = std::move(found->second);
    m.blocks.erase(found);
  }
  if (block.owner) return block.owner->give(p, block.stream);
  for (const cudaStream_t other : block.also) {
    cudaEvent_t event = nullptr;
    quietly(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    quietly(cudaEventRecord(event, other));
    quietly(cudaStreamWaitEvent(block.stream, event, 0));
    quietly(cudaEventDestroy(event));
  }
  quietly(cudaFreeAsync(p, block.stream));
  m.devices[size_t(block.device)]->live.fetch_sub(int64_t(bytes));
}

void record_stream(std::byte* p, void* stream) {
  const auto other = static_cast<cudaStream_t>(stream);
  Machine& m = machine();
  const std::lock_guard lock(m.mutex);
  const auto found = m.blocks.find(p);
  if (found == m.blocks.end() || found->second.stream == other) return;
  auto& also = found->second.also;
  if (std::find(also.begin(), also.end(), other) == also.end()) also.push_back(other);
}

MemoryStats memory_stats(int device) {
  use(device);
  cudaMemPool_t pool;
  uint64_t reserved = 0;
  check(cudaDeviceGetDefaultMemPool(&pool, device), "cudaDeviceGetDefaultMemPool");
  check(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrReservedMemCurrent, &reserved), "cudaMemPoolGetAttribute");
  const int64_t live = state().live.load();
  return {live, state().peak.load(), std::max<int64_t>(0, int64_t(reserved) - live)};
}

void empty_cache() {
  refuse_in_capture("empty_cache");
  const int before = current_device();
  for (int d = 0; d < machine().count; ++d) {
    if (!machine().devices[size_t(d)]) continue;
    use(d);
    cudaMemPool_t pool;
    check(cudaDeviceSynchronize(), "empty_cache");
    check(cudaDeviceGetDefaultMemPool(&pool, d), "empty_cache");
    check(cudaMemPoolTrimTo(pool, 0), "empty_cache");
  }
  if (before >= 0) use(before);
  Pinned& all = pinned();
  const std::lock_guard lock(all.mutex);
  for (auto at = all.blocks.begin(); at != all.blocks.end();) {
    if (!is_free(at->second)) {
      ++at;
      continue;
    }
    quietly(cudaFreeHost(const_cast<std::byte*>(at->first)));
    at = all.blocks.erase(at);
  }
}

// ---- page-locked memory ------------------------------------------------------------------------------------------------

std::byte* allocate_pinned(size_t bytes) {
  constexpr size_t step = 4096;
  const size_t size = (bytes + step - 1) / step * step;
  Pinned& all = pinned();
  const std::lock_guard lock(all.mutex);
  for (auto& [p, block] : all.blocks)
    if (block.bytes == size && is_free(block)) {
      block.used = true;
      return const_cast<std::byte*>(p);
    }
  void* p = nullptr;
  const cudaError_t error = cudaHostAlloc(&p, size, cudaHostAllocDefault);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    throw Error("out of memory: " + std::to_string(bytes) + " bytes of page-locked memory could not be allocated on the host");
  }
  check(error, "cudaHostAlloc");
  all.blocks.emplace(static_cast<std::byte*>(p), PinnedBlock{size});
  return static_cast<std::byte*>(p);
}
void deallocate_pinned(std::byte* p) noexcept {
  Pinned& all = pinned();
  const std::lock_guard lock(all.mutex);
  if (const auto at = find_pinned(p); at != all.blocks.end()) at->second.used = false;
}
bool is_pinned(const void* p) {
  Pinned& all = pinned();
  const std::lock_guard lock(all.mutex);
  return find_pinned(p) != all.blocks.end();
}
void hold_pinned(const void* p) {
  Pinned& all = pinned();
  const std::lock_guard lock(all.mutex);
  const auto at = find_pinned(p);
  if (at == all.blocks.end()) return;
  cudaEvent_t event;
  check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate");
  at->second.reached.push_back(event);
  check(cudaEventRecord(event, current_stream()), "cudaEventRecord");
}

}  // namespace retape::cuda
