// The race check of the emulation: the runtime of kernels that are built with -fsanitize=thread, but linked without its library. The
// compiler's callbacks land here. Every byte of device and shared memory has a cell that remembers who touched it since the grid began;
// two threads' touches, of which one writes and not both are atomic, must have a barrier of both in between. So a race is found in any
// order of threads, whether or not it did harm.
#include "race.h"

#include <cuda/emulation.h>
#include <link.h>
#include <sys/mman.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <vector>

namespace emulation::race {
namespace {

enum Kind : unsigned { reads, writes, atomics };
constexpr const char* said[] = {"read", "written", "changed atomically"};
bool conflict(Kind a, Kind b) { return a != b || a == writes; }

struct Touch {
  uint32_t thread : 10, epoch : 22;  // epoch 0: there was none
  uint32_t clock;                    // of the thread in its warp
};
struct Earlier {  // by a block that has ended
  uint32_t run;   // 0: none
  uint16_t thread;
};
struct Cell {
  uint32_t run;  // the run of a block that `write`, `atomic` and `read` are of; all is forgotten if that was in another grid
  Touch write, atomic[2], read[2];
  Earlier earlier[3];  // by kind
};

enum Owner : uint8_t { nobody, device_memory, static_shared, dynamic_shared };
constexpr size_t page_size = 4096;
struct Page {
  Cell cell[page_size];
  uint8_t owner[page_size];
  size_t owned;
};
constexpr unsigned page_bits = 12, table_bits = 18, directory_bits = 17;
using Table = Page * [size_t{1} << table_bits];

struct Range {
  uintptr_t begin, end;
  bool has(uintptr_t p) const { return p >= begin && p < end; }
};

// All that is known. touch() itself uses none of the standard library's templates: the linker may take a copy that calls back.
Table* directory[size_t{1} << directory_bits];
Range statics[256];  // writable memory of the program and its libraries
int statics_count = 0;
Range static_span{~uintptr_t{0}, 0};
Range dynamic{0, 0};
uint32_t run = 0, first_run = 1;  // blocks that have begun since the program did
uint32_t epoch = 1;               // barriers of the block
uint32_t clocks[32][32][32];      // of a warp: what each lane knows of each lane
bool clocks_used[32];
thread_local bool active = false;

struct Books {
  std::mutex mutex;
  std::map<uintptr_t, size_t> allocations;
  std::vector<Page*> free_pages;
  Page* fresh = nullptr;
  size_t fresh_left = 0;
  std::vector<unsigned> blocks;  // of the grid, in the order of their runs
  std::string mistake;
};
Books& books() {
  static auto* const b = new Books;
  return *b;
}

Page*& slot(uintptr_t p) {
  Table*& table = directory[p >> (page_bits + table_bits) & ((size_t{1} << directory_bits) - 1)];
  if (!table) table = static_cast<Table*>(std::calloc(1, sizeof(Table)));
  return (*table)[p >> page_bits & ((size_t{1} << table_bits) - 1)];
}
Page* find(uintptr_t p) {
  Table* const table = directory[p >> (page_bits + table_bits) & ((size_t{1} << directory_bits) - 1)];
  return table ? (*table)[p >> page_bits & ((size_t{1} << table_bits) - 1)] : nullptr;
}
Page* new_page() {
  Books& b = books();
  if (!b.free_pages.empty()) {
    Page* const p = b.free_pages.back();
    b.free_pages.pop_back();
    return p;
  }
  if (!b.fresh_left) {
    constexpr size_t many = 256;
    void* const memory = mmap(nullptr, many * sizeof(Page), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    b.fresh = static_cast<Page*>(memory), b.fresh_left = many;
  }
  --b.fresh_left;
  return b.fresh++;
}
void own(Range r, Owner owner) {
  for (uintptr_t p = r.begin; p < r.end;) {
    const uintptr_t next = std::min<uintptr_t>(r.end, (p / page_size + 1) * page_size);
    Page*& page = slot(p);
    if (!page && owner != nobody) page = new_page();
    for (; page && p < next; ++p) {
      uint8_t& o = page->owner[p % page_size];
      page->owned += size_t{owner != nobody} - size_t{o != nobody};
      o = owner;
    }
    if (page && page->owned == 0) {
      books().free_pages.push_back(page);
      page = nullptr;
    }
    p = next;
  }
}

void find_statics() {
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void*) {
        Range constant{0, 0};  // what is written by the loader only
        for (int i = 0; i < info->dlpi_phnum; ++i)
          if (const auto& h = info->dlpi_phdr[i]; h.p_type == PT_GNU_RELRO)
            constant = {info->dlpi_addr + h.p_vaddr, info->dlpi_addr + h.p_vaddr + h.p_memsz};
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          const auto& h = info->dlpi_phdr[i];
          if (h.p_type != PT_LOAD || !(h.p_flags & PF_W) || statics_count == 256) continue;
          Range r{info->dlpi_addr + h.p_vaddr, info->dlpi_addr + h.p_vaddr + h.p_memsz};
          if (constant.has(r.begin)) r.begin = std::min(constant.end, r.end);
          statics[statics_count++] = r;
          static_span = {std::min(static_span.begin, r.begin), std::max(static_span.end, r.end)};
        }
        return 0;
      },
      nullptr);
}
// Shared arrays are static variables, which nobody tells of: their pages are made when they are touched.
Page* static_page(uintptr_t p) {
  if (!static_span.has(p)) return nullptr;
  for (int i = 0; i < statics_count; ++i)
    if (statics[i].has(p)) {
      const uintptr_t begin = p / page_size * page_size;
      own({std::max(begin, statics[i].begin), std::min(begin + page_size, statics[i].end)}, static_shared);
      return find(p);
    }
  return nullptr;
}

std::string thread_name(unsigned thread, unsigned block) {
  return "thread " + std::to_string(thread) + " of block " + std::to_string(block);
}
std::string region_name(uintptr_t p, uint8_t owner) {
  if (owner == static_shared) return "a shared array";
  if (owner == dynamic_shared) return "dynamic shared memory, at byte " + std::to_string(p - dynamic.begin) + ",";
  auto a = books().allocations.upper_bound(p);
  if (a == books().allocations.begin()) return "device memory";
  --a;
  return "device memory, at byte " + std::to_string(p - a->first) + " of " + std::to_string(a->second) + ",";
}
unsigned block_of(uint32_t its_run) { return books().blocks[its_run - first_run]; }
std::string me(const void* code) {
  const std::string at = code ? code_name(static_cast<const char*>(code) - 1) : "";  // a return address
  return thread_name(position.linear, block_of(run)) + (at.empty() ? "" : ", in " + at + ",");
}
void found(const std::string& text) {
  active = false;
  books().mistake = text;
}
void found_race(uintptr_t p, uint8_t owner, Kind kind, const void* code, Kind other, unsigned thread, unsigned block) {
  found("race: " + region_name(p, owner) + " is " + said[kind] + " by " + me(code) + " and was " + said[other] + " by " +
        thread_name(thread, block) + " with no barrier in between");
}

bool ordered(const Touch& t) {
  if (t.epoch < epoch) return true;
  return t.thread / 32 == position.linear / 32 && clocks[t.thread / 32][position.linear % 32][t.thread % 32] >= t.clock;
}
bool of_others(const Touch& t) { return t.epoch && t.thread != position.linear; }
// The last two threads' touches; of these, one of another warp is kept rather than one of the same.
void remember(Touch (&last)[2], Touch now) {
  if (last[0].epoch && last[0].thread != now.thread &&
      !(last[1].epoch == now.epoch && last[1].thread / 32 != now.thread / 32 && last[0].thread / 32 == now.thread / 32))
    last[1] = last[0];
  last[0] = now;
}

// Whether this byte has been written in shared memory.
bool touch_byte(uintptr_t p, Cell& c, uint8_t owner, Kind kind, const void* code) {
  if (c.run != run) {
    if (c.run < first_run || owner != device_memory) {
      c = {};  // another grid, or another block's shared memory
    } else {
      if (c.write.epoch) c.earlier[writes] = {c.run, uint16_t(c.write.thread)};
      if (c.atomic[0].epoch) c.earlier[atomics] = {c.run, uint16_t(c.atomic[0].thread)};
      if (c.read[0].epoch) c.earlier[reads] = {c.run, uint16_t(c.read[0].thread)};
      c.write = c.atomic[0] = c.atomic[1] = c.read[0] = c.read[1] = {};
    }
    c.run = run;
  }
  const bool known = c.write.epoch || c.atomic[0].epoch;
  const auto check = [&](const Touch& t, Kind other) {
    if (active && of_others(t) && conflict(kind, other) && !ordered(t)) found_race(p, owner, kind, code, other, t.thread, block_of(run));
  };
  check(c.write, writes);
  for (int i = 0; i < 2; ++i) check(c.atomic[i], atomics), check(c.read[i], reads);
  for (const Kind other : {reads, writes, atomics})
    if (const Earlier& e = c.earlier[other]; active && e.run && conflict(kind, other))
      found_race(p, owner, kind, code, other, e.thread, block_of(e.run));
  const Touch now{position.linear & 1023, epoch, clocks[position.linear / 32][position.linear % 32][position.linear % 32]};
  if (kind == writes) c.write = now;
  else remember(kind == reads ? c.read : c.atomic, now);
  return known;
}

void touch(const void* address, size_t bytes, Kind kind, bool may_have_gaps, const void* code) {
  if (!active) return;
  size_t shared = 0, unknown = 0;
  for (uintptr_t p = reinterpret_cast<uintptr_t>(address), end = p + bytes; p < end && active;) {
    Page* page = find(p);
    if (!page) page = static_page(p);
    const uintptr_t page_end = (p / page_size + 1) * page_size, next = page_end < end ? page_end : end;
    for (; page && p < next && active; ++p) {
      const uint8_t owner = page->owner[p % page_size];
      if (owner == nobody) continue;
      const bool known = touch_byte(p, page->cell[p % page_size], owner, kind, code);
      if (owner != device_memory) ++shared, unknown += !known;
    }
    p = next;
  }
  if (active && kind != writes && unknown && (unknown == shared || !may_have_gaps)) {
    const auto p = reinterpret_cast<uintptr_t>(address);
    found("uninitialised: " + region_name(p, dynamic.has(p) ? dynamic_shared : static_shared) + " is " + said[kind] + " by " + me(code) +
          " and no thread of the block has written there");
  }
}

}  // namespace

void begin_grid() {
  static const bool once = (find_statics(), true);
  (void)once;
  Books& b = books();
  b.blocks.clear();
  b.mistake.clear();
  first_run = run + 1;
  active = true;
}
void end_grid() {
  active = false;
  own(dynamic, nobody);
  dynamic = {0, 0};
}
void begin_block(void* shared, size_t bytes) {
  own(dynamic, nobody);
  dynamic = {reinterpret_cast<uintptr_t>(shared), reinterpret_cast<uintptr_t>(shared) + bytes};
  own(dynamic, dynamic_shared);
  ++run;
  epoch = 1;
  books().blocks.push_back(position.block.x + position.grid.x * (position.block.y + position.grid.y * position.block.z));
  static bool first = true;
  for (int w = 0; w < 32; ++w) {
    if (!first && !clocks_used[w]) continue;
    clocks_used[w] = false;
    std::memset(clocks[w], 0, sizeof clocks[w]);
    for (int lane = 0; lane < 32; ++lane) clocks[w][lane][lane] = 1;
  }
  first = false;
}
void after_barrier() { ++epoch; }
void after_warp_barrier(unsigned warp, unsigned mask) {
  clocks_used[warp] = true;
  uint32_t all[32] = {};
  for (int lane = 0; lane < 32; ++lane)
    if (mask >> lane & 1)
      for (int i = 0; i < 32; ++i) all[i] = std::max(all[i], clocks[warp][lane][i]);
  for (int lane = 0; lane < 32; ++lane)
    if (mask >> lane & 1) {
      std::memcpy(clocks[warp][lane], all, sizeof all);
      ++clocks[warp][lane][lane];
    }
}
void allocated(void* p, size_t bytes) {
  const std::lock_guard lock(books().mutex);
  const auto begin = reinterpret_cast<uintptr_t>(p);
  books().allocations[begin] = bytes;
  own({begin, begin + bytes}, device_memory);
}
void freed(void* p, size_t bytes) {
  const std::lock_guard lock(books().mutex);
  const auto begin = reinterpret_cast<uintptr_t>(p);
  books().allocations.erase(begin);
  own({begin, begin + bytes}, nobody);
}
void check() {
  if (!books().mistake.empty()) throw Mistake(std::exchange(books().mistake, {}));
}

}  // namespace emulation::race

void emulation::touch_atomically(const void* p, size_t bytes) { race::touch(p, bytes, race::atomics, false, nullptr); }

// ---- what the compiler calls ---------------------------------------------------------------------------------------------

using emulation::race::reads, emulation::race::writes;
#define RETAPE_TOUCH(name, bytes, kind, gaps) \
  void __tsan_##name(void* p) { emulation::race::touch(p, bytes, kind, gaps, __builtin_return_address(0)); }
#define RETAPE_TOUCHES(bytes)                                 \
  RETAPE_TOUCH(read##bytes, bytes, reads, bytes > 8)          \
  RETAPE_TOUCH(write##bytes, bytes, writes, bytes > 8)        \
  RETAPE_TOUCH(volatile_read##bytes, bytes, reads, bytes > 8) \
  RETAPE_TOUCH(volatile_write##bytes, bytes, writes, bytes > 8)
#define RETAPE_UNALIGNED(bytes)                                         \
  RETAPE_TOUCH(unaligned_read##bytes, bytes, reads, bytes > 8)          \
  RETAPE_TOUCH(unaligned_write##bytes, bytes, writes, bytes > 8)        \
  RETAPE_TOUCH(unaligned_volatile_read##bytes, bytes, reads, bytes > 8) \
  RETAPE_TOUCH(unaligned_volatile_write##bytes, bytes, writes, bytes > 8)
// The host's atomics; kernels have CUDA's.
#define RETAPE_HOST_ATOMICS(bits, T)                                                                                  \
  T __tsan_atomic##bits##_load(const volatile T* p, int) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }             \
  void __tsan_atomic##bits##_store(volatile T* p, T v, int) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); }             \
  T __tsan_atomic##bits##_exchange(volatile T* p, T v, int) { return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST); }   \
  T __tsan_atomic##bits##_fetch_add(volatile T* p, T v, int) { return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST); }   \
  T __tsan_atomic##bits##_fetch_sub(volatile T* p, T v, int) { return __atomic_fetch_sub(p, v, __ATOMIC_SEQ_CST); }   \
  T __tsan_atomic##bits##_fetch_and(volatile T* p, T v, int) { return __atomic_fetch_and(p, v, __ATOMIC_SEQ_CST); }   \
  T __tsan_atomic##bits##_fetch_or(volatile T* p, T v, int) { return __atomic_fetch_or(p, v, __ATOMIC_SEQ_CST); }     \
  T __tsan_atomic##bits##_fetch_xor(volatile T* p, T v, int) { return __atomic_fetch_xor(p, v, __ATOMIC_SEQ_CST); }   \
  T __tsan_atomic##bits##_fetch_nand(volatile T* p, T v, int) { return __atomic_fetch_nand(p, v, __ATOMIC_SEQ_CST); } \
  int __tsan_atomic##bits##_compare_exchange_strong(volatile T* p, T* expected, T v, int, int) {                      \
    return __atomic_compare_exchange_n(p, expected, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                    \
  }                                                                                                                   \
  int __tsan_atomic##bits##_compare_exchange_weak(volatile T* p, T* expected, T v, int, int) {                        \
    return __atomic_compare_exchange_n(p, expected, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                    \
  }
extern "C" {
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void*, void*) {}
void __tsan_vptr_read(void*) {}
RETAPE_TOUCHES(1)
RETAPE_TOUCHES(2)
RETAPE_TOUCHES(4)
RETAPE_TOUCHES(8)
RETAPE_TOUCHES(16)
RETAPE_UNALIGNED(2)
RETAPE_UNALIGNED(4)
RETAPE_UNALIGNED(8)
RETAPE_UNALIGNED(16)
void __tsan_read_range(void* p, size_t bytes) { emulation::race::touch(p, bytes, reads, true, __builtin_return_address(0)); }
void __tsan_write_range(void* p, size_t bytes) { emulation::race::touch(p, bytes, writes, true, __builtin_return_address(0)); }
RETAPE_HOST_ATOMICS(8, uint8_t)
RETAPE_HOST_ATOMICS(16, uint16_t)
RETAPE_HOST_ATOMICS(32, uint32_t)
RETAPE_HOST_ATOMICS(64, uint64_t)
void __tsan_atomic_thread_fence(int) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
void __tsan_atomic_signal_fence(int) {}
}
