// The caching allocator. A freed block waits in a list of its size class, because fresh pages cost more than most kernels.
#include <retape/core/storage.h>

#include <fmt/format.h>
#include <omp.h>
#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <mutex>
#include <vector>

#include <retape/core/device_runtime.h>
#include <retape/core/dispatch.h>
#include <retape/core/error.h>

namespace retape {
namespace {

constexpr size_t alignment = 64, huge_page = size_t{2} << 20;

std::atomic<int64_t> live{0}, peak{0}, cached{0};

// Sizes are rounded up to an eighth of their power of two: at most 12.5% is lost, and a slightly larger tensor finds a block.
size_t rounded(size_t bytes) {
  if (bytes <= 512) return (bytes + alignment - 1) / alignment * alignment;
  const size_t step = std::bit_floor(bytes - 1) / 8;
  return (bytes + step - 1) / step * step;
}
size_t size_class(size_t size) {  // a dense number for every rounded size
  if (size <= 512) return size / alignment;
  const size_t power = size_t(std::bit_width(size - 1)) - 1, step = (size_t{1} << power) / 8;
  return 8 + (power - 9) * 8 + (size - (size_t{1} << power)) / step;
}

struct Cache {
  std::mutex mutex;
  std::vector<std::vector<std::byte*>> blocks;
  std::byte* take(size_t size) {
    const std::lock_guard lock(mutex);
    const size_t k = size_class(size);
    if (k >= blocks.size() || blocks[k].empty()) return nullptr;
    std::byte* p = blocks[k].back();
    blocks[k].pop_back();
    cached.fetch_sub(int64_t(size), std::memory_order_relaxed);
    return p;
  }
  bool give(std::byte* p, size_t size) noexcept {
    const std::lock_guard lock(mutex);
    const size_t k = size_class(size);
    try {
      if (k >= blocks.size()) blocks.resize(k + 1);
      blocks[k].push_back(p);
    } catch (const std::bad_alloc&) {
      return false;
    }
    cached.fetch_add(int64_t(size), std::memory_order_relaxed);
    return true;
  }
  void clear() {
    const std::lock_guard lock(mutex);
    for (auto& list : blocks) {
      for (std::byte* p : list) std::free(p);
      list.clear();
    }
    cached.store(0, std::memory_order_relaxed);
  }
};
Cache& cache() {
  static Cache* const c = new Cache;  // never destroyed: tensors with static lifetime may be freed after it
  return *c;
}

std::byte* from_system(size_t size) {
  const bool huge = size >= huge_page;
  auto* p = static_cast<std::byte*>(
      std::aligned_alloc(huge ? huge_page : alignment,
                         (size + (huge ? huge_page : alignment) - 1) / (huge ? huge_page : alignment) * (huge ? huge_page : alignment)));
  if (p && huge) madvise(p, size, MADV_HUGEPAGE);
  return p;
}

}  // namespace

namespace {
struct MetaMemory {
  int64_t live = 0, peak = 0;
};
thread_local constinit MetaMemory meta;
}  // namespace

MemoryStats memory_stats() { return {live.load(), peak.load(), cached.load()}; }
void reset_peak_memory() { peak.store(live.load()); }
MemoryStats memory_stats(Device device) {
  if (device.is_meta()) return {meta.live, meta.peak, 0};
  if (device.is_cpu()) return memory_stats();
  if (!detail::cuda_runtime) detail::no_backend(device, "memory_stats");
  return detail::cuda_runtime->memory_stats(device.index);
}
void reset_peak_memory(Device device) {
  if (device.is_meta()) {
    meta.peak = meta.live;
    return;
  }
  if (device.is_cpu()) return reset_peak_memory();
  if (!detail::cuda_runtime) detail::no_backend(device, "reset_peak_memory");
  detail::cuda_runtime->reset_peak_memory(device.index);
}
void empty_cache() {
  cache().clear();
  if (detail::cuda_runtime) detail::cuda_runtime->empty_cache();
}

namespace detail {

int64_t live_memory(Device device) {
  return device.is_cuda() && cuda_runtime ? cuda_runtime->live_memory(device.index) : memory_stats(device).live;
}
size_t allocated_bytes(size_t bytes) { return rounded(bytes ? bytes : 1); }

void count_meta(int64_t bytes) noexcept {
  meta.live += bytes;
  meta.peak = std::max(meta.peak, meta.live);
}

void out_of_memory(Device device, size_t bytes, int64_t in_use) {
  std::string message;
  try {
    if (out_of_memory_hook) message = out_of_memory_hook(device, int64_t(bytes));
  } catch (...) {  // no memory for that either
  }
  if (message.empty())
    message =
        fmt::format("out of memory: {} bytes could not be allocated on {}; {} bytes are in use by tensors", bytes, device.str(), in_use);
  throw Error(message);
}

std::byte* allocate(size_t bytes) {
  const size_t size = allocated_bytes(bytes);
  // What a kernel takes for itself inside a parallel region is small, and nothing may throw there.
  if (make_room && !omp_get_level()) make_room(Device::cpu(), int64_t(size));
  std::byte* p = nullptr;
#ifndef RETAPE_NO_POOL
  p = cache().take(size);
  if (!p) {
    p = from_system(size);
    if (!p) {
      cache().clear();
      p = from_system(size);
    }
  }
#else
  p = from_system(size);
#endif
  if (!p) out_of_memory(Device::cpu(), bytes, live.load());
  const int64_t now = live.fetch_add(int64_t(size), std::memory_order_relaxed) + int64_t(size);
  int64_t before = peak.load(std::memory_order_relaxed);
  while (now > before && !peak.compare_exchange_weak(before, now, std::memory_order_relaxed)) {}
  return p;
}

void deallocate(std::byte* p, size_t bytes) noexcept {
  if (!p) return;
  const size_t size = allocated_bytes(bytes);
  live.fetch_sub(int64_t(size), std::memory_order_relaxed);
#ifndef RETAPE_NO_POOL
  if (cache().give(p, size)) return;
#endif
  std::free(p);
}

}  // namespace detail

void* Pool::refill(size_t k) {
  struct Reaper {
    ~Reaper() {
      lists.closed = true;
      for (auto& head : lists.head)
        while (Block* b = head) {
          head = b->next;
          ::operator delete(b);
        }
    }
  };
  if (!lists.watched) {
    static thread_local Reaper reaper;
    (void)reaper;
    lists.watched = true;
  }
  return ::operator new((k + 1) * step);
}

}  // namespace retape
