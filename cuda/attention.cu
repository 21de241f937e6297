// Scaled dot-product attention in tiles (FlashAttention-2, Dao 2023): the T x S scores never exist in memory. A warp owns 16 rows of a
// tile (or twice as many) in the layout of the tensor cores' results. Backward goes over the scores twice, once by queries for dQ and
// once by keys for dK and dV: a sum then belongs to one thread, and its order is fixed.
#include <string>

#include <retape/cuda/launch.h>

namespace retape::cuda {
namespace {

// Sums must stay in registers, so functions that take them are inlined; in an emulation that would only cost time.
#if defined(RETAPE_EMULATE_CUDA)
#define RETAPE_INLINED __device__ inline
#define RETAPE_OUTLINED __device__ inline
#else
#define RETAPE_INLINED __device__ __forceinline__
#define RETAPE_OUTLINED __device__ __noinline__
#endif

// ---- one warp's products ---------------------------------------------------------------------------------------------

// Where a thread's elements of a tile of 16 x 8 lie (mma m16n8): rows g and g + 8, columns 2 t and 2 t + 1, in the order
// (g, 2 t), (g, 2 t + 1), (g + 8, 2 t), (g + 8, 2 t + 1). A Tile has `M` of them below each other, `N` side by side.
__device__ __forceinline__ int lane() { return int(threadIdx.x) % 32; }
__device__ __forceinline__ int first_row_of_lane() { return lane() / 4; }
__device__ __forceinline__ int first_column_of_lane() { return lane() % 4 * 2; }
template <class A, int M, int N> struct Tile {
  A at[M][N][4];
  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
      for (int n = 0; n < N; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) at[m][n][e] = 0;
  }
  /// f(row, column, element) for this thread's elements, with those of other tiles at the same place.
  template <class F, class... Others> __device__ __forceinline__ void each(const F& f, Others&... others) {
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
      for (int n = 0; n < N; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e)
          f(16 * m + 8 * (e / 2) + first_row_of_lane(), 8 * n + first_column_of_lane() + e % 2, at[m][n][e], others.at[m][n][e]...);
  }
};

// In shared memory a row is followed by 16 bytes, so that rows begin at an odd multiple of 16 bytes: what a warp reads of eight rows at
// once then lies in different banks. Features are padded with zeros to whole steps of a product.
template <class T> constexpr int pack_size = 16 / int(sizeof(T));
template <class T> constexpr int feature_step = sizeof(T) == 2 ? 16 : 8;
template <class T> RETAPE_HD int padded(int64_t features) {
  return int((features + feature_step<T> - 1) / feature_step<T> * feature_step<T>);
}
template <class T> RETAPE_HD int row_length(int64_t features) { return padded<T>(features) + pack_size<T>; }

#if defined(RETAPE_EMULATE_CUDA)
template <class T> constexpr bool tensor_cores = false;
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
template <class T> constexpr bool tensor_cores = std::is_same_v<T, f16>;
#else
template <class T> constexpr bool tensor_cores = sizeof(T) == 2;
#endif

#if !defined(RETAPE_EMULATE_CUDA)
// Four matrices of 8 x 8 half-size elements; lane l gives the address of row l % 8 of matrix l / 8.
template <bool transposed> __device__ __forceinline__ void load_matrices(uint32_t (&x)[4], const void* row) {
  const auto address = uint32_t(__cvta_generic_to_shared(row));
  if constexpr (transposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(address)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(address)
                 : "memory");
}
// sum (16 x 8) += a (16 x 16) b (16 x 8)
template <class T> __device__ __forceinline__ void multiply_matrices(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 800
  if constexpr (std::is_same_v<T, f16>)
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
               : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
               : "r"(a[0]), "r"(a[1]), "r"(b0));
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
               : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
               : "r"(a[2]), "r"(a[3]), "r"(b1));
#endif
}
// Two floats, rounded, the first in the lower half.
template <class T> __device__ __forceinline__ uint32_t round_pair(float first, float second) {
  uint32_t x;
#if __CUDA_ARCH__ >= 800
  if constexpr (std::is_same_v<T, f16>) asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(x) : "f"(second), "f"(first));
  else asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(x) : "f"(second), "f"(first));
#else
  asm("{ .reg .f16 low, high; cvt.rn.f16.f32 low, %1; cvt.rn.f16.f32 high, %2; mov.b32 %0, {low, high}; }"
      : "=r"(x)
      : "f"(first), "f"(second));
#endif
  return x;
}
#endif

// sum += a b^T: a (16 M, features) and b (8 N, features) in shared memory.
template <class T, class A, int M, int N>
RETAPE_INLINED void multiply_rows(Tile<A, M, N>& sum, const T* a, const T* b, int length, int features) {
#if !defined(RETAPE_EMULATE_CUDA)
  if constexpr (tensor_cores<T>) {
    const T* const a_row = a + lane() % 16 * length + lane() / 16 * 8;
    const T* const b_row = b + (lane() % 8 + lane() / 16 * 8) * length + lane() / 8 % 2 * 8;
#pragma unroll 1
    for (int f = 0; f < features; f += 16) {
      uint32_t x[M][4];
#pragma unroll
      for (int m = 0; m < M; ++m) load_matrices<false>(x[m], a_row + m * 16 * length + f);
#pragma unroll
      for (int n = 0; n < N; n += 2) {
        uint32_t y[4];
        load_matrices<false>(y, b_row + n * 8 * length + f);
#pragma unroll
        for (int m = 0; m < M; ++m) {
          multiply_matrices<T>(sum.at[m][n], x[m], y[0], y[1]);
          multiply_matrices<T>(sum.at[m][n + 1], x[m], y[2], y[3]);
        }
      }
    }
  } else
#endif
  {
    constexpr int width = pack_size<T>;
    const T* const a_row = a + first_row_of_lane() * length;
    const T* const b_row = b + first_column_of_lane() * length;
#pragma unroll 1
    for (int f = 0; f < features; f += width) {
      Pack<T, width> x[M][2];
#pragma unroll
      for (int m = 0; m < M; ++m)
#pragma unroll
        for (int r = 0; r < 2; ++r) x[m][r] = *reinterpret_cast<const Pack<T, width>*>(a_row + (16 * m + 8 * r) * length + f);
#pragma unroll
      for (int n = 0; n < N; ++n)
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          const auto y = *reinterpret_cast<const Pack<T, width>*>(b_row + (8 * n + c) * length + f);
#pragma unroll
          for (int m = 0; m < M; ++m)
#pragma unroll
            for (int r = 0; r < 2; ++r)
#pragma unroll
              for (int v = 0; v < width; ++v) sum.at[m][n][2 * r + c] += A(x[m][r].at[v]) * A(y.at[v]);
        }
    }
  }
}

// sum += weights b: b (8 N, columns) in shared memory. Weights are rounded to T first. Columns are taken by 32: what is read behind the
// last one, of the next row or of `slack`, goes into sums that nobody looks at.
constexpr int slack = 32;  // elements
template <class T, class A, int M, int N, int C>
RETAPE_INLINED void multiply_weights(Tile<A, M, C>& sum, const Tile<A, M, N>& weights, const T* b, int length, int columns) {
#if !defined(RETAPE_EMULATE_CUDA)
  if constexpr (tensor_cores<T>) {
    const T* const b_row = b + lane() % 16 * length + lane() / 16 * 8;
#pragma unroll
    for (int n = 0; n < N; n += 2) {
      uint32_t x[M][4];
#pragma unroll
      for (int m = 0; m < M; ++m)
#pragma unroll
        for (int i = 0; i < 4; ++i) x[m][i] = round_pair<T>(weights.at[m][n + i / 2][i % 2 * 2], weights.at[m][n + i / 2][i % 2 * 2 + 1]);
#pragma unroll
      for (int group = 0; group < C; group += 4)
        if (group * 8 < columns)
#pragma unroll
          for (int c = group; c < group + 4; c += 2) {
            uint32_t y[4];
            load_matrices<true>(y, b_row + n * 8 * length + c * 8);
#pragma unroll
            for (int m = 0; m < M; ++m) {
              multiply_matrices<T>(sum.at[m][c], x[m], y[0], y[1]);
              multiply_matrices<T>(sum.at[m][c + 1], x[m], y[2], y[3]);
            }
          }
    }
  } else
#endif
  {
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll 1
      for (int pair = 0; pair < 4; ++pair)
#pragma unroll
        for (int k = 0; k < 2; ++k) {
          A w[M][2];
#pragma unroll
          for (int m = 0; m < M; ++m)
#pragma unroll
            for (int r = 0; r < 2; ++r) w[m][r] = A(T(__shfl_sync(all_lanes, weights.at[m][n][2 * r + k], lane() / 4 * 4 + pair)));
          const T* const row = b + (8 * n + 2 * pair + k) * length + first_column_of_lane();
#pragma unroll
          for (int group = 0; group < C; group += 4)
            if (group * 8 < columns)
#pragma unroll
              for (int c = group; c < group + 4; ++c) {
                if (c * 8 >= columns) break;
                const auto y = *reinterpret_cast<const Pack<T, 2>*>(row + c * 8);
#pragma unroll
                for (int m = 0; m < M; ++m)
#pragma unroll
                  for (int e = 0; e < 4; ++e) sum.at[m][c][e] += w[m][e / 2] * A(y.at[e % 2]);
              }
        }
  }
}

// ---- moving rows -----------------------------------------------------------------------------------------------------

__device__ __forceinline__ void copy_16_bytes(void* shared, const void* from) {
#if !defined(RETAPE_EMULATE_CUDA) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(uint32_t(__cvta_generic_to_shared(shared))), "l"(from) : "memory");
#else
  *static_cast<Pack<uint32_t, 4>*>(shared) = *static_cast<const Pack<uint32_t, 4>*>(from);
#endif
}
/// Until what this thread has copied has arrived.
__device__ __forceinline__ void wait_for_copies() {
#if !defined(RETAPE_EMULATE_CUDA) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

template <class T> struct Rows {  // (batch, heads, positions, features), features contiguous
  T* data;
  int64_t stride[3];
  int features;
  bool packed;  // every row is whole packs of 16 bytes
  __device__ __forceinline__ T* at(int64_t b, int64_t h, int64_t t) const { return data + b * stride[0] + h * stride[1] + t * stride[2]; }
};

// to (rows, row_length) = `used` rows from x on, with zeros behind them and behind their features. By all threads of the block.
template <class T> RETAPE_INLINED void load_rows(const Rows<const T>& x, const T* from, int64_t used, int rows, T* to) {
  constexpr int width = pack_size<T>;
  const int length = row_length<T>(x.features), packs = padded<T>(x.features) / width, threads = int(blockDim.x);
  const int across = packs < threads ? packs : threads;
  if (packs == 0) return;
  const int first = int(threadIdx.x) / across, step = threads / across;
  if (first >= step) return;
#pragma unroll 1
  for (int r = first; r < rows; r += step)
#pragma unroll 1
    for (int c = int(threadIdx.x) % across * width; c < padded<T>(x.features); c += across * width) {
      T* const out = to + r * length + c;
      const T* const in = from + r * x.stride[2] + c;
      const int left = r < used ? x.features - c : 0;
      if (x.packed && left > 0) copy_16_bytes(out, in);
      else
        for (int v = 0; v < width; ++v) out[v] = v < left ? in[v] : T{};
    }
}

template <class T> __device__ __forceinline__ Pack<T, 2> round_to(float first, float second) {
#if !defined(RETAPE_EMULATE_CUDA)
  if constexpr (tensor_cores<T>) {
    const uint32_t pair = round_pair<T>(first, second);
    return reinterpret_cast<const Pack<T, 2>&>(pair);
  } else
#endif
    return {T(first), T(second)};
}
template <class T> __device__ __forceinline__ Pack<T, 2> round_to(double first, double second) { return {T(first), T(second)}; }

// A warp's rows of y, columns [first, first + columns) = factor of the row * x; `rows` of them are there. They go through `space` in shared
// memory, rows of the warp alone, since there the warp's 32 threads can store what lies side by side.
template <class T, class A, int M, int C>
RETAPE_INLINED void store_rows(const Tile<A, M, C>& x, const A (&factor)[M][2], const Rows<T>& y, T* to, int64_t rows, int first,
                               int columns, T* space) {
  const int length = row_length<T>(y.features);
  __syncwarp();
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      T* const row = space + (16 * m + 8 * r + first_row_of_lane()) * length + first + first_column_of_lane();
#pragma unroll
      for (int c = 0; c < C; ++c)
        if (c * 8 < columns)
          *reinterpret_cast<Pack<T, 2>*>(row + c * 8) = round_to<T>(x.at[m][c][2 * r] * factor[m][r], x.at[m][c][2 * r + 1] * factor[m][r]);
    }
  __syncwarp();
  constexpr int width = pack_size<T>;
  const int end = min_of(first + columns, y.features);
#pragma unroll 1
  for (int r = 0; r < min_of(rows, int64_t{16 * M}); ++r)
    if (y.packed) {
      for (int c = first + lane() * width; c < end; c += 32 * width)
        *reinterpret_cast<Pack<T, width>*>(to + r * y.stride[2] + c) = *reinterpret_cast<const Pack<T, width>*>(space + r * length + c);
    } else {
      for (int c = first + lane(); c < end; c += 32) to[r * y.stride[2] + c] = space[r * length + c];
    }
}

// ---- scores ----------------------------------------------------------------------------------------------------------

template <class A> constexpr A infinity = A(__builtin_inff());

__device__ __forceinline__ float exponential(float x) { return exp2f(x * 1.44269504088896340736f); }
__device__ __forceinline__ double exponential(double x) { return exp(x); }

struct Mask {
  const void* data;
  DType dtype;
  int64_t stride[4];
};

// Where a batch element's, or a packed sequence's, tensors begin.
struct Start {
  int b, query, key;
};

// What attention is asked for, without the tensors that only one direction has. Positions: T queries, S keys; as int, since registers are
// what these kernels have least of.
template <class T> struct Problem {
  static constexpr int unlimited = 1 << 30, most_positions = 1 << 29;  // so that no sum overflows
  int batch, heads, kv_heads, queries, keys;
  Rows<const T> q, k, v;
  Mask mask;
  compute_t<T> scale, softcap, kept;  // kept: 1 / (1 - dropout)
  bool dropout;
  uint32_t threshold;  // dropout keeps a number whose upper 24 bits are not below
  RandomState random;
  int left, right, offset, sinks;  // as in AttentionOptions
  int all_queries, all_keys;       // of all packed sequences; else queries and keys
  const compute_t<T>* relative;    // (heads, all_queries + all_keys - 1): [j - i + all_queries - 1] is added
  const bool* blocks;
  int block_size, block_columns;
  int64_t blocks_of_head;
  const int64_t *cu_q, *cu_k;
  int longest_queries, longest_keys;
  Fault* fault;  // where queries that see none of their keys are reported; null if they are not

  /// Makes this the problem of batch element b, or of packed sequence b. Sequences that are not where they may be have been reported; none is read
  /// beyond what there is.
  __device__ __forceinline__ Start begin(int b) {
    if (!cu_q) return {b, 0, 0};
    const auto place = [](int64_t at, int all) { return int(min_of(max_of(at, int64_t{0}), int64_t{all})); };
    const int query = place(cu_q[b], all_queries), key = place(cu_k[b], all_keys);
    queries = min_of(max_of(place(cu_q[b + 1], all_queries) - query, 0), longest_queries);
    keys = min_of(max_of(place(cu_k[b + 1], all_keys) - key, 0), longest_keys);
    return {0, query, key};
  }
  /// The keys that queries before `end` may see.
  __device__ __forceinline__ int keys_before(int end) const { return min_of(keys, end + offset + right); }
  /// The first key that queries from `first` on may see.
  __device__ __forceinline__ int first_key(int first) const { return sinks > 0 ? 0 : max_of(0, first + offset - left); }
  /// Whether keys are hidden from later queries: the last tiles of queries have the most to do, and start first.
  __device__ __forceinline__ bool grows() const { return right < unlimited && left == unlimited; }
};

/// Differences of positions, as far as they matter within a tile.
__device__ __forceinline__ int clamped(int n) { return min_of(max_of(n, -4096), 4096); }

// What rows and columns of blocks, to the last ones, let see: nothing, 0; some, 1; all, 2. Called seldom, so its registers are not for all to pay.
RETAPE_OUTLINED int seen_of_blocks(const bool* blocks, int columns, int row, int last_row, int column, int last_column) {
  bool any = false, all = true;
  for (int i = row; i <= last_row; ++i)
    for (int j = column; j <= last_column; ++j) {
      const bool seen = blocks[int64_t{i} * columns + j];
      any = any || seen, all = all && seen;
    }
  return any ? all ? 2 : 1 : 0;
}

// What of a tile of scores is there and seen, but for masks.
struct Edges {
  enum Sight { nothing, some, everything } sight = everything;
  int rows, ends;                // so many rows and columns are there
  int ahead, behind, sinks;      // hidden: column + ahead > row; column + behind < row, behind the sinks
  const bool* blocks = nullptr;  // or of the head
  int first_position, first_key, block_size, block_columns;

  template <class T>
  __device__ __forceinline__ Edges(const Problem<T>& p, int h, int first_query, int most_rows, int first_key_, int width)
      : first_position(first_query + p.offset), first_key(first_key_), block_size(p.block_size), block_columns(p.block_columns) {
    const int last = min_of(first_query + most_rows, p.queries) - 1 + p.offset, last_key = min_of(first_key + width, p.keys) - 1;
    const bool left = first_key < last - p.left && last_key >= p.sinks;
    if (first_key > last + p.right || (left && last_key < first_position - p.left && first_key >= p.sinks)) {
      sight = nothing;
      return;
    }
    if (left || first_key + width > p.keys || last_key > first_position + p.right) sight = some;
    rows = clamped(p.queries - first_query), ends = clamped(p.keys - first_key), sinks = clamped(p.sinks - first_key);
    ahead = clamped(first_key - first_position - p.right), behind = clamped(first_key - first_position + p.left);
    if (!p.blocks) return;
    const bool* const of_head = p.blocks + h * p.blocks_of_head;
    const int seen = seen_of_blocks(of_head, block_columns, first_position / block_size, last / block_size, first_key / block_size,
                                    last_key / block_size);
    if (seen == 0) sight = nothing;
    else if (seen == 1) sight = some, blocks = of_head;
  }
  __device__ __forceinline__ bool hides(int row, int column) const {
    return column >= ends || column + ahead > row || (column + behind < row && column >= sinks);
  }
  __device__ __forceinline__ bool in_hidden_block(int row, int column) const {
    return row < rows && column < ends &&
           !blocks[int64_t{(first_position + row) / block_size} * block_columns + (first_key + column) / block_size];
  }
};

// The part of a block's work that its index stands for.
struct Work {
  int tile, head, b, chunk;
  __device__ __forceinline__ Work(int tiles, int heads, int batch) {
    const int n = int(blockIdx.x);
    tile = n % tiles, head = n / tiles % heads, b = n / tiles / heads % batch, chunk = n / tiles / heads / batch;
  }
};

// What the mask adds to a tile of scores and what dropout keeps of it, laid out like the scores: a row for each query, or for each key.
template <class A> struct Extras {
  A* bias;
  uint8_t* keep;
  int columns;
  bool by_keys;
  static constexpr int64_t bytes(int64_t rows, int64_t columns, bool mask, bool dropout) {
    return (mask ? rows * (columns + 1) * int64_t(sizeof(A)) : 0) + (dropout ? rows * (columns + 1) : 0);
  }
  template <class T>
  __device__ __forceinline__ Extras(const Problem<T>& p, unsigned char* memory, int rows, int columns_, bool by_keys_)
      : bias(p.mask.data ? reinterpret_cast<A*>(memory) : nullptr),
        keep(p.dropout ? memory + bytes(rows, columns_, p.mask.data != nullptr, false) : nullptr),
        columns(columns_),
        by_keys(by_keys_) {}
  __device__ __forceinline__ int place(int i, int j) const { return by_keys ? j * (columns + 1) + i : i * (columns + 1) + j; }
};

template <class A> __device__ __forceinline__ A bias_at(const Mask& mask, int64_t i) {
  switch (mask.dtype) {
    case DType::f64: return A(static_cast<const double*>(mask.data)[i]);
    case DType::f32: return A(static_cast<const float*>(mask.data)[i]);
    case DType::f16: return A(float(static_cast<const f16*>(mask.data)[i]));
    case DType::bf16: return A(float(static_cast<const bf16*>(mask.data)[i]));
    default: return static_cast<const uint8_t*>(mask.data)[i] ? A(0) : -infinity<A>;
  }
}

// All threads fill x for the tile of `rows` queries and `width` keys. True if this thread has found nothing but hidden scores.
template <class T, class A = compute_t<T>>
RETAPE_INLINED bool load_extras(const Problem<T>& p, const Extras<A>& x, const Start& at, int h, int first_query, int first_key, int rows,
                                int width) {
  const int threads = int(blockDim.x), thread = int(threadIdx.x);
  bool hidden = x.bias != nullptr;
  if (x.bias) {
    const int64_t start = at.b * p.mask.stride[0] + h * p.mask.stride[1] + first_query * p.mask.stride[2] + first_key * p.mask.stride[3];
#pragma unroll 1
    for (int n = thread; n < rows * width; n += threads) {
      const int i = n / width, j = n % width;
      A bias = 0;
      if (first_query + i < p.queries && first_key + j < p.keys) {
        bias = bias_at<A>(p.mask, start + i * p.mask.stride[2] + j * p.mask.stride[3]);
        hidden = hidden && bias == -infinity<A>;
      }
      x.bias[x.place(i, j)] = bias;
    }
  }
  if (x.keep) {
    const RandomState random = p.random.now();
    const int groups = width / 4 + 1;  // of four numbers of one counter; a tile need not begin with the first
#pragma unroll 1
    for (int n = thread; n < rows * groups; n += threads) {
      const int i = n / groups, g = n % groups;
      const int64_t line = int64_t{at.b * p.heads + h} * p.all_queries + at.query + first_query + i;
      const uint64_t index = uint64_t(line * p.all_keys + at.key + first_key);
      const Philox numbers(random.seed, random.offset + index / 4 + uint64_t(g));
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        const int j = 4 * g + w - int(index % 4);
        if (j >= 0 && j < width) x.keep[x.place(i, j)] = numbers.x[w] >> 8 >= p.threshold;
      }
    }
  }
  return hidden;
}

// Exact but for some units of the last place of 1, which is what a score's are that it is multiplied with; and in few registers.
template <class A> __device__ __forceinline__ A hyperbolic_tangent(A x) { return 1 - 2 / (1 + exponential(2 * x)); }

// Adds biases to scores and hides what is not seen. each(f) calls f(query, key, score) for a thread's elements, both counted from the tile's first. One
// pass for each: what they need besides would not fit into registers together.
template <class A, class Each>
RETAPE_INLINED void finish_scores(const Extras<A>& extras, const A* relative, const Edges& edges, const Each& each) {
  if (relative)
    each([&](int i, int j, A& x) {
      if (i < edges.rows && j < edges.ends) x += relative[j - i];
    });
  if (extras.bias) each([&](int i, int j, A& x) { x += extras.bias[extras.place(i, j)]; });
  if (edges.sight != Edges::some) return;
  each([&](int i, int j, A& x) {
    if (edges.hides(i, j)) x = -infinity<A>;
  });
  if (edges.blocks)
    each([&](int i, int j, A& x) {
      if (edges.in_hidden_block(i, j)) x = -infinity<A>;
    });
}
// Of the first query and key of a tile, in the table of relative biases; null if there is none.
template <class T> __device__ __forceinline__ const compute_t<T>* relative_at(const Problem<T>& p, int h, int first_query, int first_key) {
  return p.relative ? p.relative + int64_t{h} * (p.all_queries + p.all_keys - 1) + p.all_queries - 1 + first_key - first_query : nullptr;
}

// ---- forward ---------------------------------------------------------------------------------------------------------

RETAPE_OUTLINED void report_masked_row(Fault* fault, int batch, int head, int query, int keys) {
  if (atomicCAS(&fault->set, 0, 1) != 0) return;
  fault->kind = Fault::masked_row;
  fault->value = query, fault->size = keys, fault->head = head, fault->batch = batch;
}

constexpr int most_warps = 4;

// What a warp works with: M times 16 rows of its own, tiles of 8 N rows that all warps of the block read. W columns of the result at
// once; where it has more, other blocks compute the same weights again.
template <class T> struct ForwardSizes {
  static constexpr int M = sizeof(T) == 8 ? 1 : 2, N = sizeof(T) == 8 ? 2 : sizeof(T) == 4 ? 4 : 8;
  static constexpr int own = 16 * M, width = 8 * N;
};

template <class T, int W>
__global__ void __launch_bounds__(32 * most_warps) forward(Problem<T> p, Rows<T> y, compute_t<T>* statistics, int tiles, bool one_buffer) {
  using A = compute_t<T>;
  constexpr int M = ForwardSizes<T>::M, N = ForwardSizes<T>::N, width = ForwardSizes<T>::width;
  RETAPE_DYNAMIC_SHARED(unsigned char, memory);
  const int rows = int(blockDim.x) / 32 * ForwardSizes<T>::own, warp_row = int(threadIdx.x) / 32 * ForwardSizes<T>::own;
  const int k_length = row_length<T>(p.k.features), v_length = row_length<T>(p.v.features);
  T *const q = reinterpret_cast<T*>(memory), *const k = q + rows * max_of(k_length, v_length);
  T* const v = one_buffer ? k : k + width * k_length;
  const Extras<A> extras(p, reinterpret_cast<unsigned char*>(v + width * max_of(k_length, v_length) + slack), rows, width, false);

  const Work work(tiles, p.heads, p.batch);
  const Start at = p.begin(work.b);
  const int h = work.head, kv = h / (p.heads / p.kv_heads);
  const int first_query = (p.grows() ? tiles - 1 - work.tile : work.tile) * rows;
  if (first_query >= p.queries) return;  // of a shorter one among packed sequences
  const int end = p.keys_before(min_of(p.queries, first_query + rows));
  const int first_column = int(work.chunk) * W, columns = min_of(W, padded<T>(p.v.features) - first_column);
  const bool idle = first_query + warp_row >= p.queries;  // such a warp only helps to load

  Tile<A, M, W / 8> out;
  out.clear();
  A top[M][2], sum[M][2];
#pragma unroll
  for (int m = 0; m < M; ++m) top[m][0] = top[m][1] = -infinity<A>, sum[m][0] = sum[m][1] = 0;

  load_rows(p.q, p.q.at(at.b, h, at.query + first_query), p.queries - first_query, rows, q);
  Tile<A, M, N> score;
  bool weighted = false;  // score holds weights of the tile in v
  for (int j = p.first_key(first_query) / width * width;; j += width) {
    // The next tile of which something is seen; it is on its way while the last one is summed.
    for (; j < end; j += width) {
      if (Edges(p, h, first_query, rows, j, width).sight == Edges::nothing) continue;
      const bool hidden = load_extras(p, extras, at, h, first_query, j, rows, width);
      if (!extras.bias || !__syncthreads_and(hidden)) break;
    }
    if (j < end && !one_buffer) load_rows(p.k, p.k.at(at.b, kv, at.key + j), p.keys - j, width, k);
    if (weighted) multiply_weights(out, score, v + first_column, v_length, columns);
    if (j >= end) break;
    if (one_buffer) {
      __syncthreads();  // nobody reads v any more
      load_rows(p.k, p.k.at(at.b, kv, at.key + j), p.keys - j, width, k);
    }
    wait_for_copies();
    __syncthreads();  // k is there, and nobody reads v any more
    if (!one_buffer) load_rows(p.v, p.v.at(at.b, kv, at.key + j), p.keys - j, width, v);
    if (!idle) {
      score.clear();
      multiply_rows(score, q + warp_row * k_length, k, k_length, padded<T>(p.k.features));
      score.each([&](int, int, A& x) { x *= p.scale; });
      if (p.softcap > 0) score.each([&](int, int, A& x) { x = p.softcap * hyperbolic_tangent(x / p.softcap); });
      const Edges edges(p, h, first_query, rows, j, width);
      finish_scores(extras, relative_at(p, h, first_query, j), edges,
                    [&](const auto& f) { score.each([&](int row, int column, A& x) { f(warp_row + row, column, x); }); });
#pragma unroll
      for (int m = 0; m < M; ++m)
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          A now = top[m][r];
#pragma unroll
          for (int n = 0; n < N; ++n)
#pragma unroll
            for (int c = 0; c < 2; ++c) now = score.at[m][n][2 * r + c] > now ? score.at[m][n][2 * r + c] : now;
#pragma unroll
          for (int d = 1; d < 4; d *= 2) {
            const A other = __shfl_xor_sync(all_lanes, now, d);
            now = other > now ? other : now;
          }
          const A base = now == -infinity<A> ? A(0) : now;  // nothing seen so far: every score is -inf, and every result 0
          const A factor = exponential(top[m][r] - base);
          A total = sum[m][r] * factor;
#pragma unroll
          for (int n = 0; n < N; ++n)
#pragma unroll
            for (int c = 0; c < 2; ++c) {
              A& x = score.at[m][n][2 * r + c];
              x = exponential(x - base);
              total += x;
            }
          top[m][r] = now, sum[m][r] = total;
#pragma unroll
          for (int c = 0; c < W / 8; ++c) out.at[m][c][2 * r] *= factor, out.at[m][c][2 * r + 1] *= factor;
        }
      if (extras.keep)
        score.each([&](int row, int column, A& x) {
          if (!extras.keep[extras.place(warp_row + row, column)]) x = 0;
        });
    }
    if (one_buffer) {
      __syncthreads();  // nobody reads k any more
      load_rows(p.v, p.v.at(at.b, kv, at.key + j), p.keys - j, width, v);
    }
    wait_for_copies();
    __syncthreads();  // v is there, and nobody reads k and the extras any more
    weighted = !idle;
  }
  wait_for_copies();
  __syncthreads();  // even if there was no tile
  if (idle) return;

  A factor[M][2];
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      A total = sum[m][r];
      for (int d = 1; d < 4; d *= 2) total += __shfl_xor_sync(all_lanes, total, d);
      factor[m][r] = total == 0 ? A(0) : p.kept / total;  // such a row gives 0, or is reported
      const int i = first_query + warp_row + 16 * m + 8 * r + first_row_of_lane();
      if (work.chunk == 0 && lane() % 4 == 0 && i < p.queries) {
        A* const row = statistics + int64_t{at.b * p.heads + h} * 2 * p.all_queries + at.query + i;
        row[0] = top[m][r], row[p.all_queries] = total;
        if (total == 0 && p.fault && p.keys > 0) report_masked_row(p.fault, work.b, h, i, p.keys);
      }
    }
  store_rows(out, factor, y, y.at(at.b, h, at.query + first_query + warp_row), p.queries - first_query - warp_row, first_column, columns,
             q + warp_row * v_length);
}

// ---- backward --------------------------------------------------------------------------------------------------------

// delta (B, H, T) = the sums over the features of dy * y; a warp for each.
template <class T>
__global__ void row_dots(Rows<const T> dy, Rows<const T> y, int64_t batch, int64_t heads, int64_t queries, compute_t<T>* delta) {
  using A = compute_t<T>;
  for (int64_t row = thread_index() / 32; row < batch * heads * queries; row += thread_count() / 32) {
    const int64_t b = row / (heads * queries), h = row / queries % heads, i = row % queries;
    const T *const one = dy.at(b, h, i), *const other = y.at(b, h, i);
    A sum = 0;
    for (int c = lane(); c < y.features; c += 32) sum += A(one[c]) * A(other[c]);
    sum = warp_reduce(sum, Plus{});
    if (lane() == 0) delta[row] = sum;
  }
}

template <class T> struct BackwardSizes {
  static constexpr int N = sizeof(T) == 8 ? 1 : sizeof(T) == 4 ? 3 : 4;  // heads of 256 fit into 99 KiB
  static constexpr int own = 16, width = 8 * N;
};

// Rows that see nothing, and rows behind the last one, get probabilities e^(score - inf) = 0.
template <class T, class A = compute_t<T>>
RETAPE_INLINED void load_statistics(const Problem<T>& p, const Start& at, const A* statistics, const A* deltas, int h, int first_query,
                                    int n, A* top, A* share, A* delta) {
  const int64_t head = at.b * p.heads + h;
  for (int i = int(threadIdx.x); i < n; i += int(blockDim.x)) {
    const bool there = first_query + i < p.queries;
    const int query = at.query + first_query + i;
    const A total = there ? statistics[(2 * head + 1) * p.all_queries + query] : A(0);
    top[i] = total == 0 ? infinity<A> : statistics[2 * head * p.all_queries + query];
    share[i] = total == 0 ? A(0) : 1 / total;
    delta[i] = total == 0 ? A(0) : deltas[head * p.all_queries + query];
  }
}

// A warp's part of a tile, from products q k^T in `score` and dy v^T in `dp`: the gradients of the scores, before they are capped if so, and the
// weights that met v. top, share, delta: of queries.
template <bool by_keys, class T, class A, int N>
RETAPE_INLINED void score_gradients(const Problem<T>& p, const Extras<A>& extras, const Edges& edges, const A* relative, bool before_cap,
                                    int warp_row, const A* top, const A* share, const A* delta, Tile<A, 1, N>& score, Tile<A, 1, N>& dp) {
  // f(query, key, score, gradient) for this thread's elements of the tile
  const auto each = [&](const auto& f) {
    score.each([&](int row, int column, A& x, A& dx) { f(by_keys ? column : warp_row + row, by_keys ? warp_row + row : column, x, dx); },
               dp);
  };
  each([&](int, int, A& x, A&) { x *= p.scale; });
  if (extras.keep) each([&](int i, int j, A&, A& dx) { dx = dx * (extras.keep[extras.place(i, j)] ? p.kept : A(0)) - delta[i]; });
  else each([&](int i, int, A&, A& dx) { dx -= delta[i]; });
  if (p.softcap > 0)
    each([&](int, int, A& x, A& dx) {
      const A t = hyperbolic_tangent(x / p.softcap);
      x = p.softcap * t;
      if (before_cap) dx *= 1 - t * t;
    });
  finish_scores(extras, relative, edges, [&](const auto& f) { each([&](int i, int j, A& x, A&) { f(i, j, x); }); });
  each([&](int i, int, A& x, A& dx) {
    const A weight = exponential(x - top[i]) * share[i];
    x = weight * dx, dx = weight;
  });
  if (extras.keep) each([&](int i, int j, A&, A& dx) { dx *= extras.keep[extras.place(i, j)] ? p.kept : A(0); });
}

// By queries: dq, for rows of q and dy, from tiles of k and v. By keys: dk and dv, for rows of k and v, from tiles of q and dy, of all
// heads that share them. `first` is dq or dk, `second` dv.
template <class T, int W, bool by_keys>
__global__ void __launch_bounds__(32 * most_warps) backward(Problem<T> p, Rows<const T> dy, const compute_t<T>* statistics,
                                                            const compute_t<T>* deltas, Rows<T> first, Rows<T> second, int tiles) {
  using A = compute_t<T>;
  constexpr int N = BackwardSizes<T>::N, width = BackwardSizes<T>::width;
  RETAPE_DYNAMIC_SHARED(unsigned char, memory);
  const int rows = int(blockDim.x) / 32 * BackwardSizes<T>::own, warp_row = int(threadIdx.x) / 32 * BackwardSizes<T>::own;
  const int k_length = row_length<T>(p.k.features), v_length = row_length<T>(p.v.features);
  T *const own_k = reinterpret_cast<T*>(memory), *const own_v = own_k + rows * k_length;  // rows of k and v, or of q and dy
  T *const tile_k = own_v + rows * v_length, *const tile_v = tile_k + width * k_length;   // the others
  A* const top = reinterpret_cast<A*>(tile_v + width * v_length + slack);                 // of queries, as two more
  const int top_size = by_keys ? width : rows;
  A *const share = top + top_size, *const delta = share + top_size;
  const Extras<A> extras(p, reinterpret_cast<unsigned char*>(delta + top_size), rows, width, by_keys);

  const int group = p.heads / p.kv_heads;
  const Work work(tiles, by_keys ? p.kv_heads : p.heads, p.batch);
  const Start at = p.begin(work.b);
  const int kv = by_keys ? work.head : work.head / group;
  const int first_own = (p.grows() && !by_keys ? tiles - 1 - work.tile : work.tile) * rows, count = by_keys ? p.keys : p.queries;
  if (first_own >= count) return;  // of a shorter one among packed sequences
  const int first_column = int(work.chunk) * W;
  const int k_columns = min_of(W, padded<T>(p.k.features) - first_column), v_columns = min_of(W, padded<T>(p.v.features) - first_column);
  const bool idle = first_own + warp_row >= count;

  if constexpr (by_keys) {
    load_rows(p.k, p.k.at(at.b, kv, at.key + first_own), p.keys - first_own, rows, own_k);
    load_rows(p.v, p.v.at(at.b, kv, at.key + first_own), p.keys - first_own, rows, own_v);
  } else {
    load_rows(p.q, p.q.at(at.b, work.head, at.query + first_own), p.queries - first_own, rows, own_k);
    load_rows(dy, dy.at(at.b, work.head, at.query + first_own), p.queries - first_own, rows, own_v);
    load_statistics(p, at, statistics, deltas, work.head, first_own, rows, top, share, delta);
  }
  Tile<A, 1, W / 8> sum_k, sum_v;
  sum_k.clear();
  if constexpr (by_keys) sum_v.clear();

  const int last_own = min_of(first_own + rows, count) - 1;
  const int from = by_keys ? max_of(0, first_own - p.offset - p.right) : p.first_key(first_own);
  const int end = !by_keys              ? p.keys_before(last_own + 1)
                  : p.sinks > first_own ? p.queries
                                        : min_of(p.queries, last_own + p.left - p.offset + 1);
  for (int h = by_keys ? kv * group : work.head, last = by_keys ? h + group : h + 1; h < last; ++h)
    for (int t = from / width * width; t < end; t += width) {
      const int first_query = by_keys ? t : first_own, first_key = by_keys ? first_own : t;
      const int queries_here = by_keys ? width : rows, keys_here = by_keys ? rows : width;
      const Edges edges(p, h, first_query, queries_here, first_key, keys_here);
      if (edges.sight == Edges::nothing) continue;
      const bool hidden = load_extras(p, extras, at, h, first_query, first_key, queries_here, keys_here);
      if (extras.bias && __syncthreads_and(hidden)) continue;
      if constexpr (by_keys) {
        load_rows(p.q, p.q.at(at.b, h, at.query + t), p.queries - t, width, tile_k);
        load_rows(dy, dy.at(at.b, h, at.query + t), p.queries - t, width, tile_v);
        load_statistics(p, at, statistics, deltas, h, t, width, top, share, delta);
      } else {
        load_rows(p.k, p.k.at(at.b, kv, at.key + t), p.keys - t, width, tile_k);
        load_rows(p.v, p.v.at(at.b, kv, at.key + t), p.keys - t, width, tile_v);
      }
      wait_for_copies();
      __syncthreads();
      if (!idle) {
        Tile<A, 1, N> score, dp;
        score.clear(), dp.clear();
        multiply_rows(score, own_k + warp_row * k_length, tile_k, k_length, padded<T>(p.k.features));
        multiply_rows(dp, own_v + warp_row * v_length, tile_v, v_length, padded<T>(p.v.features));
        score_gradients<by_keys>(p, extras, edges, relative_at(p, h, first_query, first_key), true, warp_row, top, share, delta, score, dp);
        multiply_weights(sum_k, score, tile_k + first_column, k_length, k_columns);
        if constexpr (by_keys) multiply_weights(sum_v, dp, tile_v + first_column, v_length, v_columns);
      }
      __syncthreads();  // nobody reads the tile any more
    }
  wait_for_copies();
  __syncthreads();  // even if there was no tile
  if (idle) return;

  const int head = by_keys ? kv : work.head, own = first_own + warp_row, place = (by_keys ? at.key : at.query) + own;
  const A scale[1][2] = {{p.scale, p.scale}}, one[1][2] = {{1, 1}};
  store_rows(sum_k, scale, first, first.at(at.b, head, place), count - own, first_column, k_columns, own_k + warp_row * k_length);
  if constexpr (by_keys)
    store_rows(sum_v, one, second, second.at(at.b, head, place), count - own, first_column, v_columns, own_v + warp_row * v_length);
}

// The gradient of the relative biases: a block has a head and as many neighbouring distances as it has threads, and goes over all scores at them,
// computed once more. A thread sums one distance, in order.
template <class T>
__global__ void __launch_bounds__(32 * most_warps) backward_relative(Problem<T> all, Rows<const T> dy, const compute_t<T>* statistics,
                                                                     const compute_t<T>* deltas, compute_t<T>* drelative, int bands) {
  using A = compute_t<T>;
  constexpr int N = BackwardSizes<T>::N, width = BackwardSizes<T>::width;
  RETAPE_DYNAMIC_SHARED(unsigned char, memory);
  const int threads = int(blockDim.x), rows = threads / 32 * BackwardSizes<T>::own,
            warp_row = int(threadIdx.x) / 32 * BackwardSizes<T>::own;
  const int k_length = row_length<T>(all.k.features), v_length = row_length<T>(all.v.features);
  T *const own_k = reinterpret_cast<T*>(memory), *const own_v = own_k + rows * k_length;
  T *const tile_k = own_v + rows * v_length, *const tile_v = tile_k + width * k_length;
  A* const top = reinterpret_cast<A*>(tile_v + width * v_length + slack);
  A *const share = top + rows, *const delta = share + rows, *const gradients = delta + rows;  // gradients (rows, width + 1)
  const Extras<A> extras(all, reinterpret_cast<unsigned char*>(gradients + rows * (width + 1)), rows, width, false);

  const int h = int(blockIdx.x) / bands, kv = h / (all.heads / all.kv_heads), band = int(blockIdx.x) % bands;
  const int first_distance = band * threads - (all.all_queries - 1);  // of a key from its query
  A sum = 0;
  for (int b = 0; b < all.batch; ++b) {
    Problem<T> p = all;
    const Start at = p.begin(b);
    for (int first_query = 0; first_query < p.queries; first_query += rows) {
      const int last_query = min_of(first_query + rows, p.queries) - 1;
      const int from = max_of(max_of(0, first_query + first_distance), p.first_key(first_query));
      const int end = min_of(p.keys_before(last_query + 1), last_query + first_distance + threads);
      if (from >= end) continue;
      load_rows(p.q, p.q.at(at.b, h, at.query + first_query), p.queries - first_query, rows, own_k);
      load_rows(dy, dy.at(at.b, h, at.query + first_query), p.queries - first_query, rows, own_v);
      load_statistics(p, at, statistics, deltas, h, first_query, rows, top, share, delta);
      for (int t = from; t < end; t += width) {
        const Edges edges(p, h, first_query, rows, t, width);
        if (edges.sight == Edges::nothing) continue;
        load_extras(p, extras, at, h, first_query, t, rows, width);
        load_rows(p.k, p.k.at(at.b, kv, at.key + t), p.keys - t, width, tile_k);
        load_rows(p.v, p.v.at(at.b, kv, at.key + t), p.keys - t, width, tile_v);
        wait_for_copies();
        __syncthreads();
        Tile<A, 1, N> score, dp;
        score.clear(), dp.clear();
        multiply_rows(score, own_k + warp_row * k_length, tile_k, k_length, padded<T>(p.k.features));
        multiply_rows(dp, own_v + warp_row * v_length, tile_v, v_length, padded<T>(p.v.features));
        score_gradients<false>(p, extras, edges, relative_at(p, h, first_query, t), false, warp_row, top, share, delta, score, dp);
        score.each([&](int row, int column, A& x) { gradients[(warp_row + row) * (width + 1) + column] = x; });
        __syncthreads();
        const int shift = first_query + first_distance - t + int(threadIdx.x);  // row i has this thread's distance at column i + shift
        for (int i = max_of(0, -shift); i < min_of(rows, width - shift); ++i) sum += gradients[i * (width + 1) + i + shift];
        __syncthreads();  // nobody reads the tile any more
      }
      wait_for_copies();
      __syncthreads();
    }
  }
  const int place = band * threads + int(threadIdx.x), count = all.all_queries + all.all_keys - 1;
  if (place < count) drelative[int64_t{h} * count + place] = sum;
}

// Packed sequences that are not where they may be.
__global__ void check_sequences(const int64_t* cu, int64_t count, int64_t total, int64_t longest, Fault* fault) {
  for (int64_t n = thread_index(); n < count; n += thread_count()) {
    const int64_t begin = cu[n], end = n + 1 < count ? cu[n + 1] : total;
    if ((n == 0 && begin != 0) || end < begin || end > total || (n + 1 < count ? end - begin > longest : begin != total))
      report(fault, "scaled_dot_product_attention: cu_seqlens", n == 0 && begin != 0 ? begin : end, -1, total + 1);
  }
}

// f(W): columns of the result that a block computes at once, for results of so many features. 64 only where 128 would cost many
// registers that stay unused: each W is a kernel, and these take long to compile.
template <class T, bool narrow = true, class F> void with_width(int64_t features, const F& f) {
#if defined(RETAPE_EMULATE_CUDA)
  constexpr bool wide = sizeof(T) == 4, both = false;
#else
  constexpr bool wide = sizeof(T) <= 4, both = narrow && wide;
#endif
  if constexpr (both)
    if (features <= 64) return f(std::integral_constant<int, 64>{});
  f(std::integral_constant < int, wide ? 128 : 64 > {});
}

// ---- launching -------------------------------------------------------------------------------------------------------

template <class T> Rows<T> rows_of(const Tensor& x) {
  Rows<T> rows{data<T>(x), {x.strides()[0], x.strides()[1], x.strides()[2]}, int(x.shape()[3]), false};
  uintptr_t bits = reinterpret_cast<uintptr_t>(rows.data) | uintptr_t(rows.features) * sizeof(T);
  for (int d = 0; d < 3; ++d)
    if (x.shape()[d] > 1) bits |= uintptr_t(rows.stride[d]) * sizeof(T);
  rows.packed = bits % 16 == 0;
  return rows;
}

template <class T>
Problem<T> problem(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionTensors& tensors, const AttentionOptions& options) {
  using P = Problem<T>;
  if (max_of(max_of(q.shape()[2], k.shape()[2]), options.offset) >= P::most_positions)
    retape::detail::kernel_error("attention: on CUDA there are at most 2^29 positions");
  const auto limit = [](int64_t n) { return int(min_of(n, int64_t{P::unlimited})); };
  P p{.batch = int(q.shape()[0]),
      .heads = int(q.shape()[1]),
      .kv_heads = int(k.shape()[1]),
      .queries = int(q.shape()[2]),
      .keys = int(k.shape()[2]),
      .q = rows_of<const T>(q),
      .k = rows_of<const T>(k),
      .v = rows_of<const T>(v),
      .mask = {},
      .scale = compute_t<T>(options.scale),
      .softcap = compute_t<T>(options.softcap),
      .kept = compute_t<T>(1 / (1 - options.dropout)),
      .dropout = options.dropout > 0,
      .threshold = 0,
      .random = for_launch(options.random),
      .left = limit(options.left),
      .right = limit(options.right),
      .offset = int(options.offset),
      .sinks = limit(options.sinks),
      .all_queries = int(q.shape()[2]),
      .all_keys = int(k.shape()[2]),
      .relative = data<const compute_t<T>>(tensors.relative),
      .blocks = data<const bool>(tensors.blocks),
      .block_size = limit(options.block_size),
      .block_columns = 0,
      .blocks_of_head = 0,
      .cu_q = data<const int64_t>(tensors.cu_q),
      .cu_k = data<const int64_t>(tensors.cu_k),
      .longest_queries = int(min_of(options.longest_queries, q.shape()[2])),
      .longest_keys = int(min_of(options.longest_keys, k.shape()[2])),
      .fault = options.refuse_masked_rows ? faults() : nullptr};
  if (tensors.cu_q) p.batch = int(tensors.cu_q.numel() - 1), p.queries = p.longest_queries, p.keys = p.longest_keys;
  if (tensors.blocks) {
    const Shape& s = tensors.blocks.shape();
    p.block_columns = int(s[2]), p.blocks_of_head = s[0] == 1 ? 0 : s[1] * s[2];
  }
  const Tensor& mask = tensors.mask;
  if (mask) {
    if (!is_floating(mask.dtype()) && mask.dtype() != DType::u8 && mask.dtype() != DType::boolean)
      retape::detail::unsupported_dtype("attention", mask.dtype());
    p.mask.data = data_bytes(mask);
    p.mask.dtype = mask.dtype();
    for (int d = 0; d < 4; ++d) p.mask.stride[d] = mask.strides()[d];
  }
  const double scaled = options.dropout * 0x1p24;
  p.threshold = uint32_t(scaled) + (double(uint32_t(scaled)) < scaled);
  return p;
}

// The most warps, up to most_warps, with which a block's shared memory suffices; 0 if it never does.
template <class Bytes> int warps_for(const Bytes& bytes) {
  int limit = 0;
  check(cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, current_device()), "cudaDeviceGetAttribute");
  int warps = most_warps;
  while (warps && bytes(warps) > limit) warps /= 2;
  return warps;
}
[[noreturn]] void too_large(const char* op, int64_t head_dim, int64_t value_dim) {
  const std::string what = std::string(op) + ": heads of " + std::to_string(head_dim) + " and values of " + std::to_string(value_dim) +
                           " features do not fit into this device's shared memory; use smaller heads or a half type";
  retape::detail::kernel_error(what.c_str());
}

template <class T, int W> void launch_forward(const Problem<T>& p, const Rows<T>& y, compute_t<T>* statistics) {
  using Sizes = ForwardSizes<T>;
  const int64_t k_length = row_length<T>(p.k.features), v_length = row_length<T>(p.v.features), longest = max_of(k_length, v_length);
  bool one_buffer = false;  // for k and v: slower, since neither is on its way while the other is read
  const auto bytes = [&](int64_t warps) {
    const int64_t rows = warps * Sizes::own;
    return int64_t(sizeof(T)) * (rows * longest + Sizes::width * (one_buffer ? longest : k_length + longest) + slack) +
           Extras<compute_t<T>>::bytes(rows, Sizes::width, p.mask.data, p.dropout);
  };
  int warps = warps_for(bytes);
  if (!warps) one_buffer = true, warps = warps_for(bytes);
  if (!warps) too_large("attention", p.k.features, p.v.features);
  const int64_t tiles = (p.queries + warps * Sizes::own - 1) / (warps * Sizes::own), chunks = max_of(1, (p.v.features + W - 1) / W);
  launch(forward<T, W>, dim3(unsigned(tiles * p.heads * p.batch * chunks)), 32 * warps, size_t(bytes(warps)), p, y, statistics, int(tiles),
         one_buffer);
}

template <class T, int W, bool by_keys>
void launch_backward(const Problem<T>& p, const Rows<const T>& dy, const compute_t<T>* statistics, const compute_t<T>* deltas,
                     const Rows<T>& first, const Rows<T>& second) {
  using Sizes = BackwardSizes<T>;
  const int64_t lengths = row_length<T>(p.k.features) + row_length<T>(p.v.features);
  const auto bytes = [&](int64_t warps) {
    const int64_t rows = warps * Sizes::own;
    return int64_t(sizeof(T)) * ((rows + Sizes::width) * lengths + slack) +
           int64_t(sizeof(compute_t<T>)) * 3 * (by_keys ? Sizes::width : rows) +
           Extras<compute_t<T>>::bytes(rows, Sizes::width, p.mask.data, p.dropout);
  };
  const int warps = warps_for(bytes);
  if (!warps) too_large("attention_backward", p.k.features, p.v.features);
  const int64_t rows = warps * Sizes::own, tiles = ((by_keys ? p.keys : p.queries) + rows - 1) / rows;
  const int64_t chunks = (max_of(first.features, by_keys ? second.features : 0) + W - 1) / W;
  launch(backward<T, W, by_keys>, dim3(unsigned(tiles * (by_keys ? p.kv_heads : p.heads) * p.batch * chunks)), 32 * warps,
         size_t(bytes(warps)), p, dy, statistics, deltas, first, second, int(tiles));
}

template <class T>
void launch_backward_relative(const Problem<T>& p, const Rows<const T>& dy, const compute_t<T>* statistics, const compute_t<T>* deltas,
                              compute_t<T>* drelative) {
  using Sizes = BackwardSizes<T>;
  const int64_t lengths = row_length<T>(p.k.features) + row_length<T>(p.v.features);
  const auto bytes = [&](int64_t warps) {
    const int64_t rows = warps * Sizes::own;
    return int64_t(sizeof(T)) * ((rows + Sizes::width) * lengths + slack) + int64_t(sizeof(compute_t<T>)) * rows * (Sizes::width + 4) +
           Extras<compute_t<T>>::bytes(rows, Sizes::width, p.mask.data, p.dropout);
  };
  const int warps = warps_for(bytes);
  if (!warps) too_large("attention_backward", p.k.features, p.v.features);
  const int bands = max_of(0, (p.all_queries + p.all_keys - 1 + 32 * warps - 1) / (32 * warps));
  launch(backward_relative<T>, dim3(unsigned(p.heads * bands)), 32 * warps, size_t(bytes(warps)), p, dy, statistics, deltas, drelative,
         bands);
}

}  // namespace

// q (B, Hq, T, D), k (B, Hkv, S, D), v (B, Hkv, S, Dv), y (B, Hq, T, Dv): last dimension contiguous. statistics (B, Hq, 2, T)
// contiguous, f32, or f64 if q is: of each row the largest score and the sum of e^(score - largest).
void attention(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionTensors& tensors, const AttentionOptions& options,
               Tensor& y, Tensor& statistics) {
  if (tensors.cu_q) {
    const auto look = [](const Tensor& cu, int64_t total, int64_t longest) {
      launch(check_sequences, blocks_for(cu.numel()), 256, 0, data<const int64_t>(cu), cu.numel(), total, longest, faults());
    };
    look(tensors.cu_q, q.shape()[2], options.longest_queries), look(tensors.cu_k, k.shape()[2], options.longest_keys);
  }
  with_floating("attention", q.dtype(), [&](auto type) {
    using T = decltype(type);
    const Problem<T> p = problem<T>(q, k, v, tensors, options);
    const Rows<T> out = rows_of<T>(y);
    auto* const rows = data<compute_t<T>>(statistics);
    with_width<T>(p.v.features, [&](auto width) { launch_forward<T, decltype(width)::value>(p, out, rows); });
  });
}

// dq, dk, dv: shapes of q, k, v, last dimension contiguous. drelative: that of tensors.relative, or undefined.
void attention_backward(const Tensor& dy, const Tensor& q, const Tensor& k, const Tensor& v, const AttentionTensors& tensors,
                        const Tensor& y, const Tensor& statistics, const AttentionOptions& options, Tensor& dq, Tensor& dk, Tensor& dv,
                        Tensor& drelative) {
  with_floating("attention_backward", q.dtype(), [&](auto type) {
    using T = decltype(type);
    using A = compute_t<T>;
    const Problem<T> p = problem<T>(q, k, v, tensors, options);
    const Rows<const T> d = rows_of<const T>(dy);
    const int64_t batch = q.shape()[0], heads = p.heads, queries = p.all_queries, rows = batch * heads * queries;
    const Scratch<A> deltas(rows);
    launch(row_dots<T>, blocks_for(rows, 8), 256, 0, d, rows_of<const T>(y), batch, heads, queries, deltas);
    const A *const row_statistics = data<A>(statistics), *const delta = deltas;
    with_width<T, false>(p.k.features, [&](auto width) {
      launch_backward<T, decltype(width)::value, false>(p, d, row_statistics, delta, rows_of<T>(dq), {});
    });
    with_width<T>(max_of(p.k.features, p.v.features), [&](auto width) {
      launch_backward<T, decltype(width)::value, true>(p, d, row_statistics, delta, rows_of<T>(dk), rows_of<T>(dv));
    });
    if (drelative) launch_backward_relative<T>(p, d, row_statistics, delta, data<A>(drelative));
  });
}

}  // namespace retape::cuda
