// What the files that call oneDNN share. Private to them: elsewhere its headers stay out.
#pragma once
#include <omp.h>
#include <oneapi/dnnl/dnnl.hpp>

#include <algorithm>
#include <array>
#include <string>
#include <unordered_map>

#include <retape/core/error.h>

namespace retape::onednn {

inline bool isa_includes(dnnl_cpu_isa_t isa) { return (dnnl_get_effective_cpu_isa() & isa) == isa; }

/// Never destroyed: thread-local primitives of any thread may outlive static objects.
dnnl::engine& engine();

/// oneDNN plans a primitive for omp_get_max_threads() threads, and must run it with as many: while one of these lives, inside a parallel
/// region, where there will be one thread only, that is one.
class ThreadsHere {
 public:
  ThreadsHere() {
    if (omp_in_parallel()) omp_set_num_threads(1);
  }
  ThreadsHere(const ThreadsHere&) = delete;
  ~ThreadsHere() { omp_set_num_threads(before_); }

 private:
  int before_ = omp_get_max_threads();
};

/// Primitives of one thread by what they were made for: no lock, and executing one is then safe. The one unused for longest goes.
template <size_t words, class Primitive> class PrimitiveCache {
 public:
  using Key = std::array<int64_t, words>;
  template <class Make> Primitive& get(const Key& key, const Make& make) {
    constexpr size_t capacity = 512;
    auto found = map_.find(key);
    if (found == map_.end()) {
      if (map_.size() >= capacity)
        map_.erase(
            std::min_element(map_.begin(), map_.end(), [](const auto& x, const auto& y) { return x.second.last_use < y.second.last_use; }));
      found = map_.emplace(key, Entry{make(), 0}).first;
    }
    found->second.last_use = ++clock_;
    return found->second.primitive;
  }
  dnnl::stream& stream() { return stream_; }

 private:
  struct Entry {
    Primitive primitive;
    uint64_t last_use;
  };
  struct Hash {
    size_t operator()(const Key& key) const {
      uint64_t h = 0x9e3779b97f4a7c15u;
      for (const int64_t v : key) h = (h ^ uint64_t(v)) * 0xff51afd7ed558ccdu, h ^= h >> 32;
      return size_t(h);
    }
  };
  std::unordered_map<Key, Entry, Hash> map_;
  uint64_t clock_ = 0;
  dnnl::stream stream_{engine()};
};

[[noreturn]] inline void fail(const char* op, const dnnl::error& e) {
  throw Error(std::string(op) + ": oneDNN failed with status " + std::to_string(int(e.status)) + " (" + e.what() + ")");
}

}  // namespace retape::onednn
