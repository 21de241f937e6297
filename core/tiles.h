// Vectors and products of small matrices that stay in the cache, and the tasks that work on them: what kernels that go tile by tile share. For
// kernel files only.
#pragma once
#include <omp.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <retape/core/meta_scratch.h>

namespace retape::RETAPE_LEVEL {

#if defined(__AVX512F__)
constexpr int vector_bytes = 64, widest = 4;  // `widest` vectors by four rows of sums, what they are made from: all in registers
#elif defined(__AVX2__)
constexpr int vector_bytes = 32, widest = 3;
#else
constexpr int vector_bytes = 16, widest = 2;
#endif
#if defined(__clang__)
#define RETAPE_UNROLL _Pragma("clang loop unroll(full)")
#define RETAPE_FULL_WIDTH __attribute__((min_vector_width(8 * vector_bytes)))  // else clang may halve vectors of 64 bytes
#else
#define RETAPE_UNROLL _Pragma("GCC unroll 8")
#define RETAPE_FULL_WIDTH
#endif

template <class A> struct Simd;
template <> struct Simd<float> {
  typedef float V __attribute__((vector_size(vector_bytes), may_alias));
  typedef int32_t I __attribute__((vector_size(vector_bytes), may_alias));
};
template <> struct Simd<double> { typedef double V __attribute__((vector_size(vector_bytes), may_alias)); };
template <class A> constexpr int64_t lanes = vector_bytes / int64_t(sizeof(A));
template <class A> constexpr int64_t padding = lanes<A> < 4 ? 4 : lanes<A>;  // rows are whole vectors, and whole 4 x 4 blocks
template <class A> RETAPE_INLINE typename Simd<A>::V& vec(A* p) { return *reinterpret_cast<typename Simd<A>::V*>(p); }
template <class A> RETAPE_INLINE const typename Simd<A>::V& vec(const A* p) { return *reinterpret_cast<const typename Simd<A>::V*>(p); }

constexpr int64_t tile = 64;  // rows and columns of a tile

RETAPE_INLINE int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }
RETAPE_INLINE int64_t divide_up(int64_t n, int64_t by) { return (n + by - 1) / by; }

// ---- products of small matrices --------------------------------------------------------------------------------------

enum class Into { overwrite, add, scale_and_add };

// c (rows, width vectors) from a (rows, depth) and b (depth, width vectors): all sums stay in registers.
template <Into into, int rows, int width, class A>
RETAPE_INLINE void block(int64_t depth, const A* a, int64_t a_row, int64_t a_depth, const A* b, int64_t b_row, A* c, int64_t c_row,
                         const A* factor) {
  using V = typename Simd<A>::V;
  constexpr int64_t n = lanes<A>;
  V sum[rows][width];
  RETAPE_UNROLL
  for (int r = 0; r < rows; ++r) {
    RETAPE_UNROLL
    for (int w = 0; w < width; ++w) {
      if constexpr (into == Into::overwrite) sum[r][w] = V{};
      if constexpr (into == Into::add) sum[r][w] = vec(c + r * c_row + w * n);
      if constexpr (into == Into::scale_and_add) sum[r][w] = vec(c + r * c_row + w * n) * factor[r];
    }
  }
  for (int64_t k = 0; k < depth; ++k) {
    V x[width];
    RETAPE_UNROLL
    for (int w = 0; w < width; ++w) x[w] = vec(b + k * b_row + w * n);
    RETAPE_UNROLL
    for (int r = 0; r < rows; ++r) {
      const A s = a[r * a_row + k * a_depth];
      RETAPE_UNROLL
      for (int w = 0; w < width; ++w) sum[r][w] += s * x[w];
    }
  }
  RETAPE_UNROLL
  for (int r = 0; r < rows; ++r) {
    RETAPE_UNROLL
    for (int w = 0; w < width; ++w) vec(c + r * c_row + w * n) = sum[r][w];
  }
}

template <Into into, int width, class A>
RETAPE_INLINE void column(int64_t rows, int64_t depth, const A* a, int64_t a_row, int64_t a_depth, const A* b, int64_t b_row, A* c,
                          int64_t c_row, const A* factor) {
  constexpr int step = 2 * width <= widest ? 8 : 4;
  int64_t r = 0;
  for (; r + step <= rows; r += step)
    block<into, step, width>(depth, a + r * a_row, a_row, a_depth, b, b_row, c + r * c_row, c_row, factor ? factor + r : nullptr);
  for (; r < rows; r += 4)
    block<into, 4, width>(depth, a + r * a_row, a_row, a_depth, b, b_row, c + r * c_row, c_row, factor ? factor + r : nullptr);
}

// c (rows, cols) = or += a (rows, depth) b (depth, cols), or c = factor (rows) * c + a b. `rows` is a multiple of 4, `cols` of
// the lanes of a vector. a is read through two strides, so that it may stand transposed in memory.
template <Into into, class A>
RETAPE_FULL_WIDTH __attribute__((noinline)) void multiply(int64_t rows, int64_t cols, int64_t depth, const A* a, int64_t a_row,
                                                          int64_t a_depth, const A* b, int64_t b_row, A* c, int64_t c_row,
                                                          const A* factor = nullptr) {
  while (cols > 0) {
    const int64_t left = cols / lanes<A>;
    const int64_t width = left <= widest ? left : left == widest + 1 ? (left + 1) / 2 : widest;
    switch (width) {
      case 1: column<into, 1>(rows, depth, a, a_row, a_depth, b, b_row, c, c_row, factor); break;
      case 2: column<into, 2>(rows, depth, a, a_row, a_depth, b, b_row, c, c_row, factor); break;
      case 3:
        if constexpr (widest >= 3) column<into, 3>(rows, depth, a, a_row, a_depth, b, b_row, c, c_row, factor);
        break;
      case 4:
        if constexpr (widest >= 4) column<into, 4>(rows, depth, a, a_row, a_depth, b, b_row, c, c_row, factor);
        break;
    }
    b += width * lanes<A>, c += width * lanes<A>, cols -= width * lanes<A>;
  }
}

// ---- turning and sharing out ---------------------------------------------------------------------------------------

// y (cols, tile) = x (rows, cols) transposed. Rows are complete to a multiple of 4; lanes behind them up to `width` become 0.
template <class A> void transpose(const A* x, int64_t x_row, int64_t rows, int64_t cols, int64_t width, A* y) {
  typedef A Four __attribute__((vector_size(4 * sizeof(A)), aligned(sizeof(A)), may_alias));
  rows = round_up(rows, 4);
  for (int64_t c = 0; c < round_up(cols, 4); c += 4)
    for (int64_t r = 0; r < rows; r += 4) {
      Four in[4];
      for (int i = 0; i < 4; ++i) in[i] = *reinterpret_cast<const Four*>(x + (r + i) * x_row + c);
      const Four a = __builtin_shufflevector(in[0], in[1], 0, 4, 1, 5), b = __builtin_shufflevector(in[2], in[3], 0, 4, 1, 5);
      const Four p = __builtin_shufflevector(in[0], in[1], 2, 6, 3, 7), q = __builtin_shufflevector(in[2], in[3], 2, 6, 3, 7);
      const Four out[4] = {__builtin_shufflevector(a, b, 0, 1, 4, 5), __builtin_shufflevector(a, b, 2, 3, 6, 7),
                           __builtin_shufflevector(p, q, 0, 1, 4, 5), __builtin_shufflevector(p, q, 2, 3, 6, 7)};
      for (int i = 0; i < 4; ++i) *reinterpret_cast<Four*>(y + (c + i) * tile + r) = out[i];
    }
  if (rows < width)
    for (int64_t c = 0; c < cols; ++c)
      for (int64_t r = rows; r < width; ++r) y[c * tile + r] = 0;
}

// Hands out pieces of one allocation.
template <class A> struct Arena {
  A* p;
  RETAPE_INLINE A* take(int64_t n) {
    A* const here = p;
    p += round_up(n, 64 / int64_t(sizeof(A)));
    return here;
  }
};

// How much of it a thread gets, in all.
RETAPE_INLINE int64_t scratch_of_tasks(int64_t tasks, int64_t size, bool worth_threads) {
  return round_up(size, 1024) * (tasks <= 1 || !worth_threads ? 1 : omp_get_max_threads());
}
// f(task, scratch) for every task, `size` elements of scratch a thread.
template <class A, class F> void each_task(int64_t tasks, int64_t size, bool worth_threads, const F& f) {
  const Scratch<A> scratch(scratch_of_tasks(tasks, size, worth_threads));
  size = round_up(size, 1024);
  if (tasks <= 1 || !worth_threads) {
    for (int64_t n = 0; n < tasks; ++n) f(n, Arena<A>{scratch});
    return;
  }
#pragma omp parallel for schedule(dynamic, 1)
  for (int64_t n = 0; n < tasks; ++n) f(n, Arena<A>{scratch + size * omp_get_thread_num()});
}

}  // namespace retape::RETAPE_LEVEL
