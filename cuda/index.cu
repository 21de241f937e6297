// Reading and writing at positions given by an index tensor (i64 or i32). A value outside its dim is reported, reads as 0 and is not
// written. What goes to one place is joined there in the order of the index: sources are sorted by place, and one thread has all that
// goes to an element, or the first of its pieces if that is much.
#include <retape/cuda/dims.h>
#include <retape/cuda/libraries/sort.h>

namespace retape::cuda {
namespace {

constexpr int threads = 256;

struct IndexValues {
  const void* values;
  bool narrow;
  explicit IndexValues(const Tensor& index) : values(data_bytes(index)), narrow(index.dtype() == DType::i32) {}
  __device__ __forceinline__ int64_t operator[](int64_t i) const {
    return narrow ? int64_t(static_cast<const int32_t*>(values)[i]) : static_cast<const int64_t*>(values)[i];
  }
};
// The range of an index tensor's values, and where others are reported.
struct Range {
  Fault* fault;
  const char* op;
  int64_t size;
  __device__ __forceinline__ bool holds(int64_t value) const {
    if (uint64_t(value) < uint64_t(size)) return true;
    report(fault, op, value, -1, size);
    return false;
  }
};

// A contiguous tensor around one dim: (outer, size, inner).
struct Around {
  int64_t outer = 1, size = 1, inner = 1;
  Around(const Shape& shape, int dim) {
    for (int d = 0; d < shape.rank(); ++d) (d < dim ? outer : d == dim ? size : inner) *= shape[d];
  }
};

// Blocks for rows of n items: `x` threads lie along a row, of which few have nothing to do.
struct Rows {
  dim3 grid, block;
  Rows(int64_t outer, int64_t rows, int64_t n) {
    int x = threads;
    while (x > 1 && (n + x - 1) / x * x > n + n / 8) x /= 2;
    block = dim3(unsigned(x), unsigned(threads / x));
    const auto at_most = [](int64_t blocks, int64_t most) { return unsigned(min_of(blocks, most)); };
    grid =
        dim3(at_most((rows * x + threads - 1) / threads, (int64_t{1} << 31) - 1), at_most((n + x - 1) / x, 65535), at_most(outer, 65535));
  }
};

// The widest unit of which rows of `bytes` bytes at these addresses consist.
size_t unit_of(int64_t bytes, const void* a, const void* b) {
  const uintptr_t all = uintptr_t(bytes) | reinterpret_cast<uintptr_t>(a) | reinterpret_cast<uintptr_t>(b);
  size_t unit = 16;
  while (all % unit) unit /= 2;
  return unit;
}
// Calls f(U{}) with an unsigned type of that size: for moving elements, only their size matters.
template <class F> auto with_unit(size_t bytes, const F& f) {
  switch (bytes) {
    case 1: return f(uint8_t{});
    case 2: return f(uint16_t{});
    case 4: return f(uint32_t{});
    case 8: return f(uint64_t{});
    default: return f(Pack<uint64_t, 2>{});
  }
}

// x (outer, size, n), y (outer, k, n)
template <class U>
__global__ void select_rows(const void* x, IndexValues index, int64_t outer, int64_t k, int64_t n, Range range, void* y) {
  for (int64_t o = blockIdx.z; o < outer; o += gridDim.z)
    for (int64_t j = int64_t(blockIdx.x) * blockDim.y + threadIdx.y; j < k; j += int64_t(gridDim.x) * blockDim.y) {
      const int64_t v = index[j];
      const bool inside = range.holds(v);
      const U* from = static_cast<const U*>(x) + (o * range.size + (inside ? v : 0)) * n;
      U* to = static_cast<U*>(y) + (o * k + j) * n;
      for (int64_t c = int64_t(blockIdx.y) * blockDim.x + threadIdx.x; c < n; c += int64_t(gridDim.y) * blockDim.x)
        to[c] = inside ? from[c] : U{};
    }
}

// Element i of the index is about element base.offset(i) + index[i] * stride.
template <class U>
__global__ void gather_elements(const void* x, IndexValues index, int64_t n, const __grid_constant__ Dims<> base, int64_t stride,
                                Range range, void* y) {
  for (int64_t i = thread_index(); i < n; i += thread_count()) {
    const int64_t v = index[i];
    static_cast<U*>(y)[i] = range.holds(v) ? static_cast<const U*>(x)[base.offset(i) + v * stride] : U{};
  }
}

// The offsets of a box of shape `part` in a contiguous tensor of shape `whole`, with dim `dim` left out.
Dims<> without_dim(const Shape& part, const Shape& whole, int dim) {
  const Shape strides = contiguous_strides(whole);
  Dims<> base;
  for (int d = 0; d < part.rank(); ++d) base.add(part[d], d == dim ? 0 : strides[d]);
  return base;
}

// ---- writing: sources [begin, begin + n) of every slice, and the places that they go to, of which there are `count` -----------------

// Places, in 32 bits if these suffice. `count` stands for those that there are not.
struct Places {
  void* at;
  bool wide;
  int64_t count;
  __device__ __forceinline__ int64_t operator[](int64_t i) const {
    return wide ? static_cast<const int64_t*>(at)[i] : int64_t(static_cast<const uint32_t*>(at)[i]);
  }
};
__global__ void find_places(IndexValues index, int64_t begin, int64_t n, const __grid_constant__ Dims<> base, int64_t stride, Range range,
                            Places places, uint32_t* order) {
  for (int64_t i = thread_index(); i < n; i += thread_count()) {
    const int64_t v = index[begin + i], place = range.holds(v) ? base.offset(begin + i) + v * stride : places.count;
    if (places.wide) static_cast<int64_t*>(places.at)[i] = place;
    else static_cast<uint32_t*>(places.at)[i] = uint32_t(place);
    if (order) order[i] = uint32_t(i);
  }
}

// source (outer, k, inner), y (outer, count, inner)
struct Put {
  PutKind kind;
  int64_t begin, n, k, outer, inner;
  Places places;
  const void* source;
  void* y;
};

// The last source that goes to a place, counted from 1.
__global__ void elect(int64_t n, Places places, uint32_t* last) {
  for (int64_t i = thread_index(); i < n; i += thread_count())
    if (const int64_t place = places[i]; place < places.count) atomicMax(last + place, uint32_t(i + 1));
}
// inner counts units
template <class U> __global__ void put_elected(Put put, const uint32_t* last) {
  for (int64_t o = blockIdx.z; o < put.outer; o += gridDim.z)
    for (int64_t j = int64_t(blockIdx.x) * blockDim.y + threadIdx.y; j < put.n; j += int64_t(gridDim.x) * blockDim.y) {
      const int64_t place = put.places[j];
      if (place == put.places.count || last[place] != uint32_t(j + 1)) continue;
      const U* from = static_cast<const U*>(put.source) + (o * put.k + put.begin + j) * put.inner;
      U* to = static_cast<U*>(put.y) + (o * put.places.count + place) * put.inner;
      for (int64_t c = int64_t(blockIdx.y) * blockDim.x + threadIdx.x; c < put.inner; c += int64_t(gridDim.y) * blockDim.x) to[c] = from[c];
    }
}

template <class C> __device__ __forceinline__ C join(PutKind kind, C a, C b) {
  switch (kind) {
    case PutKind::add: return functor::Add::value(a, b);
    case PutKind::multiply: return functor::Mul::value(a, b);
    case PutKind::max: return functor::Maximum::value(a, b);
    case PutKind::min: return functor::Minimum::value(a, b);
    case PutKind::replace: break;
  }
  return b;
}

// Sources are sorted by place; those of one place are a run. A run of more than `piece` is joined in pieces, which begin with the run and
// at every multiple of `piece`: fixed by the index alone, whatever runs first.
constexpr int64_t piece = 512;

// A thread's neighbouring columns, or columns that are `step` apart.
template <class T> struct Columns {
  static constexpr int most = sizeof(T) == 1 ? 8 : int(16 / sizeof(T));
  int64_t first;
  int step, count;
  bool packed;
  __device__ __forceinline__ Columns(int64_t inner, bool packed, int64_t tile) : packed(packed) {
    const int64_t from = tile * blockDim.x * most;
    first = from + (packed ? int64_t(threadIdx.x) * most : int64_t(threadIdx.x));
    step = packed ? 1 : int(blockDim.x);
    const int64_t left = inner - first;
    count = packed ? most * (left > 0) : int(left <= 0 ? 0 : min_of((left + step - 1) / step, int64_t(most)));
  }
  __device__ __forceinline__ void load(const T* row, T (&v)[most]) const {
    if (packed && count) {
      const auto pack = *reinterpret_cast<const Pack<T, most>*>(row + first);
      for (int j = 0; j < most; ++j) v[j] = pack.at[j];
    } else
      for (int j = 0; j < most; ++j) v[j] = j < count ? row[first + int64_t(j) * step] : T{};
  }
};

// Joins sources from slot `at` on, while they go to `place`, up to slot `end`.
template <class T>
__device__ __forceinline__ void join_run(const Put& put, const uint32_t* order, int64_t at, int64_t end, int64_t place, const T* source,
                                         const Columns<T>& columns, compute_t<T> (&acc)[Columns<T>::most]) {
  constexpr int most = Columns<T>::most, ahead = 4;
  T v[ahead][most];
  for (; at + ahead <= end && put.places[at + ahead - 1] == place; at += ahead) {
    for (int u = 0; u < ahead; ++u) columns.load(source + int64_t(order[at + u]) * put.inner, v[u]);
    for (int u = 0; u < ahead; ++u)
      for (int j = 0; j < most; ++j) acc[j] = join(put.kind, acc[j], compute_t<T>(v[u][j]));
  }
  for (; at < end && put.places[at] == place; ++at) {
    columns.load(source + int64_t(order[at]) * put.inner, v[0]);
    for (int j = 0; j < most; ++j) acc[j] = join(put.kind, acc[j], compute_t<T>(v[0][j]));
  }
}

// With `pieces`, those pieces of runs that are not the first go to partial (pieces, outer, inner). Without, what goes to a place is joined
// with what is there.
template <class T> __global__ void put_runs(Put put, const uint32_t* order, bool pieces, bool packed, void* partial) {
  using C = compute_t<T>;
  constexpr int most = Columns<T>::most;
  const int64_t all = pieces ? (put.n + piece - 1) / piece : put.n, inner = put.inner;
  C* const held = static_cast<C*>(partial);
  for (int64_t o = blockIdx.z; o < put.outer; o += gridDim.z)
    for (int64_t i = int64_t(blockIdx.x) * blockDim.y + threadIdx.y; i < all; i += int64_t(gridDim.x) * blockDim.y) {
      const int64_t slot = pieces ? i * piece : i, place = put.places[slot];
      const bool inside = slot > 0 && put.places[slot - 1] == place;
      if (place == put.places.count || inside != pieces) continue;
      const bool longer = !pieces && slot + piece < put.n && put.places[slot + piece] == place;
      const int64_t tile_end = min_of(put.n, (slot / piece + 1) * piece), end = pieces || longer ? tile_end : put.n;
      const T* source = static_cast<const T*>(put.source) + (o * put.k + put.begin) * inner;
      for (int64_t tile = blockIdx.y; tile * int64_t(blockDim.x) * most < inner; tile += gridDim.y) {
        const Columns<T> columns(inner, packed, tile);
        if (columns.count == 0) continue;
        T* const to = static_cast<T*>(put.y) + (o * put.places.count + place) * inner;
        T v[most];
        columns.load(pieces ? source + int64_t(order[slot]) * inner : to, v);
        C acc[most];
        for (int j = 0; j < most; ++j) acc[j] = C(v[j]);
        join_run(put, order, slot + pieces, end, place, source, columns, acc);
        if (longer)
          for (int64_t t = end / piece; t * piece < put.n && put.places[t * piece] == place; ++t)
            for (int j = 0; j < most; ++j)
              if (j < columns.count)
                acc[j] = join(put.kind, acc[j], held[(t * put.outer + o) * inner + columns.first + int64_t(j) * columns.step]);
        for (int j = 0; j < most; ++j) {
          const int64_t c = columns.first + int64_t(j) * columns.step;
          if (j >= columns.count) continue;
          if (pieces) held[(i * put.outer + o) * inner + c] = acc[j];
          else to[c] = T(acc[j]);
        }
      }
    }
}

// source (outer, k, inner) goes to y (outer, count, inner): element i of the index says where source i of each slice goes, which is place
// base.offset(i) + index[i] * stride.
void put_all(PutKind kind, const Tensor& index, const Dims<>& base, int64_t stride, const Range& range, const Tensor& source, int64_t outer,
             int64_t count, int64_t inner, const Tensor& y) {
  const int64_t k = index.numel(), most = int64_t{1} << 30;  // as many as are counted in 32 bits, one such part after the other
  if (source.numel() == 0) return;
  const bool wide = count >= 0xffffffff;
  const int64_t element = int64_t(size_of(y.dtype())), space = min_of(k, most);
  Put put{kind, 0, 0, k, outer, inner, {nullptr, wide, count}, data_bytes(source), data_bytes(y)};
  const Scratch<char> places(space * (wide ? 8 : 4));
  for (put.begin = 0; put.begin < k; put.begin += most) {
    put.n = min_of(most, k - put.begin);
    put.places.at = places;
    if (kind == PutKind::replace) {
      const Scratch<uint32_t> last(count);
      const size_t unit = unit_of(inner * element, put.source, put.y);
      Put units = put;
      units.inner = inner * element / int64_t(unit);
      check(cudaMemsetAsync(static_cast<uint32_t*>(last), 0, size_t(count) * sizeof(uint32_t), current_stream()), "index");
      launch(find_places, blocks_for(put.n), threads, 0, IndexValues(index), put.begin, put.n, base, stride, range, put.places,
             static_cast<uint32_t*>(nullptr));
      launch(elect, blocks_for(put.n), threads, 0, put.n, put.places, static_cast<uint32_t*>(last));
      const Rows rows(outer, put.n, units.inner);
      const auto kernel = with_unit(unit, [](auto u) { return put_elected<decltype(u)>; });
      launch(kernel, rows.grid, rows.block, 0, units, static_cast<uint32_t*>(last));
      continue;
    }
    const Scratch<uint32_t> order(2 * put.n);
    const Scratch<char> more_places(space * (wide ? 8 : 4));
    launch(find_places, blocks_for(put.n), threads, 0, IndexValues(index), put.begin, put.n, base, stride, range, put.places,
           static_cast<uint32_t*>(order));
    int bits = 1;
    while (count >> bits) ++bits;
    uint32_t* sorted;
    const auto sort_as = [&](auto zero) {
      using K = decltype(zero);
      library::Pairs<K> pairs{static_cast<K*>(put.places.at), reinterpret_cast<K*>(static_cast<char*>(more_places)), order, order + put.n};
      library::sort(pairs, put.n, bits);
      put.places.at = pairs.keys, sorted = pairs.values;
    };
    if (wide) sort_as(uint64_t{});
    else sort_as(uint32_t{});
    const int64_t pieces = (put.n + piece - 1) / piece;
    const Scratch<double> partial(pieces > 1 ? pieces * outer * inner : 0);
    with_any(y.dtype(), [&](auto zero) {
      using T = decltype(zero);
      constexpr int width = Columns<T>::most;
      const bool packed = inner % width == 0 && (reinterpret_cast<uintptr_t>(put.source) | reinterpret_cast<uintptr_t>(put.y)) % 16 == 0;
      const int64_t columns = (inner + width - 1) / width;
      const Rows each_piece(outer, pieces, columns), each_slot(outer, put.n, columns);
      if (pieces > 1) launch(put_runs<T>, each_piece.grid, each_piece.block, 0, put, sorted, true, packed, static_cast<double*>(partial));
      launch(put_runs<T>, each_slot.grid, each_slot.block, 0, put, sorted, false, packed, static_cast<double*>(partial));
    });
  }
}

// ---- positions -------------------------------------------------------------------------------------------------------------

// y = y * size + index, or at first index, with negative indices counted from the end
__global__ void append_positions(IndexValues index, bool first, const __grid_constant__ Dims<2> at, int64_t size, int64_t dim, Fault* fault,
                                 int64_t* y) {
  for (int64_t i = thread_index(); i < at.count; i += thread_count()) {
    int64_t offset[2];
    at.at(i, offset);
    const int64_t given = index[offset[0]];
    int64_t v = given < 0 ? given + size : given;
    if (uint64_t(v) >= uint64_t(size)) {
      report(fault, "index", given, dim, size);
      v = 0;
    }
    y[offset[1]] = (first ? 0 : y[offset[1]] * size) + v;
  }
}

// Chunks of a mask: how many are true, and from which of all true ones on they are.
constexpr int items = 4;
__global__ void count_true(const uint8_t* mask, int64_t n, int64_t chunk, int64_t* counts) {
  __shared__ int64_t shared[33];
  const int64_t end = min_of(n, (blockIdx.x + 1) * chunk);
  int64_t count = 0;
  for (int64_t i = blockIdx.x * chunk + threadIdx.x; i < end; i += threads) count += mask[i];
  count = block_reduce(count, shared, Plus{});
  if (threadIdx.x == 0) counts[blockIdx.x] = count;
}
struct Sizes {
  int rank = 0;
  bool narrow = true;
  int64_t size[Shape::max_rank] = {};
  Divider divider[Shape::max_rank];
};
// y (all that are true, rank)
__global__ void list_true(const uint8_t* mask, int64_t n, int64_t chunk, const int64_t* counts, const __grid_constant__ Sizes sizes,
                          int64_t* y) {
  __shared__ int64_t shared[33];
  __shared__ int totals[threads / 32];
  int64_t before = 0;
  for (int64_t c = threadIdx.x; c < blockIdx.x; c += threads) before += counts[c];
  before = block_reduce(before, shared, Plus{});
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  const int64_t end = min_of(n, (blockIdx.x + 1) * chunk);
  for (int64_t from = blockIdx.x * chunk; from < end; from += threads * items) {
    const int64_t first = from + int64_t(threadIdx.x) * items;
    int own = 0;
    for (int j = 0; j < items; ++j) own += first + j < end ? int(mask[first + j]) : 0;
    int upto = own;
    for (int d = 1; d < 32; d *= 2) {
      const int other = __shfl_up_sync(all_lanes, upto, unsigned(d));
      if (lane >= d) upto += other;
    }
    if (lane == 31) totals[warp] = upto;
    __syncthreads();
    int64_t row = before + upto - own;
    for (int w = 0; w < threads / 32; ++w) {
      if (w < warp) row += totals[w];
      before += totals[w];
    }
    __syncthreads();  // before the next totals
    if (own)
      for (int j = 0; j < items; ++j) {
        int64_t i = first + j;
        if (i >= end || !mask[i]) continue;
        int64_t* const to = y + row++ * sizes.rank;
#pragma unroll 1
        for (int d = sizes.rank - 1; d > 0; --d) {
          const int64_t next = sizes.narrow ? int64_t(sizes.divider[d].quotient(uint32_t(i))) : i / sizes.size[d];
          to[d] = i - next * sizes.size[d];
          i = next;
        }
        to[0] = i;
      }
  }
}

}  // namespace

// x (outer, size, inner), index (k), y (outer, k, inner)
void index_select(const char* op, const Tensor& x, int dim, const Tensor& index, Tensor& y) {
  const Around in(x.shape(), dim);
  if (y.numel() == 0) return;
  const int64_t k = index.numel(), bytes = in.inner * int64_t(size_of(x.dtype()));
  const void* const from = data_bytes(x);
  void* const to = data_bytes(y);
  const size_t unit = unit_of(bytes, from, to);
  const Rows rows(in.outer, k, bytes / int64_t(unit));
  const auto kernel = with_unit(unit, [](auto u) { return select_rows<decltype(u)>; });
  launch(kernel, rows.grid, rows.block, 0, from, IndexValues(index), in.outer, k, bytes / int64_t(unit), Range{faults(), op, in.size}, to);
}

// index (k), source (outer, k, inner), y (outer, size, inner): y[:, index[j]] is joined with source[:, j]
void index_put(const char* op, PutKind kind, const Tensor& index, const Tensor& source, int dim, Tensor& y) {
  const Around out(y.shape(), dim);
  Dims<> base;
  base.add(index.numel(), 0);
  put_all(kind, index, base, 1, {faults(), op, out.size}, source, out.outer, out.size, out.inner, y);
}

// index, y (outer, k, inner) lie inside x (outer, size, inner) except along dim: y[o, j, i] = x[o, index[o, j, i], i]
void gather(const char* op, const Tensor& x, int dim, const Tensor& index, Tensor& y) {
  const Around in(x.shape(), dim);
  const int64_t n = y.numel();
  const auto kernel = with_unit(size_of(x.dtype()), [](auto u) { return gather_elements<decltype(u)>; });
  if (n > 0)
    launch(kernel, blocks_for(n), threads, 0, data_bytes(x), IndexValues(index), n, without_dim(index.shape(), x.shape(), dim), in.inner,
           Range{faults(), op, in.size}, data_bytes(y));
}

// index, source (outer, k, inner) lie inside y (outer, size, inner) except along dim: y[o, index[o, j, i], i] is joined with
// source[o, j, i]
void scatter(const char* op, PutKind kind, const Tensor& index, const Tensor& source, int dim, Tensor& y) {
  const Around out(y.shape(), dim);
  put_all(kind, index, without_dim(index.shape(), y.shape(), dim), out.inner, {faults(), op, out.size}, source, 1, y.numel(), 1, y);
}

void flat_positions(const std::vector<Tensor>& indices, const Shape& sizes, const Shape& dims, Tensor& y) {
  for (int k = 0; k < sizes.rank(); ++k) {
    const Tensor& index = indices[size_t(k)];
    Dims<2> at;
    for (int d = 0; d < y.dim(); ++d) at.add(y.shape()[d], index.strides()[d], y.strides()[d]);
    if (at.count > 0)
      launch(append_positions, blocks_for(at.count), threads, 0, IndexValues(index), k == 0, at, sizes[k], dims[k], faults(),
             data<int64_t>(y));
  }
}

void nonzero(const Tensor& mask, Tensor& y) {
  const int64_t n = mask.numel(), tile = threads * items;
  if (y.numel() == 0) return;
  const int64_t chunk = max_of(4 * tile, ((n + 1023) / 1024 + tile - 1) / tile * tile), chunks = (n + chunk - 1) / chunk;
  Sizes sizes;
  sizes.rank = mask.dim();
  sizes.narrow = n < int64_t{1} << 31;
  for (int d = 0; d < sizes.rank; ++d) {
    sizes.size[d] = mask.shape()[d];
    sizes.divider[d] = Divider(sizes.narrow ? uint32_t(sizes.size[d]) : 1);
  }
  const Scratch<int64_t> counts(chunks);
  launch(count_true, dim3(unsigned(chunks)), threads, 0, data<uint8_t>(mask), n, chunk, static_cast<int64_t*>(counts));
  launch(list_true, dim3(unsigned(chunks)), threads, 0, data<uint8_t>(mask), n, chunk, static_cast<int64_t*>(counts), sizes,
         data<int64_t>(y));
}

}  // namespace retape::cuda
