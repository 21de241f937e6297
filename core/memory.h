// Memory for tensors and for the small objects around them: a caching aligned allocator, free lists, reference counts.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <new>
#include <utility>

#include <retape/core/config.h>

namespace retape {

struct Device;

/// Bytes of tensor data on the CPU. `live` is in use by tensors, `cached` waits in the allocator to be used again.
struct MemoryStats {
  int64_t live = 0, peak = 0, cached = 0;
};
MemoryStats memory_stats();
void reset_peak_memory();
/// Returns cached blocks to the system.
void empty_cache();

namespace detail {
/// What allocate() takes from memory for so many bytes.
size_t allocated_bytes(size_t bytes);
/// Counts the bytes that a meta tensor of this thread would take (or, if negative, has taken).
void count_meta(int64_t bytes) noexcept;
/// 64-byte aligned; blocks come from a cache of earlier ones where possible. Throws Error when memory is exhausted.
std::byte* allocate(size_t bytes);
void deallocate(std::byte* p, size_t bytes) noexcept;
/// memory_stats(device).live, in less time.
int64_t live_memory(Device device);
/// Throws the Error that says so.
[[noreturn]] void out_of_memory(Device device, size_t bytes, int64_t in_use);
/// Called before `bytes` more (rounded up, as they will count in `live`) are allocated on a device; a policy of the tape may free memory
/// first, or throw. Null: nobody wants to know.
using MakeRoom = void (*)(Device device, int64_t bytes);
inline thread_local constinit MakeRoom make_room = nullptr;
}  // namespace detail

// Free lists for objects of at most 1 KiB, one set a thread; a block freed on another thread just moves there.
struct Pool {
  static constexpr size_t step = 64, classes = 16, limit = 4096;
  struct Block {
    Block* next;
  };
  struct Lists {
    Block* head[classes];
    uint32_t count[classes];
    bool watched, closed;
  };
  static inline thread_local constinit Lists lists{};
  static void* refill(size_t k);  // from the system; also arranges that the lists are freed when the thread ends
  static void* take(size_t bytes) {
#ifndef RETAPE_NO_POOL
    const size_t k = (bytes - 1) / step;
    if (k < classes) {
      Block* b = lists.head[k];
      if (!b) return refill(k);
      lists.head[k] = b->next;
      --lists.count[k];
      return b;
    }
#endif
    return ::operator new(bytes);
  }
  static void give(void* p, [[maybe_unused]] size_t bytes) noexcept {
#ifndef RETAPE_NO_POOL
    const size_t k = (bytes - 1) / step;
    if (k < classes && lists.count[k] < limit && !lists.closed) {
      lists.head[k] = new (p) Block{lists.head[k]};
      ++lists.count[k];
      return;
    }
#endif
    ::operator delete(p);
  }
};

// An atomic reference count whose last owner pays no locked instruction.
struct Count {
  std::atomic<uint32_t> n{1};
  void up() { n.fetch_add(1, std::memory_order_relaxed); }
  bool down() { return n.load(std::memory_order_acquire) == 1 || n.fetch_sub(1, std::memory_order_acq_rel) == 1; }
  uint32_t load() const { return n.load(std::memory_order_acquire); }
};

// An object with a virtual end: what a tensor or a storage may own without knowing its type.
struct Object {
  Count refs;
  virtual ~Object() = default;
  virtual void destroy() noexcept = 0;  // called when the last reference goes
  void retain() { refs.up(); }
  void release() {
    if (refs.down()) destroy();
  }
};

// An intrusive pointer: T has retain() and release().
template <class T> class Ref {
 public:
  Ref() = default;
  static Ref adopt(T* p) {
    Ref r;
    r.p_ = p;
    return r;
  }
  static Ref share(T* p) {
    if (p) p->retain();
    return adopt(p);
  }
  Ref(const Ref& o) : p_(o.p_) {
    if (p_) p_->retain();
  }
  Ref(Ref&& o) noexcept : p_(std::exchange(o.p_, nullptr)) {}
  Ref& operator=(const Ref& o) { return *this = Ref(o); }
  Ref& operator=(Ref&& o) noexcept {
    std::swap(p_, o.p_);
    return *this;
  }
  ~Ref() {
    if (p_) p_->release();
  }
  void reset() {
    if (T* p = std::exchange(p_, nullptr)) p->release();
  }
  RETAPE_INLINE T* get() const { return p_; }
  RETAPE_INLINE T* operator->() const { return p_; }
  RETAPE_INLINE T& operator*() const { return *p_; }
  RETAPE_INLINE explicit operator bool() const { return p_; }
  bool operator==(const Ref&) const = default;

 private:
  T* p_ = nullptr;
};

}  // namespace retape
