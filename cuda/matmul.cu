// Matrix products over the last two dimensions: cuBLASLt multiplies; here operands are brought into a form that it takes. Gemm and its
// strides are explained in libraries/blas.h; within this file its strides may be anything, and k may be 0.
#include <retape/cuda/gemm.h>

namespace retape::cuda {
namespace {

using blas::Gemm;

template <class T> T* moved(T* p, int64_t elements, DType dtype) {
  using Byte = std::conditional_t<std::is_const_v<T>, const std::byte, std::byte>;
  return reinterpret_cast<Byte*>(p) + elements * int64_t(size_of(dtype));
}

// ---- what the library does not take ----

constexpr int edge = 16;

// c (+)= a b + bias for any strides, a block of threads for a tile of c. Seldom called: simple, not fast.
template <class T> __global__ void multiply_any(Gemm g) {
  using S = compute_t<T>;
  __shared__ S a_tile[edge][edge + 1];
  __shared__ S b_tile[edge][edge + 1];
  const int x = int(threadIdx.x) % edge, y = int(threadIdx.x) / edge;
  const int64_t columns = (g.n + edge - 1) / edge, rows = (g.m + edge - 1) / edge;
  for (int64_t t = blockIdx.x; t < g.batch * rows * columns; t += gridDim.x) {
    const int64_t q = t / (rows * columns), i = t / columns % rows * edge + y, j = t % columns * edge + x;
    const T* const a = static_cast<const T*>(g.a) + q * g.a_batch;
    const T* const b = static_cast<const T*>(g.b) + q * g.b_batch;
    S sum = 0;
    for (int64_t l = 0; l < g.k; l += edge) {
      a_tile[y][x] = i < g.m && l + x < g.k ? S(a[i * g.a_row + (l + x) * g.a_col]) : S(0);
      b_tile[y][x] = j < g.n && l + y < g.k ? S(b[(l + y) * g.b_row + j * g.b_col]) : S(0);
      __syncthreads();
      for (int d = 0; d < edge; ++d) sum += a_tile[y][d] * b_tile[d][x];
      __syncthreads();
    }
    if (i < g.m && j < g.n) {
      T& out = static_cast<T*>(g.c)[q * g.c_batch + i * g.c_row + j];
      if (g.bias) sum += S(static_cast<const T*>(g.bias)[j]);
      out = T(g.accumulate ? S(out) + sum : sum);
    }
  }
}
template <class T> void multiply_without_library(const Gemm& g) {
  const int64_t tiles = g.batch * ((g.m + edge - 1) / edge) * ((g.n + edge - 1) / edge);
  launch(multiply_any<T>, blocks_for(tiles, 1), edge * edge, 0, g);
}

// y (batch, lines, length) contiguous = x with any strides. Copied as bits: T is an unsigned integer of the element's size.
template <class T>
__global__ void pack(const T* x, int64_t batch, int64_t batch_stride, int64_t lines, int64_t line, int64_t length, int64_t step, T* y) {
  for (int64_t t = thread_index(); t < batch * lines * length; t += thread_count())
    y[t] = x[t / (lines * length) * batch_stride + t / length % lines * line + t % length * step];
}
template <class T> using Bits = std::conditional_t<sizeof(T) == 8, uint64_t, std::conditional_t<sizeof(T) == 4, uint32_t, uint16_t>>;
template <class T>
void launch_pack(const void* x, int64_t batch, int64_t batch_stride, int64_t lines, int64_t line, int64_t length, int64_t step, T* y) {
  launch(pack<Bits<T>>, blocks_for(batch * lines * length), 256, 0, static_cast<const Bits<T>*>(x), batch, batch_stride, lines, line,
         length, step, reinterpret_cast<Bits<T>*>(y));
}

bool has_runs(int64_t rows, int64_t cols, int64_t row_stride, int64_t col_stride) {
  return ((col_stride == 1 || cols == 1) && (row_stride >= cols || rows == 1)) ||
         ((row_stride == 1 || rows == 1) && (col_stride >= rows || cols == 1));
}

// ---- one batch of products ----

constexpr int64_t most_matrices = 65535;  // of one call of the library

template <class T> void gemm_prepared(const Gemm& all) {
  for (int64_t q = 0; q < all.batch; q += most_matrices) {
    Gemm g = all;
    g.batch = min_of(most_matrices, all.batch - q);
    g.a = moved(g.a, q * g.a_batch, g.dtype), g.b = moved(g.b, q * g.b_batch, g.dtype), g.c = moved(g.c, q * g.c_batch, g.dtype);
    if (blas::gemm(g)) continue;
    if (g.bias && sizeof(T) >= 4) {  // the bias first, which half types would round
      Gemm bias_only = g;
      bias_only.k = 0;
      multiply_without_library<T>(bias_only);
      g.bias = nullptr, g.accumulate = true;
      if (blas::gemm(g)) continue;
    }
    multiply_without_library<T>(g);
  }
}

template <class T> void gemm(Gemm g) {
  if (g.k == 0) return multiply_without_library<T>(g);
  if (!has_runs(g.m, g.k, g.a_row, g.a_col)) {
    const int64_t batch = g.a_batch ? g.batch : 1;
    const Scratch<T> a(batch * g.m * g.k);
    launch_pack<T>(g.a, batch, g.a_batch, g.m, g.a_row, g.k, g.a_col, a);
    g.a = static_cast<const T*>(a), g.a_row = g.k, g.a_col = 1, g.a_batch = g.a_batch ? g.m * g.k : 0;
    return gemm<T>(g);
  }
  if (!has_runs(g.k, g.n, g.b_row, g.b_col)) {
    const int64_t batch = g.b_batch ? g.batch : 1;
    const Scratch<T> b(batch * g.k * g.n);
    launch_pack<T>(g.b, batch, g.b_batch, g.k, g.b_row, g.n, g.b_col, b);
    g.b = static_cast<const T*>(b), g.b_row = g.n, g.b_col = 1, g.b_batch = g.b_batch ? g.k * g.n : 0;
    return gemm_prepared<T>(g);
  }
  gemm_prepared<T>(g);
}

// ---- tensors ----

struct BatchDim {
  int64_t size, a, b, c;
};

// g for all batches: dims are the batch dimensions beyond the one that g has itself.
template <class T> void gemm_over(Gemm g, const BatchDim* dims, int rank) {
  int64_t index[Shape::max_rank] = {};
  for (;;) {
    gemm<T>(g);
    int d = rank - 1;
    for (; d >= 0; --d) {
      const BatchDim& dim = dims[d];
      const int64_t steps = ++index[d] < dim.size ? 1 : 1 - dim.size;  // forward, or back to the start
      g.a = moved(g.a, steps * dim.a, g.dtype), g.b = moved(g.b, steps * dim.b, g.dtype), g.c = moved(g.c, steps * dim.c, g.dtype);
      if (steps == 1) break;
      index[d] = 0;
    }
    if (d < 0) return;
  }
}

template <class T> void matmul_typed(const Tensor& a, const Tensor& b, const Tensor& bias, bool accumulate, Tensor& c) {
  const Shape &sa = a.strides(), &sb = b.strides(), &sc = c.strides();
  const Shape& shape = c.shape();
  Gemm g{.dtype = c.dtype(),
         .batch = 1,
         .m = shape[-2],
         .n = shape[-1],
         .k = a.shape()[-1],
         .a = data<T>(a),
         .a_row = sa[-2],
         .a_col = sa[-1],
         .a_batch = 0,
         .b = data<T>(b),
         .b_row = sb[-2],
         .b_col = sb[-1],
         .b_batch = 0,
         .c = data<T>(c),
         .c_row = sc[-2],
         .c_batch = 0,
         .accumulate = accumulate,
         .bias = data<T>(bias)};

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
  // The longest of those that are left goes to the library, the others are loops around it.
  if (rank > 0) {
    int longest = 0;
    for (int d = 1; d < rank; ++d)
      if (dims[d].size > dims[longest].size) longest = d;
    g.batch = dims[longest].size, g.a_batch = dims[longest].a, g.b_batch = dims[longest].b, g.c_batch = dims[longest].c;
    for (--rank; longest < rank; ++longest) dims[longest] = dims[longest + 1];
  }

  if (!g.bias || g.n == 1 || bias.strides()[0] == 1) return gemm_over<T>(g, dims, rank);
  const Scratch<T> packed(g.n);
  launch_pack<T>(g.bias, 1, 0, 1, 0, g.n, bias.strides()[0], packed);
  g.bias = static_cast<const T*>(packed);
  gemm_over<T>(g, dims, rank);
}

}  // namespace

// a (..., m, k), b (..., k, n), c (..., m, n) with contiguous rows, all of one rank and dtype, batch dimensions of a and b expanded
// to c's by strides of 0; bias (n), or undefined.
void matmul(const Tensor& a, const Tensor& b, const Tensor& bias, bool accumulate, Tensor& c) {
  if (a.dtype() != b.dtype() || a.dtype() != c.dtype() || (bias && bias.dtype() != a.dtype()))
    detail::kernel_error("matmul: operands, bias and result differ in dtype; cast them to one first");
  if (c.numel() == 0) return;
  with_floating("matmul", a.dtype(), [&](auto zero) { matmul_typed<decltype(zero)>(a, b, bias, accumulate, c); });
}

void multiply(const Gemm& g) {
  if (g.batch * g.m * g.n == 0) return;
  with_floating("matmul", g.dtype, [&](auto zero) { gemm<decltype(zero)>(g); });
}

namespace {
// c = a b with an epilogue of the library: false, and nothing has happened, unless it has that for these operands.
bool matmul_with(blas::Epilogue epilogue, const Tensor& a, const Tensor& b, const Tensor& bias, Tensor& c, void* extra) {
  const Shape &sa = a.strides(), &sb = b.strides();
  const Gemm g{.dtype = c.dtype(),
               .batch = 1,
               .m = c.shape()[0],
               .n = c.shape()[1],
               .k = a.shape()[1],
               .a = data_bytes(a),
               .a_row = sa[0],
               .a_col = sa[1],
               .a_batch = 0,
               .b = data_bytes(b),
               .b_row = sb[0],
               .b_col = sb[1],
               .b_batch = 0,
               .c = data_bytes(c),
               .c_row = c.shape()[1],
               .c_batch = 0,
               .accumulate = false,
               .bias = data_bytes(bias),
               .epilogue = epilogue,
               .extra = extra};
  const bool regular = has_runs(g.m, g.k, g.a_row, g.a_col) && has_runs(g.k, g.n, g.b_row, g.b_col) && g.m * g.n * g.k > 0;
  return regular && blas::gemm(g);
}
}  // namespace

void linear_gelu(const Tensor& x, const Tensor& weight_t, const Tensor& bias, Tensor& h, Tensor& y) {
  if (matmul_with(blas::Epilogue::gelu, x, weight_t, bias, y, data_bytes(h))) return;
  matmul(x, weight_t, bias, false, h);
  unary(UnaryKind::gelu_tanh, h, y);
}
void linear_gelu_backward(const Tensor& dy, const Tensor& weight, const Tensor& h, Tensor& dh) {
  if (matmul_with(blas::Epilogue::gelu_backward, dy, weight, Tensor{}, dh, data_bytes(h))) return;
  matmul(dy, weight, Tensor{}, false, dh);
  unary_backward(UnaryKind::gelu_tanh, dh, h, dh);
}
void linear_weight_backward(const Tensor& dy_t, const Tensor& x, Tensor& dweight, Tensor& dbias) {
  if (matmul_with(blas::Epilogue::row_sums, dy_t, x, Tensor{}, dweight, data_bytes(dbias))) return;
  matmul(dy_t, x, Tensor{}, false, dweight);
  reduce(ReduceKind::sum, dy_t, dbias);
}

}  // namespace retape::cuda
