// Matrix products over the last two dimensions. oneDNN multiplies f32 and, where the processor can, bf16; other half types go
// through f32; f64 and tiny products have kernels here. Gemm and its strides are explained in runtime/onednn.h; within this
// file its strides may be anything. No result depends on the number of threads.
#include <retape/core/meta_scratch.h>
#include <retape/core/runtime/onednn.h>

namespace retape::RETAPE_LEVEL {
namespace {

using onednn::Gemm;

// On meta there are no operands, and only the scratch memory of the product is counted.
bool on_meta(const Gemm& g) { return !g.a; }

template <class T> RETAPE_INLINE const T* at(const void* p, int64_t offset) { return static_cast<const T*>(p) + offset; }
template <class T> RETAPE_INLINE T* at(void* p, int64_t offset) { return static_cast<T*>(p) + offset; }

// ---- tiny products, and k = 0: no packing, no library ----

// Columns [j, j + width) of one row of c: a is the row, b and c point at the first column.
template <int width, bool unit, class T> RETAPE_INLINE void direct_columns(const Gemm& g, const T* a, const T* b, const T* bias, T* c) {
  using S = compute_t<T>;
  S sum[width] = {};
  for (int64_t l = 0; l < g.k; ++l) {
    const S x = S(a[l * g.a_col]);
    for (int j = 0; j < width; ++j) sum[j] += x * S(b[l * g.b_row + (unit ? j : j * g.b_col)]);
  }
  for (int j = 0; j < width; ++j) {
    if (bias) sum[j] += S(bias[j]);
    c[j] = T(g.accumulate ? S(c[j]) + sum[j] : sum[j]);
  }
}

template <bool unit, class T> void direct_rows(const Gemm& g, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    const int64_t q = r / g.m, i = r % g.m;
    const T* a = at<T>(g.a, q * g.a_batch + i * g.a_row);
    const T* b = at<T>(g.b, q * g.b_batch);
    T* c = at<T>(g.c, q * g.c_batch + i * g.c_row);
    const auto bias = [&](int64_t j) { return g.bias ? at<T>(g.bias, j) : nullptr; };
    int64_t j = 0;
    for (; unit && j + 16 <= g.n; j += 16) direct_columns<16, unit>(g, a, b + j, bias(j), c + j);
    for (; j + 4 <= g.n; j += 4) direct_columns<4, unit>(g, a, b + j * g.b_col, bias(j), c + j);
    for (; j < g.n; ++j) direct_columns<1, unit>(g, a, b + j * g.b_col, bias(j), c + j);
  }
}

template <class T> void direct(const Gemm& g) {
  parallel_for(g.batch * g.m, row_grain(g.n * max_of<int64_t>(g.k, 1)), [&](int64_t begin, int64_t end) {
    if (g.b_col == 1) direct_rows<true, T>(g, begin, end);
    else direct_rows<false, T>(g, begin, end);
  });
}

// ---- a matrix and a vector ----

// y[i] (+)= sum over l of w[i, l] x[l], + bias[i]: what a product is where one side is a row or a column. Strides count elements.
template <class T> struct MatrixVector {
  int64_t rows, depth;
  const T* w;
  int64_t w_row, w_depth;
  const compute_t<T>* x;
  T* y;
  int64_t y_step;
  bool accumulate;
  const T* bias;
  int64_t bias_step;

  RETAPE_INLINE void finish(int64_t i, compute_t<T> sum) const {
    if (bias) sum += compute_t<T>(bias[i * bias_step]);
    T& out = y[i * y_step];
    out = T(accumulate ? compute_t<T>(out) + sum : sum);
  }
};

// `count` rows whose elements lie next to each other, each summed in `lanes` parts.
template <int count, class T> RETAPE_INLINE void dot_rows(const MatrixVector<T>& g, int64_t first) {
  using S = compute_t<T>;
  constexpr int lanes = 128 / sizeof(S);
  S sum[count][lanes] = {};
  const T* row[count];
  for (int r = 0; r < count; ++r) row[r] = g.w + (first + r) * g.w_row;
  int64_t l = 0;
  for (; l + lanes <= g.depth; l += lanes)
    for (int r = 0; r < count; ++r) {
#pragma omp simd
      for (int j = 0; j < lanes; ++j) sum[r][j] += S(row[r][l + j]) * g.x[l + j];
    }
  for (int r = 0; r < count; ++r) {
    for (int64_t j = 0; l + j < g.depth; ++j) sum[r][j] += S(row[r][l + j]) * g.x[l + j];
    for (int width = lanes / 2; width; width /= 2)
      for (int j = 0; j < width; ++j) sum[r][j] += sum[r][j + width];
    g.finish(first + r, sum[r][0]);
  }
}
// `count` rows that lie side by side: element l of all of them is one run of memory.
template <int count, class T> RETAPE_INLINE void add_columns(const MatrixVector<T>& g, int64_t first) {
  using S = compute_t<T>;
  S sum[count] = {};
  for (int64_t l = 0; l < g.depth; ++l) {
    const S x = g.x[l];
    const T* const w = g.w + l * g.w_depth + first;
#pragma omp simd
    for (int r = 0; r < count; ++r) sum[r] += S(w[r]) * x;
  }
  for (int r = 0; r < count; ++r) g.finish(first + r, sum[r]);
}
template <class T> void multiply_vector(const MatrixVector<T>& g) {
  constexpr int wide = 256 / sizeof(compute_t<T>), narrow = wide / 8;
  parallel_for(g.rows, row_grain(g.depth) / wide * wide + wide, [&](int64_t begin, int64_t end) {
    int64_t i = begin;
    if (g.w_depth == 1) {
      for (; i + 4 <= end; i += 4) dot_rows<4>(g, i);
      for (; i < end; ++i) dot_rows<1>(g, i);
    } else {
      for (; i + wide <= end; i += wide) add_columns<wide>(g, i);
      for (; i + narrow <= end; i += narrow) add_columns<narrow>(g, i);
      for (; i < end; ++i) add_columns<1>(g, i);
    }
  });
}

// Whether g is such a product, of a matrix whose rows or columns have no gaps, and not one of many small ones; then it is done.
template <class T> bool try_vector(const Gemm& g) {
  using S = compute_t<T>;
  if ((g.m != 1 && g.n != 1) || (g.batch > 1 && g.m * g.n * g.k < 16384)) return false;
  const bool row = g.m == 1;  // of a; otherwise b is a column
  MatrixVector<T> v{};
  v.rows = row ? g.n : g.m, v.depth = g.k;
  v.w_row = row ? g.b_col : g.a_row, v.w_depth = row ? g.b_row : g.a_col;
  if (v.w_depth != 1 && v.w_row != 1) return false;
  v.y_step = row ? 1 : g.c_row, v.accumulate = g.accumulate, v.bias_step = row ? 1 : 0;
  Scratch<S> x(g.k);
  S* const packed = x;
  for (int64_t q = 0; q < g.batch; ++q) {
    const T* from = at<T>(row ? g.a : g.b, q * (row ? g.a_batch : g.b_batch));
    const int64_t step = row ? g.a_col : g.b_row;
    for (int64_t l = 0; l < g.k; ++l) packed[l] = S(from[l * step]);
    v.w = at<T>(row ? g.b : g.a, q * (row ? g.b_batch : g.a_batch)), v.x = packed;
    v.y = at<T>(g.c, q * g.c_batch), v.bias = g.bias ? at<T>(g.bias, 0) : nullptr;
    multiply_vector(v);
  }
  return true;
}

// ---- f64 ----

// The register tile: as many accumulators as leave room for a row of b and one element of a.
#if defined(__AVX512F__)
constexpr int vector_bytes = 64, tile_rows = 8, tile_vectors = 3;
#elif defined(__AVX2__)
constexpr int vector_bytes = 32, tile_rows = 4, tile_vectors = 3;
#else
constexpr int vector_bytes = 16, tile_rows = 4, tile_vectors = 2;
#endif
using Vector = double __attribute__((vector_size(vector_bytes)));
constexpr int lanes = vector_bytes / 8, tile_cols = tile_vectors * lanes;
constexpr int64_t block_k = 256, block_m = 96, block_n = 96;  // every element of c is summed in the same blocks of k
static_assert(block_m % tile_rows == 0 && block_n % tile_cols == 0);

RETAPE_INLINE Vector load(const double* p) {
  Vector v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
RETAPE_INLINE void store(double* p, Vector v) { __builtin_memcpy(p, &v, sizeof v); }

// c[tile_rows][tile_cols] (+)= a b of panels a [k][tile_rows], b [k][tile_cols].
RETAPE_INLINE void multiply_panels(int64_t k, const double* a, const double* b, double* c, int64_t c_row, bool add) {
  Vector sum[tile_rows][tile_vectors] = {};
  for (int64_t l = 0; l < k; ++l, a += tile_rows, b += tile_cols) {
    Vector column[tile_vectors];
    for (int v = 0; v < tile_vectors; ++v) column[v] = load(b + v * lanes);
    for (int r = 0; r < tile_rows; ++r)
      for (int v = 0; v < tile_vectors; ++v) sum[r][v] += a[r] * column[v];
  }
  for (int r = 0; r < tile_rows; ++r)
    for (int v = 0; v < tile_vectors; ++v) {
      double* out = c + r * c_row + v * lanes;
      store(out, add ? load(out) + sum[r][v] : sum[r][v]);
    }
}

// Panel `p` of the block that starts at `k0`: out [k][width] gets lines [p * width, (p + 1) * width) of x, zeros past the last one.
template <int width>
RETAPE_INLINE void pack_panel(const double* x, int64_t line, int64_t step, int64_t lines, int64_t k0, int64_t k, int64_t p, double* out) {
  const int64_t first = p * width, count = min_of<int64_t>(width, lines - first);
  x += first * line + k0 * step;
  if (count == width) {
    for (int64_t l = 0; l < k; ++l)
      for (int i = 0; i < width; ++i) out[l * width + i] = x[l * step + i * line];
  } else {
    for (int64_t l = 0; l < k; ++l)
      for (int i = 0; i < width; ++i) out[l * width + i] = i < count ? x[l * step + i * line] : 0.;
  }
}

// All panels of `batch` matrices: [batch][block of k][panel][k][width].
template <int width>
void pack_panels(const double* x, int64_t batch, int64_t batch_stride, int64_t line, int64_t step, int64_t lines, int64_t k, double* out) {
  const int64_t panels = (lines + width - 1) / width, blocks = (k + block_k - 1) / block_k;
  parallel_for(batch * blocks * panels, row_grain(block_k * width), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t q = t / (blocks * panels), k0 = t / panels % blocks * block_k, p = t % panels, depth = min_of(block_k, k - k0);
      pack_panel<width>(x + q * batch_stride, line, step, lines, k0, depth, p,
                        out + q * panels * width * k + panels * width * k0 + p * width * depth);
    }
  });
}

// One block of c, from packed a and b.
void multiply_block(const Gemm& g, const double* a, const double* b, double* c, int64_t m0, int64_t n0) {
  const int64_t padded_m = (g.m + tile_rows - 1) / tile_rows * tile_rows, padded_n = (g.n + tile_cols - 1) / tile_cols * tile_cols;
  const int64_t m1 = min_of(g.m, m0 + block_m), n1 = min_of(g.n, n0 + block_n);
  for (int64_t k0 = 0; k0 < g.k; k0 += block_k) {
    const int64_t k = min_of(block_k, g.k - k0);
    const bool add = g.accumulate || k0 > 0;
    for (int64_t j = n0; j < n1; j += tile_cols)
      for (int64_t i = m0; i < m1; i += tile_rows) {
        const double* pa = a + padded_m * k0 + i * k;
        const double* pb = b + padded_n * k0 + j * k;
        double* pc = c + i * g.c_row + j;
        const int64_t rows = min_of<int64_t>(tile_rows, m1 - i), cols = min_of<int64_t>(tile_cols, n1 - j);
        if (rows == tile_rows && cols == tile_cols) {
          multiply_panels(k, pa, pb, pc, g.c_row, add);
          continue;
        }
        double edge[tile_rows * tile_cols];
        multiply_panels(k, pa, pb, edge, tile_cols, false);
        for (int64_t r = 0; r < rows; ++r)
          for (int64_t s = 0; s < cols; ++s) {
            double& out = pc[r * g.c_row + s];
            out = add ? out + edge[r * tile_cols + s] : edge[r * tile_cols + s];
          }
      }
  }
  if (!g.bias) return;
  for (int64_t i = m0; i < m1; ++i)
    for (int64_t j = n0; j < n1; ++j) c[i * g.c_row + j] += *at<double>(g.bias, j);
}

void gemm_f64(const Gemm& g) {
  const int64_t padded_m = (g.m + tile_rows - 1) / tile_rows * tile_rows, padded_n = (g.n + tile_cols - 1) / tile_cols * tile_cols;
  const int64_t a_size = padded_m * g.k, b_size = padded_n * g.k;
  const int64_t group = min_of(g.batch, max_of<int64_t>(1, (int64_t{1} << 21) / (a_size + b_size)));  // matrices packed at once
  const int64_t all_a = (g.a_batch ? group : 1) * a_size, all_b = (g.b_batch ? group : 1) * b_size;
  if (on_meta(g)) return count_meta_scratch(bytes_of<double>(all_a), bytes_of<double>(all_b));
  Scratch<double> a(all_a), b(all_b);
  for (int64_t q0 = 0; q0 < g.batch; q0 += group) {
    const int64_t batch = min_of(group, g.batch - q0);
    if (q0 == 0 || g.a_batch)
      pack_panels<tile_rows>(at<double>(g.a, q0 * g.a_batch), g.a_batch ? batch : 1, g.a_batch, g.a_row, g.a_col, g.m, g.k, a);
    if (q0 == 0 || g.b_batch)
      pack_panels<tile_cols>(at<double>(g.b, q0 * g.b_batch), g.b_batch ? batch : 1, g.b_batch, g.b_col, g.b_row, g.n, g.k, b);
    const int64_t rows = (g.m + block_m - 1) / block_m, cols = (g.n + block_n - 1) / block_n;
    parallel_for(batch * rows * cols, row_grain(min_of(g.m, block_m) * min_of(g.n, block_n) * g.k / 8), [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        const int64_t q = t / (rows * cols), i = t / cols % rows, j = t % cols;
        multiply_block(g, a + (g.a_batch ? q * a_size : 0), b + (g.b_batch ? q * b_size : 0), at<double>(g.c, (q0 + q) * g.c_batch),
                       i * block_m, j * block_n);
      }
    });
  }
}

// ---- operands as oneDNN takes them ----

// A matrix whose runs of memory lie along rows, or along columns if those have the smaller stride.
struct Packed {
  bool by_columns;
  int64_t row, col;
  Packed(int64_t rows, int64_t cols, int64_t row_stride, int64_t col_stride)
      : by_columns(row_stride < col_stride), row(by_columns ? 1 : cols), col(by_columns ? rows : 1) {}
};
// Copies `batch` matrices, one after another, into the layout Packed, converting T to U.
template <class T, class U>
void pack(const T* x, int64_t batch, int64_t batch_stride, int64_t rows, int64_t cols, int64_t row_stride, int64_t col_stride, U* out) {
  const bool by_columns = Packed(rows, cols, row_stride, col_stride).by_columns;
  const int64_t lines = by_columns ? cols : rows, length = by_columns ? rows : cols;
  const int64_t line = by_columns ? col_stride : row_stride, step = by_columns ? row_stride : col_stride;
  parallel_for(batch * lines, row_grain(length), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const T* from = x + t / lines * batch_stride + t % lines * line;
      U* to = out + t * length;
      if (step == 1)
        for (int64_t i = 0; i < length; ++i) to[i] = U(from[i]);
      else
        for (int64_t i = 0; i < length; ++i) to[i] = U(from[i * step]);
    }
  });
}

bool is_unit(int64_t rows, int64_t cols, int64_t row_stride, int64_t col_stride) {
  return ((col_stride == 1 || cols == 1) && (row_stride >= cols || rows == 1)) ||
         ((row_stride == 1 || rows == 1) && (col_stride >= rows || cols == 1));
}

template <class T> void call_onednn(const Gemm& g) {
  if constexpr (sizeof(T) == 4) onednn::gemm_f32(g);
  else onednn::gemm_bf16(g, false);
}

template <class T> void gemm_onednn(Gemm g) {
  if (on_meta(g)) {
    const int64_t a = is_unit(g.m, g.k, g.a_row, g.a_col) ? 0 : (g.a_batch ? g.batch : 1) * g.m * g.k;
    const int64_t b = is_unit(g.k, g.n, g.b_row, g.b_col) ? 0 : (g.b_batch ? g.batch : 1) * g.k * g.n;
    return count_meta_scratch(bytes_of<T>(a), bytes_of<T>(b));
  }
  if (!is_unit(g.m, g.k, g.a_row, g.a_col)) {
    const int64_t batch = g.a_batch ? g.batch : 1;
    Scratch<T> a(batch * g.m * g.k);
    pack(at<T>(g.a, 0), batch, g.a_batch, g.m, g.k, g.a_row, g.a_col, static_cast<T*>(a));
    const Packed p(g.m, g.k, g.a_row, g.a_col);
    g.a = a, g.a_row = p.row, g.a_col = p.col, g.a_batch = g.a_batch ? g.m * g.k : 0;
    return gemm_onednn<T>(g);
  }
  if (!is_unit(g.k, g.n, g.b_row, g.b_col)) {
    const int64_t batch = g.b_batch ? g.batch : 1;
    Scratch<T> b(batch * g.k * g.n);
    pack(at<T>(g.b, 0), batch, g.b_batch, g.k, g.n, g.b_row, g.b_col, static_cast<T*>(b));
    const Packed p(g.k, g.n, g.b_row, g.b_col);
    g.b = b, g.b_row = p.row, g.b_col = p.col, g.b_batch = g.b_batch ? g.k * g.n : 0;
    call_onednn<T>(g);
    return;
  }
  call_onednn<T>(g);
}

// Half types: a group of matrices, or of rows of a large one, is converted to f32, multiplied, and rounded once.
template <class T> void gemm_through_f32(const Gemm& g) {
  constexpr int64_t limit = int64_t{1} << 22;  // elements of a scratch buffer, but b is converted whole
  const int64_t largest = max_of(g.m * g.n, max_of(g.m * g.k, g.k * g.n));
  const int64_t matrices = min_of(g.batch, max_of<int64_t>(1, limit / largest));
  const int64_t rows = min_of(g.m, max_of<int64_t>(256, limit / max_of(g.n, g.k)));
  const int64_t b_matrices = g.b_batch ? matrices : 1;
  const int64_t all_a = matrices * rows * g.k, all_b = b_matrices * g.k * g.n, all_c = matrices * rows * g.n;
  if (on_meta(g)) return count_meta_scratch(bytes_of<float>(all_a), bytes_of<float>(all_b), bytes_of<float>(all_c));
  Scratch<float> a(all_a), b(all_b), c(all_c), bias(g.bias ? g.n : 0);
  if (g.bias) pack(at<T>(g.bias, 0), 1, 0, 1, g.n, g.n, 1, static_cast<float*>(bias));
  const Packed b_layout(g.k, g.n, g.b_row, g.b_col);
  for (int64_t q0 = 0; q0 < g.batch; q0 += matrices) {
    const int64_t batch = min_of(matrices, g.batch - q0);
    if (q0 == 0 || g.b_batch)
      pack(at<T>(g.b, q0 * g.b_batch), g.b_batch ? batch : 1, g.b_batch, g.k, g.n, g.b_row, g.b_col, static_cast<float*>(b));
    for (int64_t i0 = 0; i0 < g.m; i0 += rows) {
      const int64_t m = min_of(rows, g.m - i0), a_batch = g.a_batch ? m * g.k : 0;
      pack(at<T>(g.a, q0 * g.a_batch + i0 * g.a_row), g.a_batch ? batch : 1, g.a_batch, m, g.k, g.a_row, g.a_col, static_cast<float*>(a));
      const Packed a_layout(m, g.k, g.a_row, g.a_col);
      onednn::gemm_f32({.batch = batch,
                        .m = m,
                        .n = g.n,
                        .k = g.k,
                        .a = a,
                        .a_row = a_layout.row,
                        .a_col = a_layout.col,
                        .a_batch = a_batch,
                        .b = b,
                        .b_row = b_layout.row,
                        .b_col = b_layout.col,
                        .b_batch = g.b_batch ? g.k * g.n : 0,
                        .c = c,
                        .c_row = g.n,
                        .c_batch = m * g.n,
                        .accumulate = false,
                        .bias = g.bias ? static_cast<float*>(bias) : nullptr});
      parallel_for(batch * m, row_grain(g.n), [&](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t) {
          const float* from = c + t * g.n;
          T* to = at<T>(g.c, (q0 + t / m) * g.c_batch + (i0 + t % m) * g.c_row);
          if (g.accumulate)
            for (int64_t j = 0; j < g.n; ++j) to[j] = T(float(to[j]) + from[j]);
          else
            for (int64_t j = 0; j < g.n; ++j) to[j] = T(from[j]);
        }
      });
    }
  }
}

// ---- tensors ----

template <class T> void gemm(const Gemm& g) {
  const bool tiny = g.batch * g.m * g.n * g.k <= 16 * 16 * 16;
  if (on_meta(g) && (tiny || g.k == 0 || g.m == 1 || g.n == 1)) return;  // their scratch is one row at most
  if (tiny || g.k == 0) return direct<T>(g);
  if (try_vector<T>(g)) return;
  if constexpr (dtype_of<T> == DType::f64) gemm_f64(g);
  else if constexpr (dtype_of<T> == DType::f32) gemm_onednn<T>(g);
  else if (dtype_of<T> == DType::bf16 && onednn::has_bf16()) gemm_onednn<bf16>(g);
  else gemm_through_f32<T>(g);
}

struct BatchDim {
  int64_t size, a, b, c;
};

// g for all batches: dims are the batch dimensions beyond the one that g has itself.
template <class T> void gemm_over(Gemm g, const BatchDim* dims, int rank) {
  if (on_meta(g)) return gemm<T>(g);  // all take the same scratch, one after the other
  int64_t index[Shape::max_rank] = {};
  for (;;) {
    gemm<T>(g);
    int d = rank - 1;
    for (; d >= 0; --d) {
      const BatchDim& dim = dims[d];
      const int64_t steps = ++index[d] < dim.size ? 1 : 1 - dim.size;  // forward, or back to the start
      g.a = at<T>(g.a, steps * dim.a), g.b = at<T>(g.b, steps * dim.b), g.c = at<T>(g.c, steps * dim.c);
      if (steps == 1) break;
      index[d] = 0;
    }
    if (d < 0) return;
  }
}

template <class T> void matmul_typed(const Tensor& a, const Tensor& b, const Tensor* bias, bool accumulate, Tensor& c) {
  const Shape &sa = a.strides(), &sb = b.strides(), &sc = c.strides();
  const Shape& shape = c.shape();
  Gemm g{.batch = 1,
         .m = shape[-2],
         .n = shape[-1],
         .k = a.shape()[-1],
         .a = a.device().is_meta() ? nullptr : a.data<T>(),
         .a_row = sa[-2],
         .a_col = sa[-1],
         .a_batch = 0,
         .b = b.device().is_meta() ? nullptr : b.data<T>(),
         .b_row = sb[-2],
         .b_col = sb[-1],
         .b_batch = 0,
         .c = c.device().is_meta() ? nullptr : c.mutable_data<T>(),
         .c_row = sc[-2],
         .c_batch = 0,
         .accumulate = accumulate,
         .bias = bias && !bias->device().is_meta() ? bias->data<T>() : nullptr};

  // Batch dimensions, neighbours merged where all three tensors step evenly through both.
  BatchDim dims[Shape::max_rank];
  int rank = 0;
  for (int d = 0; d < shape.rank() - 2; ++d) {
    const BatchDim dim{shape[d], sa[d], sb[d], sc[d]};
    if (dim.size == 1) continue;
    BatchDim* last = rank ? &dims[rank - 1] : nullptr;
    if (last && last->a == dim.size * dim.a && last->b == dim.size * dim.b && last->c == dim.size * dim.c)
      *last = {last->size * dim.size, dim.a, dim.b, dim.c};
    else dims[rank++] = dim;
  }
  // One b for all: the innermost batch dimension becomes rows of a and c where they go on evenly (a linear layer).
  while (rank > 0) {
    const BatchDim& dim = dims[rank - 1];
    if (dim.b != 0 || (g.m != 1 && (dim.a != g.m * g.a_row || dim.c != g.m * g.c_row))) break;
    if (g.m == 1) g.a_row = dim.a, g.c_row = dim.c;
    g.m *= dim.size;
    --rank;
  }
  if (g.m == 1) g.c_row = g.n;
  if (rank > 0) {
    const BatchDim& dim = dims[--rank];
    g.batch = dim.size, g.a_batch = dim.a, g.b_batch = dim.b, g.c_batch = dim.c;
  }

  if (!g.bias || g.n == 1 || bias->strides()[0] == 1) return gemm_over<T>(g, dims, rank);
  Scratch<T> packed(g.n);
  pack(bias->data<T>(), 1, 0, g.n, 1, bias->strides()[0], 0, static_cast<T*>(packed));
  g.bias = packed;
  gemm_over<T>(g, dims, rank);
}

// bias: null if there is none. A Tensor{} here would bring code that all levels share.
void multiply(const Tensor& a, const Tensor& b, const Tensor* bias, bool accumulate, Tensor& c) {
  if (a.dtype() != b.dtype() || a.dtype() != c.dtype() || (bias && bias->dtype() != a.dtype()))
    detail::kernel_error("matmul: operands, bias and result differ in dtype; cast them to one first");
  if (c.numel() == 0) return;
  with_floating("matmul", a.dtype(), [&](auto zero) { matmul_typed<decltype(zero)>(a, b, bias, accumulate, c); });
}

}  // namespace

// a (..., m, k), b (..., k, n), c (..., m, n) with contiguous rows, all of one rank and dtype, batch dimensions of a and b expanded
// to c's by strides of 0; bias (n), or undefined. On meta it counts the scratch memory that it would take.
void matmul(const Tensor& a, const Tensor& b, const Tensor& bias, bool accumulate, Tensor& c) {
  multiply(a, b, bias ? &bias : nullptr, accumulate, c);
}

// Of meta tensors a product counts its scratch memory; other kernels are not called with them.
void linear_gelu(const Tensor& x, const Tensor& weight_t, const Tensor& bias, Tensor& h, Tensor& y) {
  matmul(x, weight_t, bias, false, h);
  if (!x.device().is_meta()) unary(UnaryKind::gelu_tanh, h, y);
}
void linear_gelu_backward(const Tensor& dy, const Tensor& weight, const Tensor& h, Tensor& dh) {
  multiply(dy, weight, nullptr, false, dh);
  if (!dy.device().is_meta()) unary_backward(UnaryKind::gelu_tanh, dh, h, dh);
}
void linear_weight_backward(const Tensor& dy_t, const Tensor& x, Tensor& dweight, Tensor& dbias) {
  multiply(dy_t, x, nullptr, false, dweight);
  if (!x.device().is_meta()) reduce(ReduceKind::sum, dy_t, dbias);
}

}  // namespace retape::RETAPE_LEVEL
