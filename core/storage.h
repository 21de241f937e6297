// Storage: the bytes behind tensors, and the tape's *slot*. Strong references keep the bytes; weak ones (only the tape has
// them) keep the identity, so that a replay can put the bytes back and every view follows.
#pragma once
#include <retape/core/context.h>
#include <retape/core/device.h>
#include <retape/core/memory.h>

namespace retape {

class Storage {
 public:
  uint32_t version = 0;    // grows with every in-place write
  uint32_t tape_refs = 0;  // weak references by the tape; when the last goes, `kept` goes
  bool kept = false;       // the tape itself holds the bytes
  bool wanted = false;     // scratch of a replay
  Device device;
  const Region* region = nullptr;  // the checkpoint in which the value was made
  size_t bytes = 0;
  std::byte* data = nullptr;  // null: absent. Meta storages point at small_, which nobody reads
  Ref<Object> slot;           // what a memory budget knows of the value; autograd's

  static Ref<Storage> make(size_t bytes, Device device);
  /// Memory of somebody else, kept alive by `owner`.
  static Ref<Storage> wrap(void* data, size_t bytes, Ref<Object> owner);

  void retain() { strong_.up(); }
  void release() {
    if (!strong_.down()) return;
    drop_bytes();
    weak_release();
  }
  void weak_retain() { weak_.up(); }
  void weak_release() {
    if (!weak_.down()) return;
    this->~Storage();
    Pool::give(this, sizeof(Storage));
  }
  /// A strong reference if the bytes are there. Weak references never leave the thread that runs the graph: no race.
  Ref<Storage> lock() { return data ? Ref<Storage>::share(this) : Ref<Storage>{}; }
  /// Takes over the bytes that a replay has made; identity and version stay.
  Ref<Storage> revive(Storage& fresh);
  void keep() {
    if (!kept) {
      kept = true;
      retain();
    }
  }
  void unkeep() {
    if (kept) {
      kept = false;
      release();
    }
  }
  uint32_t owners() const { return strong_.load(); }
  static constexpr size_t small_bytes = 64;  // so few lie in the object itself, but for CUDA
  bool is_small() const { return bytes <= (device.is_cuda() ? 0 : small_bytes); }

 private:
  Count strong_, weak_;  // all strong references together hold one weak
  Ref<Object> owner_;
  alignas(16) std::byte small_[small_bytes];
  void drop_bytes() noexcept;
};

class WeakStorage {
 public:
  WeakStorage() = default;
  explicit WeakStorage(Storage* s) : p_(s) {
    if (p_) p_->weak_retain();
  }
  WeakStorage(WeakStorage&& o) noexcept : p_(std::exchange(o.p_, nullptr)) {}
  WeakStorage& operator=(WeakStorage&& o) noexcept {
    std::swap(p_, o.p_);
    return *this;
  }
  ~WeakStorage() {
    if (p_) p_->weak_release();
  }
  Storage* operator->() const { return p_; }
  Storage* get() const { return p_; }

 private:
  Storage* p_ = nullptr;
};

}  // namespace retape
