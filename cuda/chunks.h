// Launches over the elements of many tensors at once: each is cut into chunks, a block each, and a launch carries a table of as many
// tensors as fit among a kernel's arguments.
#pragma once
#include <retape/cuda/launch.h>

namespace retape::cuda {
namespace {

constexpr int64_t chunk = 8192;  // elements
constexpr int threads = 256;

// Entry c of at[] has the chunks first[c] to first[c + 1].
template <class Entry> struct Table {
  static constexpr int capacity = int((4096 - 160) / (sizeof(Entry) + sizeof(int)));
  int count = 0;
  int first[capacity + 1] = {};
  Entry at[capacity];
  void add(const Entry& entry) {
    at[count] = entry;
    first[count + 1] = first[count] + int((entry.n + chunk - 1) / chunk);
    ++count;
  }
};

// This block's elements [begin, end) of a tensor.
struct Chunk {
  int tensor;
  int64_t begin, end;
};
template <class Entry> __device__ __forceinline__ Chunk chunk_of(const Table<Entry>& table) {
  const int c = int(blockIdx.x);
  int low = 0, high = table.count;  // the last entry whose first chunk is at most c
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (table.first[middle] <= c) low = middle;
    else high = middle;
  }
  const int64_t begin = int64_t(c - table.first[low]) * chunk;
  return {low, begin, min_of(begin + chunk, table.at[low].n)};
}

/// Hands the entries of `count` tensors to f in as many tables as it takes; those that are not of T are left out.
template <class Entry, class T, class EntryOf, class F> void in_tables(int64_t count, const EntryOf& entry_of, const F& f) {
  Table<Entry> table;
  for (int64_t i = 0; i < count; ++i) {
    if (!entry_of.template has<T>(i)) continue;
    table.add(entry_of.template entry<T>(i));
    if (table.count < Table<Entry>::capacity) continue;
    f(table);
    table = {};
  }
  if (table.count) f(table);
}

inline void count_write(const Tensor& x) { ++x->storage->version; }

}  // namespace
}  // namespace retape::cuda
