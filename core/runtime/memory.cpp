// The caching allocator. A freed block waits in a list of its size class, because fresh pages cost more than most kernels.
#include <retape/core/storage.h>

#include <fmt/format.h>
#include <omp.h>
#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <mutex>
#include <unordered_map>
#include <vector>

#include <retape/core/device_runtime.h>
#include <retape/core/dispatch.h>
#include <retape/core/error.h>

namespace retape {
namespace {

constexpr size_t alignment = 64, huge_page = size_t{2} << 20;

[[maybe_unused]] constexpr int64_t most_cached = int64_t{256} << 20;  // bytes, or the peak if that is more

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

constexpr size_t large = size_t{1} << 20;  // from here on a block may serve sizes down to half its own

struct Cache {
  struct List {
    std::vector<std::byte*> blocks;
    size_t size = 0;         // of each
    uint64_t last_used = 0;  // when a block of the size was asked for or given back
  };
  std::mutex mutex;
  std::vector<List> lists;                         // by class
  std::unordered_map<std::byte*, size_t> roomier;  // blocks in use that are of another class than their tensor, with their size
  uint64_t clock = 0;

  List& list_of(size_t size) {
    const size_t k = size_class(size);
    if (k >= lists.size()) lists.resize(k + 1);
    lists[k].size = size, lists[k].last_used = ++clock;
    return lists[k];
  }
  // A block of this size or, if there is none and it is large, of the next one up to twice it: where every batch has another length, each
  // size would else keep blocks for its own peak.
  std::byte* take(size_t size) {
    const std::lock_guard lock(mutex);
    try {
      list_of(size);
      for (size_t k = size_class(size); k < lists.size(); ++k) {
        List& list = lists[k];
        if (!list.blocks.empty()) {
          if (list.size > 2 * size) break;
          std::byte* const p = list.blocks.back();
          if (list.size != size) roomier.emplace(p, list.size);
          list.blocks.pop_back();
          cached.fetch_sub(int64_t(list.size), std::memory_order_relaxed);
          return p;
        }
        if (size < large) break;
      }
    } catch (const std::bad_alloc&) {  // then from the system, which will say so
    }
    return nullptr;
  }
  bool give(std::byte* p, size_t size) noexcept {
    const std::lock_guard lock(mutex);
    try {
      if (const auto found = size >= large ? roomier.find(p) : roomier.end(); found != roomier.end()) {
        size = found->second;
        roomier.erase(found);
      }
      list_of(size).blocks.push_back(p);
    } catch (const std::bad_alloc&) {
      return false;
    }
    cached.fetch_add(int64_t(size), std::memory_order_relaxed);
    return true;
  }
  // Frees blocks, of the sizes first that have not been used for the longest time, until at most `bytes` wait.
  void shrink(int64_t bytes) {
    const std::lock_guard lock(mutex);
    while (cached.load(std::memory_order_relaxed) > bytes) {
      List* oldest = nullptr;
      for (auto& list : lists)
        if (!list.blocks.empty() && (!oldest || list.last_used < oldest->last_used)) oldest = &list;
      if (!oldest) return;
      while (!oldest->blocks.empty() && cached.load(std::memory_order_relaxed) > bytes) {
        std::free(oldest->blocks.back());
        oldest->blocks.pop_back();
        cached.fetch_sub(int64_t(oldest->size), std::memory_order_relaxed);
      }
    }
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
  cache().shrink(0);
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
    // What waits is never more than what tensors have taken at once.
    cache().shrink(std::max(most_cached, peak.load(std::memory_order_relaxed)));
    p = from_system(size);
    if (!p) {
      cache().shrink(0);
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
