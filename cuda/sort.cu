// Sorting lines along a dim, and binary search. A value's bits become an unsigned key whose order is the value's (nan above all, -0 equal
// to 0), so that nothing here knows types. Short lines are sorted inside a block by key and position (a bitonic network), long ones all
// together: first by key, then, since that is stable, by line.
#include <retape/cuda/dims.h>
#include <retape/cuda/libraries/sort.h>

namespace retape::cuda {
namespace {

constexpr int threads = 256;
constexpr int64_t most_in_block = 2048, most_together = (int64_t{1} << 31) - 1;

// Keys of a dtype: the rule in numbers, which are the same for all threads.
struct Rule {
  int bytes;
  uint64_t top, infinity;  // the highest bit; of a floating dtype, the bits of infinity
  bool is_signed, descending;
  explicit Rule(DType d, bool descending = false)
      : bytes(int(size_of(d))),
        top(uint64_t{1} << (8 * bytes - 1)),
        infinity(d == DType::f64    ? 0x7ff0000000000000
                 : d == DType::f32  ? 0x7f800000
                 : d == DType::f16  ? 0x7c00
                 : d == DType::bf16 ? 0x7f80
                                    : 0),
        is_signed(d == DType::i64 || d == DType::i32),
        descending(descending) {}
  __device__ __forceinline__ uint64_t load(const void* x, int64_t i) const {
    switch (bytes) {
      case 1: return static_cast<const uint8_t*>(x)[i];
      case 2: return static_cast<const uint16_t*>(x)[i];
      case 4: return static_cast<const uint32_t*>(x)[i];
      default: return static_cast<const uint64_t*>(x)[i];
    }
  }
  __device__ __forceinline__ void copy(const void* x, int64_t from, void* y, int64_t to) const {
    switch (bytes) {
      case 1: static_cast<uint8_t*>(y)[to] = static_cast<const uint8_t*>(x)[from]; break;
      case 2: static_cast<uint16_t*>(y)[to] = static_cast<const uint16_t*>(x)[from]; break;
      case 4: static_cast<uint32_t*>(y)[to] = static_cast<const uint32_t*>(x)[from]; break;
      default: static_cast<uint64_t*>(y)[to] = static_cast<const uint64_t*>(x)[from];
    }
  }
  __device__ __forceinline__ uint64_t key(const void* x, int64_t i) const {
    const uint64_t bits = load(x, i), all = top | (top - 1), magnitude = bits & (top - 1);
    uint64_t key = is_signed ? bits ^ top : bits;
    if (infinity) key = magnitude > infinity ? all : magnitude == 0 ? top : bits & top ? ~bits & all : bits | top;
    return descending ? ~key & all : key;
  }
};

// (outer, n, inner): line l is at l / inner * n * inner + l % inner, its elements `inner` apart.
struct Lines {
  int64_t n, inner, count;
  __device__ __forceinline__ int64_t first(int64_t line) const { return inner == 1 ? line * n : line / inner * n * inner + line % inner; }
};

// blockDim.x pairs of elements, which are lines of `padded` (a power of two, n or more). Keys of up to 4 bytes are compared together with
// their positions as one number.
template <bool wide> __global__ void sort_in_block(const void* x, Rule rule, Lines lines, int padded, void* y, int64_t* index) {
  RETAPE_DYNAMIC_SHARED(uint64_t, keys);
  const int elements = int(2 * blockDim.x), per_block = elements / padded, n = int(lines.n);
  uint32_t* const positions = reinterpret_cast<uint32_t*>(keys + elements);  // if wide
  for (int64_t first = int64_t(blockIdx.x) * per_block; first < lines.count; first += int64_t(gridDim.x) * per_block) {
    // neighbouring threads read neighbours in memory
    for (int e = int(threadIdx.x); e < elements; e += int(blockDim.x)) {
      const int line = lines.inner == 1 ? e / padded : e % per_block, position = lines.inner == 1 ? e % padded : e / per_block;
      const bool real = position < n && first + line < lines.count;
      const uint64_t key = real ? rule.key(x, lines.first(first + line) + position * lines.inner) : ~uint64_t{0};
      const int slot = line * padded + position;
      keys[slot] = wide ? key : real ? key << 32 | uint32_t(position) : key;
      if (wide) positions[slot] = real ? uint32_t(position) : ~0u;
    }
    for (int size = 2; size <= padded; size *= 2)
      for (int step = size / 2; step; step /= 2) {
        __syncthreads();
        const int t = int(threadIdx.x), a = 2 * (t & ~(step - 1)) + (t & (step - 1)), b = a + step;
        const bool ascending = (a & (padded - 1) & size) == 0;
        const uint64_t ka = keys[a], kb = keys[b];
        if constexpr (wide) {
          const uint32_t pa = positions[a], pb = positions[b];
          if ((ka > kb || (ka == kb && pa > pb)) == ascending) keys[a] = kb, keys[b] = ka, positions[a] = pb, positions[b] = pa;
        } else {
          if ((ka > kb) == ascending) keys[a] = kb, keys[b] = ka;
        }
      }
    __syncthreads();
    for (int e = int(threadIdx.x); e < elements; e += int(blockDim.x)) {
      const int line = lines.inner == 1 ? e / padded : e % per_block, rank = lines.inner == 1 ? e % padded : e / per_block;
      if (rank >= n || first + line >= lines.count) continue;
      const int slot = line * padded + rank;
      const int64_t from = wide ? int64_t(positions[slot]) : int64_t(uint32_t(keys[slot])), base = lines.first(first + line);
      index[base + rank * lines.inner] = from;
      rule.copy(x, base + from * lines.inner, y, base + rank * lines.inner);
    }
    __syncthreads();  // before the next lines
  }
}

// Some slices (n, inner) of x, or some columns of one, taken as (slices * n, columns) elements of which each column is a line. Elements
// of a line come in its order, so that stable sorts keep that.
struct Part {
  uint32_t n, columns;
  int64_t inner;
  __device__ __forceinline__ int64_t place(uint32_t i) const {
    return columns == inner ? int64_t(i) : int64_t(i / columns) * inner + i % columns;
  }
};
template <class K> __global__ void find_keys(const void* x, Rule rule, Part part, int64_t elements, K* keys, uint32_t* order) {
  for (int64_t i = thread_index(); i < elements; i += thread_count())
    keys[i] = K(rule.key(x, part.place(uint32_t(i)))), order[i] = uint32_t(i);
}
__global__ void find_lines(Part part, int64_t elements, const uint32_t* order, uint32_t* keys) {
  for (int64_t i = thread_index(); i < elements; i += thread_count()) {
    const uint32_t at = order[i], row = at / part.columns;
    keys[i] = row / part.n * part.columns + (at - row * part.columns);
  }
}
// Element i of y is number (line, rank) of the sorted ones.
__global__ void put_sorted(const void* x, Rule rule, Part part, int64_t elements, const uint32_t* order, void* y, int64_t* index) {
  for (int64_t i = thread_index(); i < elements; i += thread_count()) {
    const uint32_t row = uint32_t(i) / part.columns, slice = row / part.n, rank = row - slice * part.n;
    const uint32_t from = order[(slice * part.columns + uint32_t(i) % part.columns) * part.n + rank];
    const int64_t to = part.place(uint32_t(i));
    index[to] = from / part.columns % part.n;
    rule.copy(x, part.place(from), y, to);
  }
}

template <class K> library::Pairs<K> pairs_in(char* space, uint32_t* order, int64_t n) {
  K* const keys = reinterpret_cast<K*>(space);
  return {keys, keys + n, order, order + n};
}
// All lines of the part together, fewer than 2^31 elements.
void sort_together(const void* x, const Rule& rule, const Part& part, int64_t lines, void* y, int64_t* index) {
  const int64_t elements = lines * part.n;
  const Scratch<uint32_t> space(2 * elements);
  const Scratch<char> key_space(2 * elements * (rule.bytes == 8 ? 8 : 4));
  uint32_t *order, *spare;
  const auto by_key = [&](auto zero) {
    using K = decltype(zero);
    auto pairs = pairs_in<K>(key_space, space, elements);
    launch(find_keys<K>, blocks_for(elements), threads, 0, x, rule, part, elements, pairs.keys, pairs.values);
    library::sort(pairs, elements, 8 * rule.bytes);
    order = pairs.values, spare = pairs.spare_values;
  };
  if (rule.bytes == 8) by_key(uint64_t{});
  else by_key(uint32_t{});
  if (lines > 1) {
    auto pairs = pairs_in<uint32_t>(key_space, order, elements);
    pairs.spare_values = spare;
    launch(find_lines, blocks_for(elements), threads, 0, part, elements, order, pairs.keys);
    int bits = 1;
    while ((lines - 1) >> bits) ++bits;
    library::sort(pairs, elements, bits);
    order = pairs.values;
  }
  launch(put_sorted, blocks_for(elements), threads, 0, x, rule, part, elements, order, y, index);
}

__global__ void search(const void* sorted, Rule rule, int64_t n, int64_t each, bool right, const void* values, int64_t count,
                       int64_t* index) {
  for (int64_t i = thread_index(); i < count; i += thread_count()) {
    const uint64_t wanted = rule.key(values, i);
    const int64_t line = each ? i / each * n : 0;
    int64_t low = 0, high = n;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      const uint64_t here = rule.key(sorted, line + middle);
      if (right ? here <= wanted : here < wanted) low = middle + 1;
      else high = middle;
    }
    index[i] = low;
  }
}

}  // namespace

void sort(const Tensor& x, int dim, bool descending, Tensor& y, Tensor& index) {
  Lines lines{x.shape()[dim], 1, 1};
  for (int d = 0; d < x.dim(); ++d) {
    if (d != dim) lines.count *= x.shape()[d];
    if (d > dim) lines.inner *= x.shape()[d];
  }
  if (lines.n == 0 || lines.count == 0) return;
  const Rule rule(x.dtype(), descending);
  const std::byte* in = data_bytes(x);
  std::byte* out = data_bytes(y);
  int64_t* indices = data<int64_t>(index);
  if (lines.n <= most_in_block) {
    const int padded = power_of_two_from(lines.n, int(most_in_block)), elements = max_of(padded, 2 * threads);
    const dim3 blocks = blocks_for(lines.count, elements / padded);
    const size_t shared = size_t(elements) * (rule.bytes == 8 ? 12 : 8);
    launch(rule.bytes == 8 ? sort_in_block<true> : sort_in_block<false>, blocks, elements / 2, shared, in, rule, lines, padded, out,
           indices);
    return;
  }
  // as many lines at once as positions fit into 32 bits: whole slices, or columns of one
  const int64_t slice = lines.n * lines.inner, outer = lines.count / lines.inner;
  if (lines.n > most_together) retape::detail::kernel_error("sort: lines of 2^31 elements or more are not supported on CUDA");
  const int64_t slices = max_of(most_together / slice, int64_t{1}), columns = min_of(lines.inner, most_together / lines.n);
  for (int64_t o = 0; o < outer; o += slices)
    for (int64_t c = 0; c < lines.inner; c += columns) {
      const Part part{uint32_t(lines.n), uint32_t(min_of(columns, lines.inner - c)), lines.inner};
      const int64_t at = o * slice + c;
      sort_together(in + at * rule.bytes, rule, part, min_of(slices, outer - o) * part.columns, out + at * rule.bytes, indices + at);
    }
}

// index: how many elements of the sorted line are before the value (or, with `right`, not after it).
void search_sorted(const Tensor& sorted, const Tensor& values, bool right, Tensor& index) {
  const int64_t n = sorted.shape()[-1], lines = n ? sorted.numel() / n : 1, count = values.numel();
  const Rule rule(sorted.dtype());
  if (count == 0) return;
  launch(search, blocks_for(count), threads, 0, data_bytes(sorted), rule, n, lines > 1 ? count / lines : 0, right, data_bytes(values),
         count, data<int64_t>(index));
}

}  // namespace retape::cuda
