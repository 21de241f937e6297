// Kernels that work row by row: a row of n elements belongs to one warp (short rows) or one block, whose threads share it in packs of
// 16 bytes. A thread's first pack stays in registers; what a longer row has beyond those is read again from the cache.
#pragma once
#include <initializer_list>

#include <retape/cuda/launch.h>

namespace retape::cuda {

constexpr int threads_for_rows = 512;

/// Threads along x share a row; threads along y, if a warp is enough for one, have rows of their own. A kernel begins with
///
///     for (int64_t row = first_row(); row < rows; row += row_step()) { ... }
///
/// in which all threads of a barrier take the same turns, so that block_reduce() serves warps and blocks.
struct RowGrid {
  dim3 grid, block;
  RowGrid(int64_t rows, int64_t n, int width) {
    const int64_t wanted = (n + width - 1) / width;
    unsigned threads = 32;
    while (threads < unsigned(threads_for_rows) && int64_t(threads) < wanted) threads *= 2;
    block = dim3(threads, threads == 32 ? 8 : 1);
    grid = blocks_for(rows, int64_t(block.y));
  }
};
__device__ __forceinline__ int64_t first_row() { return int64_t(blockIdx.x) * blockDim.y + threadIdx.y; }
__device__ __forceinline__ int64_t row_step() { return int64_t(gridDim.x) * blockDim.y; }

template <class T> constexpr int pack_width = 16 / int(sizeof(T));
/// A pack in the type that it is computed in.
template <class T> using Values = Pack<compute_t<T>, pack_width<T>>;

/// Whether every row can be read in packs of 16 bytes: rows of n elements that lie one behind the other from `starts` on.
template <class T> bool rows_are_packed(int64_t n, std::initializer_list<const void*> starts) {
  uintptr_t address = 0;
  for (const void* p : starts) address |= uintptr_t(p);
  return n % pack_width<T> == 0 && address % 16 == 0;
}

/// Which elements of a row a pack has: neighbours where rows are packed, else elements as far apart as there are threads, so that a
/// warp reads neighbours.
struct Place {
  int64_t first;
  int step, left;  // left: elements from `first` to the row's end, as far as it matters
  bool packed;
  __device__ __forceinline__ Place(int64_t k, int width, int64_t n, bool packed_) : packed(packed_) {
    first = packed ? (k * blockDim.x + threadIdx.x) * width : k * width * blockDim.x + threadIdx.x;
    step = packed ? 1 : int(blockDim.x);
    left = int(min_of(max_of(n - first, int64_t{0}), int64_t{1} << 20));
  }
  __device__ __forceinline__ bool has(int j) const { return j * step < left; }
  __device__ __forceinline__ int64_t at(int j) const { return first + j * step; }
};

/// Elements past the row's end are 0.
template <class T> __device__ __forceinline__ Pack<T, pack_width<T>> load_raw(const T* row, const Place& place) {
  constexpr int width = pack_width<T>;
  if (place.packed) return *reinterpret_cast<const Pack<T, width>*>(row + place.first);
  Pack<T, width> raw;
#pragma unroll
  for (int j = 0; j < width; ++j) raw.at[j] = place.has(j) ? row[place.at(j)] : T(compute_t<T>(0));
  return raw;
}
template <class T> __device__ __forceinline__ Values<T> widened(const Pack<T, pack_width<T>>& raw) {
  Values<T> v;
#pragma unroll
  for (int j = 0; j < pack_width<T>; ++j) v.at[j] = compute_t<T>(raw.at[j]);
  return v;
}
template <class T> __device__ __forceinline__ Values<T> load(const T* row, const Place& place) { return widened<T>(load_raw(row, place)); }
template <class T> __device__ __forceinline__ void store(const Values<T>& v, T* row, const Place& place) {
  constexpr int width = pack_width<T>;
  if (place.packed) {
    Pack<T, width> raw;
#pragma unroll
    for (int j = 0; j < width; ++j) raw.at[j] = T(v.at[j]);
    *reinterpret_cast<Pack<T, width>*>(row + place.first) = raw;
  } else {
#pragma unroll
    for (int j = 0; j < width; ++j)
      if (place.has(j)) row[place.at(j)] = T(v.at[j]);
  }
}
/// A vector that goes with every row, such as a weight; `otherwise` everywhere if it is null.
template <class T> __device__ __forceinline__ Values<T> load_or(const T* row, const Place& place, compute_t<T> otherwise) {
  if (row) return load(row, place);
  Values<T> v;
#pragma unroll
  for (int j = 0; j < pack_width<T>; ++j) v.at[j] = otherwise;
  return v;
}

/// This thread's packs of N rows of n elements, which it may go through several times. A row may be overwritten on the last one.
template <class T, int N> class Rows {
 public:
  __device__ __forceinline__ Rows(const T* const (&rows)[N], int64_t n, bool packed) : n_(n), packed_(packed) {
#pragma unroll
    for (int i = 0; i < N; ++i) rows_[i] = rows[i];
    read(place(0), first_);
  }
  /// f(place, v) for every pack, with v[i] from row i.
  template <class F> __device__ __forceinline__ void each(const F& f) const {
    if (const Place p = place(0); p.left) call(f, p, first_);
    for (int64_t k = 1;; ++k) {
      const Place p = place(k);
      if (!p.left) break;
      Raw raw[N];
      read(p, raw);
      call(f, p, raw);
    }
  }

 private:
  using Raw = Pack<T, pack_width<T>>;
  const T* rows_[N];
  int64_t n_;
  bool packed_;
  Raw first_[N];

  __device__ __forceinline__ Place place(int64_t k) const { return Place(k, pack_width<T>, n_, packed_); }
  __device__ __forceinline__ void read(const Place& p, Raw (&raw)[N]) const {
    if (!p.left) return;
#pragma unroll
    for (int i = 0; i < N; ++i) raw[i] = load_raw(rows_[i], p);
  }
  template <class F> __device__ __forceinline__ static void call(const F& f, const Place& p, const Raw (&raw)[N]) {
    Values<T> v[N];
#pragma unroll
    for (int i = 0; i < N; ++i) v[i] = widened<T>(raw[i]);
    f(p, v);
  }
};

}  // namespace retape::cuda
