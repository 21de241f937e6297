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
#else
#define RETAPE_INLINED __device__ __forceinline__
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

// What attention is asked for, without the tensors that only one direction has. Positions: T queries, S keys.
template <class T> struct Problem {
  int64_t batch, heads, kv_heads, queries, keys;
  Rows<const T> q, k, v;
  Mask mask;
  compute_t<T> scale, kept;  // kept: 1 / (1 - dropout)
  bool causal, dropout;
  uint32_t threshold;  // dropout keeps a number whose upper 24 bits are not below
  RandomState random;

  /// The keys that queries before `end` may see.
  __device__ __forceinline__ int64_t keys_before(int64_t end) const { return causal ? min_of(keys, end) : keys; }
};

/// Differences of positions, as far as they matter within a tile.
__device__ __forceinline__ int clamped(int64_t n) { return int(min_of(max_of(n, int64_t{-4096}), int64_t{4096})); }

// The part of a block's work that its index stands for.
struct Work {
  int64_t tile, head, b, chunk;
  __device__ __forceinline__ Work(int64_t tiles, int64_t heads, int64_t batch) {
    const int64_t n = blockIdx.x;
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
RETAPE_INLINED bool load_extras(const Problem<T>& p, const Extras<A>& x, int64_t b, int64_t h, int64_t first_query, int64_t first_key,
                                int rows, int width) {
  const int threads = int(blockDim.x), thread = int(threadIdx.x);
  bool hidden = x.bias != nullptr;
  if (x.bias) {
    const int64_t start = b * p.mask.stride[0] + h * p.mask.stride[1] + first_query * p.mask.stride[2] + first_key * p.mask.stride[3];
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
      const uint64_t index = uint64_t(((b * p.heads + h) * p.queries + first_query + i) * p.keys + first_key);
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

// ---- forward ---------------------------------------------------------------------------------------------------------

constexpr int most_warps = 4;

// What a warp works with: M times 16 rows of its own, tiles of 8 N rows that all warps of the block read. W columns of the result at
// once; where it has more, other blocks compute the same weights again.
template <class T> struct ForwardSizes {
  static constexpr int M = sizeof(T) == 8 ? 1 : 2, N = sizeof(T) == 8 ? 2 : sizeof(T) == 4 ? 4 : 8;
  static constexpr int own = 16 * M, width = 8 * N;
};

template <class T, int W>
__global__ void __launch_bounds__(32 * most_warps)
    forward(Problem<T> p, Rows<T> y, compute_t<T>* statistics, int64_t tiles, bool one_buffer) {
  using A = compute_t<T>;
  constexpr int M = ForwardSizes<T>::M, N = ForwardSizes<T>::N, width = ForwardSizes<T>::width;
  RETAPE_DYNAMIC_SHARED(unsigned char, memory);
  const int rows = int(blockDim.x) / 32 * ForwardSizes<T>::own, warp_row = int(threadIdx.x) / 32 * ForwardSizes<T>::own;
  const int k_length = row_length<T>(p.k.features), v_length = row_length<T>(p.v.features);
  T *const q = reinterpret_cast<T*>(memory), *const k = q + rows * max_of(k_length, v_length);
  T* const v = one_buffer ? k : k + width * k_length;
  const Extras<A> extras(p, reinterpret_cast<unsigned char*>(v + width * max_of(k_length, v_length) + slack), rows, width, false);

  const Work work(tiles, p.heads, p.batch);
  const int64_t b = work.b, h = work.head, kv = h / (p.heads / p.kv_heads);
  const int64_t first_query =
      (p.causal ? tiles - 1 - work.tile : work.tile) * rows;  // causal: the last have the most to do, and start first
  const int64_t end = p.keys_before(min_of(p.queries, first_query + rows));
  const int first_column = int(work.chunk) * W, columns = min_of(W, padded<T>(p.v.features) - first_column);
  const bool idle = first_query + warp_row >= p.queries;  // such a warp only helps to load

  Tile<A, M, W / 8> out;
  out.clear();
  A top[M][2], sum[M][2];
#pragma unroll
  for (int m = 0; m < M; ++m) top[m][0] = top[m][1] = -infinity<A>, sum[m][0] = sum[m][1] = 0;

  load_rows(p.q, p.q.at(b, h, first_query), p.queries - first_query, rows, q);
  Tile<A, M, N> score;
  bool weighted = false;  // score holds weights of the tile in v
  for (int64_t j = 0;; j += width) {
    // The next tile of which something is seen; it is on its way while the last one is summed.
    if (extras.bias || extras.keep)
      for (; j < end; j += width) {
        const bool hidden = load_extras(p, extras, b, h, first_query, j, rows, width);
        if (!extras.bias || !__syncthreads_and(hidden)) break;
      }
    if (j < end && !one_buffer) load_rows(p.k, p.k.at(b, kv, j), p.keys - j, width, k);
    if (weighted) multiply_weights(out, score, v + first_column, v_length, columns);
    if (j >= end) break;
    if (one_buffer) {
      __syncthreads();  // nobody reads v any more
      load_rows(p.k, p.k.at(b, kv, j), p.keys - j, width, k);
    }
    wait_for_copies();
    __syncthreads();  // k is there, and nobody reads v any more
    if (!one_buffer) load_rows(p.v, p.v.at(b, kv, j), p.keys - j, width, v);
    if (!idle) {
      score.clear();
      multiply_rows(score, q + warp_row * k_length, k, k_length, padded<T>(p.k.features));
      score.each([&](int, int, A& x) { x *= p.scale; });
      if (extras.bias) score.each([&](int row, int column, A& x) { x += extras.bias[extras.place(warp_row + row, column)]; });
      if (j + width > p.keys || (p.causal && j + width > first_query + 1)) {
        const int left = clamped(p.keys - j), ahead = p.causal ? clamped(j - first_query - warp_row) : -width;
        score.each([&](int row, int column, A& x) {
          if (column >= left || column + ahead > row) x = -infinity<A>;
        });
      }
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
      load_rows(p.v, p.v.at(b, kv, j), p.keys - j, width, v);
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
      factor[m][r] = total == 0 ? A(0) : p.kept / total;  // such a row gives 0
      const int64_t i = first_query + warp_row + 16 * m + 8 * r + first_row_of_lane();
      if (work.chunk == 0 && lane() % 4 == 0 && i < p.queries) {
        A* const row = statistics + (b * p.heads + h) * 2 * p.queries + i;
        row[0] = top[m][r], row[p.queries] = total;
      }
    }
  store_rows(out, factor, y, y.at(b, h, first_query + warp_row), p.queries - first_query - warp_row, first_column, columns,
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

// By queries: dq, for rows of q and dy, from tiles of k and v. By keys: dk and dv, for rows of k and v, from tiles of q and dy, of all
// heads that share them. `first` is dq or dk, `second` dv.
template <class T, int W, bool by_keys>
__global__ void __launch_bounds__(32 * most_warps) backward(Problem<T> p, Rows<const T> dy, const compute_t<T>* statistics,
                                                            const compute_t<T>* deltas, Rows<T> first, Rows<T> second, int64_t tiles) {
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

  const int64_t group = p.heads / p.kv_heads;
  const Work work(tiles, by_keys ? p.kv_heads : p.heads, p.batch);
  const int64_t b = work.b, kv = by_keys ? work.head : work.head / group;
  const int64_t first_own = (p.causal && !by_keys ? tiles - 1 - work.tile : work.tile) * rows, count = by_keys ? p.keys : p.queries;
  const int first_column = int(work.chunk) * W;
  const int k_columns = min_of(W, padded<T>(p.k.features) - first_column), v_columns = min_of(W, padded<T>(p.v.features) - first_column);
  const bool idle = first_own + warp_row >= count;

  // Rows that see nothing, and rows behind the last one, get probabilities e^(score - inf) = 0.
  const auto load_statistics = [&](int64_t h, int64_t first_query, int n) {
    const int64_t head = b * p.heads + h;
    for (int i = int(threadIdx.x); i < n; i += int(blockDim.x)) {
      const int64_t query = first_query + i;
      const A total = query < p.queries ? statistics[(2 * head + 1) * p.queries + query] : A(0);
      top[i] = total == 0 ? infinity<A> : statistics[2 * head * p.queries + query];
      share[i] = total == 0 ? A(0) : 1 / total;
      delta[i] = total == 0 ? A(0) : deltas[head * p.queries + query];
    }
  };

  if constexpr (by_keys) {
    load_rows(p.k, p.k.at(b, kv, first_own), p.keys - first_own, rows, own_k);
    load_rows(p.v, p.v.at(b, kv, first_own), p.keys - first_own, rows, own_v);
  } else {
    load_rows(p.q, p.q.at(b, work.head, first_own), p.queries - first_own, rows, own_k);
    load_rows(dy, dy.at(b, work.head, first_own), p.queries - first_own, rows, own_v);
    load_statistics(work.head, first_own, rows);
  }
  Tile<A, 1, W / 8> sum_k, sum_v;
  sum_k.clear();
  if constexpr (by_keys) sum_v.clear();

  const int64_t start = by_keys && p.causal ? first_own / width * width : 0;
  const int64_t end = by_keys ? p.queries : p.keys_before(min_of(p.queries, first_own + rows));
  for (int64_t h = by_keys ? kv * group : work.head, last = by_keys ? h + group : h + 1; h < last; ++h)
    for (int64_t t = start; t < end; t += width) {
      const int64_t first_query = by_keys ? t : first_own, first_key = by_keys ? first_own : t;
      const bool hidden = load_extras(p, extras, b, h, first_query, first_key, by_keys ? width : rows, by_keys ? rows : width);
      if (extras.bias && __syncthreads_and(hidden)) continue;
      if constexpr (by_keys) {
        load_rows(p.q, p.q.at(b, h, t), p.queries - t, width, tile_k);
        load_rows(dy, dy.at(b, h, t), p.queries - t, width, tile_v);
        load_statistics(h, t, width);
      } else {
        load_rows(p.k, p.k.at(b, kv, t), p.keys - t, width, tile_k);
        load_rows(p.v, p.v.at(b, kv, t), p.keys - t, width, tile_v);
      }
      wait_for_copies();
      __syncthreads();
      if (!idle) {
        Tile<A, 1, N> score, dp;
        score.clear(), dp.clear();
        multiply_rows(score, own_k + warp_row * k_length, tile_k, k_length, padded<T>(p.k.features));
        multiply_rows(dp, own_v + warp_row * v_length, tile_v, v_length, padded<T>(p.v.features));
        // f(query, key, score, gradient) for this thread's elements of the tile
        const auto each = [&](const auto& f) {
          score.each(
              [&](int row, int column, A& x, A& dx) { f(by_keys ? column : warp_row + row, by_keys ? warp_row + row : column, x, dx); },
              dp);
        };
        each([&](int, int, A& x, A&) { x *= p.scale; });
        if (extras.bias) each([&](int i, int j, A& x, A&) { x += extras.bias[extras.place(i, j)]; });
        const int keys_here = by_keys ? rows : width;
        if (first_key + keys_here > p.keys || (p.causal && first_key + keys_here > first_query + 1)) {
          const int left = clamped(p.keys - first_key), ahead = p.causal ? clamped(first_key - first_query) : -keys_here;
          each([&](int i, int j, A& x, A&) {
            if (j >= left || j + ahead > i) x = -infinity<A>;
          });
        }
        each([&](int i, int, A& x, A&) { x = exponential(x - top[i]) * share[i]; });
        if (extras.keep)
          each([&](int i, int j, A& x, A& dx) {
            const A weight = x, kept = extras.keep[extras.place(i, j)] ? p.kept : A(0);
            x = weight * (dx * kept - delta[i]), dx = weight * kept;
          });
        else
          each([&](int i, int, A& x, A& dx) {
            const A weight = x;
            x = weight * (dx - delta[i]), dx = weight;
          });
        multiply_weights(sum_k, score, tile_k + first_column, k_length, k_columns);
        if constexpr (by_keys) multiply_weights(sum_v, dp, tile_v + first_column, v_length, v_columns);
      }
      __syncthreads();  // nobody reads the tile any more
    }
  wait_for_copies();
  __syncthreads();  // even if there was no tile
  if (idle) return;

  const int64_t head = by_keys ? kv : work.head, own = first_own + warp_row;
  const A scale[1][2] = {{p.scale, p.scale}}, one[1][2] = {{1, 1}};
  store_rows(sum_k, scale, first, first.at(b, head, own), count - own, first_column, k_columns, own_k + warp_row * k_length);
  if constexpr (by_keys)
    store_rows(sum_v, one, second, second.at(b, head, own), count - own, first_column, v_columns, own_v + warp_row * v_length);
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
Problem<T> problem(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mask, const AttentionOptions& options) {
  Problem<T> p{.batch = q.shape()[0],
               .heads = q.shape()[1],
               .kv_heads = k.shape()[1],
               .queries = q.shape()[2],
               .keys = k.shape()[2],
               .q = rows_of<const T>(q),
               .k = rows_of<const T>(k),
               .v = rows_of<const T>(v),
               .mask = {},
               .scale = compute_t<T>(options.scale),
               .kept = compute_t<T>(1 / (1 - options.dropout)),
               .causal = options.causal,
               .dropout = options.dropout > 0,
               .threshold = 0,
               .random = for_launch(options.random)};
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
  launch(forward<T, W>, dim3(unsigned(tiles * p.heads * p.batch * chunks)), 32 * warps, size_t(bytes(warps)), p, y, statistics, tiles,
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
         size_t(bytes(warps)), p, dy, statistics, deltas, first, second, tiles);
}

}  // namespace

// q (B, Hq, T, D), k (B, Hkv, S, D), v (B, Hkv, S, Dv), y (B, Hq, T, Dv): last dimension contiguous. statistics (B, Hq, 2, T)
// contiguous, f32, or f64 if q is: of each row the largest score and the sum of e^(score - largest). mask (B, Hq, T, S), any strides:
// bool, or added to the scores.
void attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mask, const AttentionOptions& options, Tensor& y,
               Tensor& statistics) {
  with_floating("attention", q.dtype(), [&](auto type) {
    using T = decltype(type);
    const Problem<T> p = problem<T>(q, k, v, mask, options);
    const Rows<T> out = rows_of<T>(y);
    auto* const rows = data<compute_t<T>>(statistics);
    with_width<T>(p.v.features, [&](auto width) { launch_forward<T, decltype(width)::value>(p, out, rows); });
  });
}

// dq, dk, dv: shapes of q, k, v, last dimension contiguous.
void attention_backward(const Tensor& dy, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mask, const Tensor& y,
                        const Tensor& statistics, const AttentionOptions& options, Tensor& dq, Tensor& dk, Tensor& dv) {
  with_floating("attention_backward", q.dtype(), [&](auto type) {
    using T = decltype(type);
    using A = compute_t<T>;
    const Problem<T> p = problem<T>(q, k, v, mask, options);
    const Rows<const T> d = rows_of<const T>(dy);
    const int64_t rows = p.batch * p.heads * p.queries;
    const Scratch<A> deltas(rows);
    launch(row_dots<T>, blocks_for(rows, 8), 256, 0, d, rows_of<const T>(y), p.batch, p.heads, p.queries, deltas);
    const A *const row_statistics = data<A>(statistics), *const delta = deltas;
    with_width<T, false>(p.k.features, [&](auto width) {
      launch_backward<T, decltype(width)::value, false>(p, d, row_statistics, delta, rows_of<T>(dq), {});
    });
    with_width<T>(max_of(p.k.features, p.v.features), [&](auto width) {
      launch_backward<T, decltype(width)::value, true>(p, d, row_statistics, delta, rows_of<T>(dk), rows_of<T>(dv));
    });
  });
}

}  // namespace retape::cuda
