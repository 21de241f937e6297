// The gradients of a normalisation's weight and bias: sums over rows, in two passes whose order depends on the shape alone. Rows are
// cut into chunks, every chunk gets its own sums, and those are added.
#pragma once
#include <retape/cuda/rows.h>

namespace retape::cuda {

constexpr int column_lanes = 32, column_rows = 8;

// The sum of all of blockDim.y's values in a column of the block; all threads get it.
template <class C> __device__ __forceinline__ C sum_of_column(C v, C (&shared)[column_rows][column_lanes]) {
  __syncthreads();  // the last call's values have been read
  shared[threadIdx.y][threadIdx.x] = v;
  __syncthreads();
  C sum = 0;
#pragma unroll
  for (int y = 0; y < column_rows; ++y) sum += shared[y][threadIdx.x];
  return sum;
}

namespace {

// A block sums a chunk of the rows in 32 packs of columns: dy hat with hat = (x - mean) rstd in dweight, and dy in dbias, both
// (chunks, n). A null output is not wanted, a null mean is 0.
template <class T, class C>
__global__ void column_sums_of_chunks(const T* dy, const T* x, const C* mean, const C* rstd, int64_t rows, int64_t n, bool packed,
                                      C* dweight, C* dbias) {
  __shared__ C shared[column_rows][column_lanes];
  const Place place(blockIdx.x, pack_width<T>, n, packed);
  const int64_t chunk = blockIdx.y, begin = chunk * rows / gridDim.y, end = (chunk + 1) * rows / gridDim.y;
  Values<T> weights{}, biases{};
  if (place.left) {
    for (int64_t r = begin + threadIdx.y; r < end; r += column_rows) {
      const Values<T> d = load(dy + r * n, place);
      if (dweight) {
        const Values<T> v = load(x + r * n, place);
        const C center = mean ? mean[r] : C(0), scale = rstd[r];
#pragma unroll
        for (int j = 0; j < pack_width<T>; ++j) weights.at[j] += d.at[j] * ((v.at[j] - center) * scale);
      }
#pragma unroll
      for (int j = 0; j < pack_width<T>; ++j) biases.at[j] += d.at[j];
    }
  }
#pragma unroll
  for (int j = 0; j < pack_width<T>; ++j) {
    const bool writes = threadIdx.y == 0 && place.has(j);
    if (dweight) {
      const C sum = sum_of_column(weights.at[j], shared);
      if (writes) dweight[chunk * n + place.at(j)] = sum;
    }
    if (dbias) {
      const C sum = sum_of_column(biases.at[j], shared);
      if (writes) dbias[chunk * n + place.at(j)] = sum;
    }
  }
}
template <class T, class C> __global__ void add_up_chunks(const C* sums, int64_t chunks, int64_t n, T* y) {
  __shared__ C shared[column_rows][column_lanes];
  const int64_t column = int64_t(blockIdx.x) * column_lanes + threadIdx.x;
  C sum = 0;
  if (column < n)
    for (int64_t c = threadIdx.y; c < chunks; c += column_rows) sum += sums[c * n + column];
  sum = sum_of_column(sum, shared);
  if (threadIdx.y == 0 && column < n) y[column] = T(sum);
}

}  // namespace

// dy, x (rows, n); mean (rows) or null; rstd (rows); dweight, dbias (n) or undefined
template <class T, class C = compute_t<T>>
void norm_column_sums(const Tensor& dy, const Tensor& x, const C* mean, const C* rstd, int64_t rows, int64_t n, const Tensor& dweight,
                      const Tensor& dbias) {
  if (!dweight && !dbias) return;
  const T *const d = data<T>(dy), *const in = data<T>(x);
  const int64_t tile = int64_t{column_lanes} * pack_width<T>, tiles = (n + tile - 1) / tile;
  // At least 32 rows a chunk, so that the sums stay small next to the rows, and no more blocks than keep a large device busy.
  const int64_t chunks = max_of(int64_t{1}, min_of((rows + 31) / 32, 1024 / max_of(int64_t{1}, tiles)));
  const Scratch<C> weights(dweight ? chunks * n : 0), biases(dbias ? chunks * n : 0);
  const dim3 block(column_lanes, column_rows);
  launch(column_sums_of_chunks<T, C>, dim3(unsigned(tiles), unsigned(chunks)), block, 0, d, in, mean, rstd, rows, n,
         rows_are_packed<T>(n, {d, in}), dweight ? static_cast<C*>(weights) : nullptr, dbias ? static_cast<C*>(biases) : nullptr);
  const dim3 columns(unsigned((n + column_lanes - 1) / column_lanes));
  if (dweight) launch(add_up_chunks<T, C>, columns, block, 0, static_cast<C*>(weights), chunks, n, data<T>(dweight));
  if (dbias) launch(add_up_chunks<T, C>, columns, block, 0, static_cast<C*>(biases), chunks, n, data<T>(dbias));
}

}  // namespace retape::cuda
