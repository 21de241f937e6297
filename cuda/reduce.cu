// Reductions over any dims. A group of threads, or a column of a block, has one output; where outputs are few and inputs many, inputs
// are cut into pieces, and a second launch joins what the pieces gave. All cuts and trees follow from the shape alone.
#include <retape/cuda/dims.h>

namespace retape::cuda {
namespace {

constexpr int threads = 256;
constexpr int64_t enough_blocks = 1024, most_pieces = 1024;

template <class T> RETAPE_HD T lowest() {
  if constexpr (std::is_floating_point_v<T>) return -T(__builtin_inf());
  else if constexpr (sizeof(T) == 1) return T(0);
  else return T(T(1) << (sizeof(T) * 8 - 1));
}
template <class T> RETAPE_HD T highest() {
  if constexpr (std::is_floating_point_v<T>) return T(__builtin_inf());
  else return T(~lowest<T>());
}
// What results are held in until they are stored. What wraps in 32 bits wraps in 8.
template <class T> using held_t = std::conditional_t<sizeof(compute_t<T>) == 1, int32_t, compute_t<T>>;

// How values of Out are joined. Sums have kernels of their own, since they are what training does most; the others share one.
template <class Out, bool sum> struct Join {
  using A = held_t<Out>;
  ReduceKind op;
  __device__ __forceinline__ A start() const {
    if constexpr (sum) return A(0);
    else
      return op == ReduceKind::max   ? A(lowest<compute_t<Out>>())
             : op == ReduceKind::min ? A(highest<compute_t<Out>>())
                                     : A(op == ReduceKind::prod);
  }
  __device__ __forceinline__ A operator()(A a, A b) const {
    if constexpr (sum) return functor::Add::value(a, b);
    else {
      switch (op) {
        case ReduceKind::sum: return functor::Add::value(a, b);
        case ReduceKind::prod: return functor::Mul::value(a, b);
        case ReduceKind::max: return functor::Maximum::value(a, b);
        case ReduceKind::min: return functor::Minimum::value(a, b);
      }
      return a;
    }
  }
};

constexpr int elements_of(size_t bytes) { return bytes == 1 ? 8 : int(16 / bytes); }  // in a pack

// How one input of many elements is cut: into `pieces` of `piece` units, the last one shorter.
struct Pieces {
  int64_t piece = 1, pieces = 1;
  Pieces() = default;
  Pieces(int64_t count, int64_t wanted, int64_t multiple) {
    wanted = wanted < 1 ? 1 : min_of(wanted, most_pieces);
    piece = (count + wanted - 1) / wanted;
    piece = max_of((piece + multiple - 1) / multiple * multiple, int64_t{1});
    pieces = max_of((count + piece - 1) / piece, int64_t{1});
  }
};
struct Plan {
  ReduceKind op = ReduceKind::sum;
  Dims<> kept, reduced;  // by columns: kept without the columns; by rows: reduced in packs if `packed`
  bool packed = false;
  Pieces cut;
  int64_t columns = 0, tiles = 0;  // by columns
  int tail = 0, group = 0;         // by rows: elements that are in no pack; threads of one output
  int bx = 0, by = 0;              // by columns: the block
};

// One signature for all types, so that there is one launch to compile. Results go to `partial` (outputs, pieces) if there is one.
using Kernel = void (*)(const void* x, Plan plan, void* partial, void* y);

// `group` threads (at most 32, or the block) have one piece of one output.
template <class T, class Out, bool sum>
__global__ void reduce_rows(const void* x, const __grid_constant__ Plan plan, void* partial, void* y) {
  using A = held_t<Out>;
  constexpr int pack = elements_of(sizeof(T)), lanes = sum ? pack : 1;
  using Packed = Pack<T, pack>;
  __shared__ A shared[33];
  const Join<Out, sum> join{plan.op};
  const int group = plan.group, per_block = threads / group, lane = int(threadIdx.x) % group;
  const int64_t pieces = plan.cut.pieces, tasks = plan.kept.count * pieces;
  for (int64_t first = int64_t(blockIdx.x) * per_block; first < tasks; first += int64_t(gridDim.x) * per_block) {
    const int64_t task = first + int(threadIdx.x) / group;
    A acc[lanes];
    for (int j = 0; j < lanes; ++j) acc[j] = join.start();
    if (task < tasks) {
      const int64_t output = task / pieces, piece = task - output * pieces;
      const int64_t begin = piece * plan.cut.piece, end = min_of(plan.reduced.count, begin + plan.cut.piece);
      const T* in = static_cast<const T*>(x) + plan.kept.offset(output);
      if (plan.packed) {
#pragma unroll(sum ? 4 : 1)
        for (int64_t i = begin + lane; i < end; i += group) {
          const Packed v = *reinterpret_cast<const Packed*>(in + plan.reduced.offset(i));
          for (int j = 0; j < pack; ++j) acc[j % lanes] = join(acc[j % lanes], A(compute_t<T>(v.at[j])));
        }
        in += plan.reduced.count * pack;
        if (piece == pieces - 1 && lane < plan.tail) acc[0] = join(acc[0], A(compute_t<T>(in[lane])));
      } else {
#pragma unroll(sum ? 4 : 1)
        for (int64_t i = begin + lane; i < end; i += group) acc[0] = join(acc[0], A(compute_t<T>(in[plan.reduced.offset(i)])));
      }
    }
    for (int width = lanes / 2; width; width /= 2)
      for (int j = 0; j < width; ++j) acc[j] = join(acc[j], acc[j + width]);
    A all = acc[0];
#pragma unroll 1
    for (int d = min_of(group, 32) / 2; d; d /= 2) all = join(all, A(__shfl_xor_sync(all_lanes, all, d)));
    if (group == threads) {
      if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = all;
      __syncthreads();
      all = join.start();
      if (threadIdx.x == 0)
#pragma unroll 1
        for (int w = 0; w < threads / 32; ++w) all = join(all, shared[w]);
      __syncthreads();
    }
    if (lane == 0 && task < tasks) {
      if (partial) static_cast<A*>(partial)[task] = all;
      else static_cast<Out*>(y)[task] = Out(compute_t<Out>(all));
    }
  }
}

// The densest dim of x is kept: threads of a block lie along it (x) and across it (y). A thread has `pack` columns of some rows, side by
// side if packed, else blockDim.x apart.
template <class T, class Out, bool sum>
__global__ void reduce_columns(const void* x, const __grid_constant__ Plan plan, void* partial, void* y) {
  using A = held_t<Out>;
  constexpr int pack = elements_of(sizeof(T));
  using Packed = Pack<T, pack>;
  RETAPE_DYNAMIC_SHARED(A, shared);  // (blockDim.y, pack, blockDim.x)
  const Join<Out, sum> join{plan.op};
  const int tx = int(threadIdx.x), ty = int(threadIdx.y), bx = plan.bx, by = plan.by;
  const int64_t pieces = plan.cut.pieces, columns = plan.columns;
  A* const own = shared + ty * pack * bx + tx;
  for (int64_t task = blockIdx.x; task < plan.kept.count * plan.tiles * pieces; task += gridDim.x) {
    const int64_t tile = task % plan.tiles, piece = task / plan.tiles % pieces, o = task / plan.tiles / pieces;
    const int64_t begin = piece * plan.cut.piece, end = min_of(plan.reduced.count, begin + plan.cut.piece), from = tile * bx * pack;
    const int64_t column = from + (plan.packed ? tx * pack : tx), step = plan.packed ? 1 : bx;
    const T* in = static_cast<const T*>(x) + plan.kept.offset(o) + column;
    A acc[pack];
    for (int j = 0; j < pack; ++j) acc[j] = join.start();
    if (plan.packed && column < columns) {
#pragma unroll(sum ? 4 : 1)
      for (int64_t r = begin + ty; r < end; r += by) {
        const Packed v = *reinterpret_cast<const Packed*>(in + plan.reduced.offset(r));
        for (int j = 0; j < pack; ++j) acc[j] = join(acc[j], A(compute_t<T>(v.at[j])));
      }
    } else if (!plan.packed) {
      for (int64_t r = begin + ty; r < end; r += by) {
        const T* row = in + plan.reduced.offset(r);
        for (int j = 0; j < pack; ++j)
          if (column + j * step < columns) acc[j] = join(acc[j], A(compute_t<T>(row[j * step])));
      }
    }
    __syncthreads();  // the last task's sums have been read
    for (int j = 0; j < pack; ++j) own[j * bx] = acc[j];
    for (int height = by / 2; height; height /= 2) {
      __syncthreads();
      if (ty < height)
#pragma unroll 1
        for (int j = 0; j < pack; ++j) own[j * bx] = join(own[j * bx], own[(height * pack + j) * bx]);
    }
    if (ty == 0) {
#pragma unroll 1
      for (int j = 0; j < pack; ++j) {
        const int64_t c = column + j * step, output = o * columns + c;
        if (c >= columns) continue;
        if (partial) static_cast<A*>(partial)[output * pieces + piece] = own[j * bx];
        else static_cast<Out*>(y)[output] = Out(compute_t<Out>(own[j * bx]));
      }
    }
  }
}

// partial (outputs, pieces): a warp an output
template <class Out, bool sum> __global__ void join_partial(ReduceKind op, const void* partial, int64_t outputs, int64_t pieces, void* y) {
  using A = held_t<Out>;
  const Join<Out, sum> join{op};
  const int lane = int(threadIdx.x) % 32;
  for (int64_t output = thread_index() / 32; output < outputs; output += thread_count() / 32) {
    A all = join.start();
    for (int64_t p = lane; p < pieces; p += 32) all = join(all, static_cast<const A*>(partial)[output * pieces + p]);
#pragma unroll 1
    for (int d = 16; d; d /= 2) all = join(all, A(__shfl_xor_sync(all_lanes, all, d)));
    if (lane == 0) static_cast<Out*>(y)[output] = Out(compute_t<Out>(all));
  }
}

struct Kernels {
  size_t bytes, held_bytes;  // of an element of x; of what it is held in
  Kernel rows, columns;
  void (*partial)(ReduceKind op, const void* partial, int64_t outputs, int64_t pieces, void* y);
};
template <class T, class Out, bool sum> Kernels kernels_of() {
  return {sizeof(T), sizeof(held_t<Out>), reduce_rows<T, Out, sum>, reduce_columns<T, Out, sum>, join_partial<Out, sum>};
}
template <class T> Kernels of_sums_and_others(ReduceKind op) {
  return op == ReduceKind::sum ? kernels_of<T, T, true>() : kernels_of<T, T, false>();
}

// `dims` without its last dim, which is (size, stride) instead.
Dims<> with_last(const Dims<>& dims, int64_t size, int64_t stride) {
  Dims<> out;
  for (int d = 0; d + 1 < dims.rank; ++d) out.add(dims.size[d], dims.stride[d][0]);
  out.add(size, stride);
  return out;
}

void run(ReduceKind op, const Kernels& kernels, const Tensor& x, Tensor& y) {
  Plan plan;
  plan.op = op;
  Dims<>&kept = plan.kept, &reduced = plan.reduced;
  bool done[Shape::max_rank] = {};
  for (int d = 0; d < x.dim(); ++d) {
    done[d] = y.shape()[d] == x.shape()[d];
    if (done[d]) kept.add(x.shape()[d], x.strides()[d]);
  }
  for (int left = x.dim(); left > 0; --left) {  // the reduced ones as they lie in memory, the densest last
    int next = -1;
    for (int d = 0; d < x.dim(); ++d)
      if (!done[d] && (next < 0 || x.strides()[d] > x.strides()[next])) next = d;
    if (next < 0) break;
    done[next] = true;
    reduced.add(x.shape()[next], x.strides()[next]);
  }
  const int64_t outputs = kept.count;
  if (outputs == 0) return;

  const int pack = elements_of(kernels.bytes), last = kept.rank - 1, inner = reduced.rank - 1;
  const void* const in = data_bytes(x);
  void* const out = data_bytes(y);
  const auto aligned = [&](const Dims<>& dims, int rank) {
    bool all = reinterpret_cast<uintptr_t>(in) % (size_t(pack) * kernels.bytes) == 0;
    for (int d = 0; d < rank; ++d) all = all && dims.stride[d][0] % pack == 0;
    return all;
  };
  const bool by_columns = last >= 0 && kept.stride[last][0] == 1 && inner >= 0 && reduced.count > 0;
  int64_t blocks = 0;
  if (by_columns) {
    plan.columns = kept.size[last];
    plan.packed = plan.columns % pack == 0 && aligned(kept, last) && aligned(reduced, reduced.rank);
    kept = with_last(kept, 1, 0);
    plan.bx = power_of_two_from((plan.columns + pack - 1) / pack, 32), plan.by = threads / plan.bx;
    plan.tiles = (plan.columns + plan.bx * pack - 1) / (plan.bx * pack);
    blocks = kept.count * plan.tiles;
    plan.cut = Pieces(reduced.count, min_of(enough_blocks / blocks, reduced.count / (8 * plan.by)), 1);
    blocks *= plan.cut.pieces;
  } else {
    if (inner >= 0 && reduced.stride[inner][0] == 1 && (inner == 0 || reduced.size[inner] % pack == 0) && aligned(kept, kept.rank) &&
        aligned(reduced, inner)) {
      plan.packed = true;
      plan.tail = int(reduced.size[inner] % pack);
      reduced = with_last(reduced, reduced.size[inner] / pack, pack);
    }
    plan.group = reduced.count > threads ? threads : power_of_two_from(max_of((reduced.count + 1) / 2, int64_t(plan.tail)), 32);
    if (outputs < enough_blocks / 2 && reduced.count >= 8 * threads)
      plan.cut = Pieces(reduced.count, min_of(enough_blocks / outputs, reduced.count / (4 * threads)), threads);
    else plan.cut = Pieces(reduced.count, 1, 1);
    blocks = (outputs * plan.cut.pieces * plan.group + threads - 1) / threads;
  }
  const auto pass = [&](std::byte* partial) {
    const dim3 block = by_columns ? dim3(unsigned(plan.bx), unsigned(plan.by)) : dim3(threads);
    const size_t shared_bytes = by_columns ? size_t(threads * pack) * kernels.held_bytes : 0;
    launch(by_columns ? kernels.columns : kernels.rows, blocks_for(blocks, 1), block, shared_bytes, in, plan, partial, out);
  };
  if (plan.cut.pieces == 1) return pass(nullptr);
  const Scratch<std::byte> partial(outputs * plan.cut.pieces * int64_t(kernels.held_bytes));
  pass(partial);
  launch(kernels.partial, blocks_for(outputs * 32, threads), threads, 0, op, static_cast<std::byte*>(partial), outputs, plan.cut.pieces,
         out);
}

}  // namespace

void reduce(ReduceKind op, const Tensor& x, Tensor& y) {
  const auto kernels = [&]() -> Kernels {
    if (x.dtype() != y.dtype())  // a sum of integers
      return x.dtype() == DType::i32 ? kernels_of<int32_t, int64_t, true>() : kernels_of<uint8_t, int64_t, true>();
    switch (x.dtype()) {
      case DType::f64: return of_sums_and_others<double>(op);
      case DType::f32: return of_sums_and_others<float>(op);
      case DType::f16: return of_sums_and_others<f16>(op);
      case DType::bf16: return of_sums_and_others<bf16>(op);
      case DType::i64: return kernels_of<int64_t, int64_t, false>();
      case DType::i32: return kernels_of<int32_t, int32_t, false>();
      case DType::u8:
      case DType::boolean: break;
    }
    return kernels_of<uint8_t, uint8_t, false>();
  };
  run(op, kernels(), x, y);
}

namespace {

// Where the extremes of lines of n elements, `step` apart, stand: the first of equals, the first nan if there is one. `lanes` threads
// have one piece of one line; lines that are neighbours in memory go to neighbouring threads if `across`. With `candidates` (lines, n),
// element i of a line is where that says.
template <class T>
__global__ void find_extremes(const void* x, const __grid_constant__ Dims<> lines, int64_t n, int64_t step, bool largest, int lanes,
                              bool across, Pieces cut, const int64_t* candidates, int64_t* index) {
  using C = compute_t<T>;
  __shared__ C values[threads];
  __shared__ int64_t places[threads];
  const auto better = [&](C v, C best) { return best == best && (v != v || (largest ? v > best : v < best)); };
  const int tid = int(threadIdx.x), per_block = threads / lanes;
  const int slot = across ? tid % per_block : tid / lanes, lane = across ? tid / per_block : tid % lanes, next = across ? per_block : 1;
  const int64_t tasks = lines.count * cut.pieces;
  for (int64_t first = int64_t(blockIdx.x) * per_block; first < tasks; first += int64_t(gridDim.x) * per_block) {
    const int64_t task = first + slot, piece = across ? task / lines.count : task % cut.pieces;
    const int64_t line = across ? task - piece * lines.count : task / cut.pieces;
    C best = C(0);
    int64_t at = -1;
    if (task < tasks) {
      const T* in = static_cast<const T*>(x) + lines.offset(line);
      const int64_t end = min_of(n, (piece + 1) * cut.piece);
#pragma unroll 4
      for (int64_t i = piece * cut.piece + lane; i < end; i += lanes) {
        const int64_t here = candidates ? candidates[line * n + i] : i;
        const C v = C(in[here * step]);
        if (at < 0 || better(v, best)) best = v, at = here;
      }
    }
    values[tid] = best, places[tid] = at;
    for (int width = lanes / 2; width; width /= 2) {
      __syncthreads();
      if (lane < width) {
        const C v = values[tid + width * next];
        const int64_t here = places[tid + width * next];
        if (here >= 0 && (at < 0 || better(v, best) || (here < at && !better(best, v)))) {
          best = v, at = here;
          values[tid] = best, places[tid] = at;
        }
      }
    }
    if (lane == 0 && task < tasks) index[line * cut.pieces + piece] = at;
    __syncthreads();  // before the next task's values
  }
}

}  // namespace

void arg_reduce(ArgKind op, const Tensor& x, int dim, Tensor& y) {
  Dims<> lines;
  for (int d = 0; d < x.dim(); ++d)
    if (d != dim) lines.add(x.shape()[d], x.strides()[d]);
  const int64_t n = x.shape()[dim], step = x.strides()[dim];
  if (lines.count == 0) return;
  const bool across = step != 1 && lines.rank && lines.stride[lines.rank - 1][0] == 1;
  const int lanes = across ? threads / power_of_two_from(lines.count, n < 64 ? threads : 32) : power_of_two_from((n + 3) / 4, threads);
  const int64_t blocks = (lines.count * lanes + threads - 1) / threads;
  const Pieces cut(n, blocks < enough_blocks / 2 ? min_of(enough_blocks / blocks, n / (8 * lanes)) : 1, 1);
  const auto kernel = [&]() -> decltype(&find_extremes<float>) {
    switch (x.dtype()) {
      case DType::f64: return find_extremes<double>;
      case DType::f32: return find_extremes<float>;
      case DType::f16: return find_extremes<f16>;
      case DType::bf16: return find_extremes<bf16>;
      case DType::i64: return find_extremes<int64_t>;
      case DType::i32: return find_extremes<int32_t>;
      case DType::u8:
      case DType::boolean: break;
    }
    return find_extremes<uint8_t>;
  };
  const void* const in = data_bytes(x);
  const auto find = [&](int64_t count, int per_line, bool neighbours, const Pieces& parts, const int64_t* candidates, int64_t* index) {
    launch(kernel(), blocks_for(lines.count * parts.pieces * per_line, threads), threads, 0, in, lines, count, step, op == ArgKind::max,
           per_line, neighbours, parts, candidates, index);
  };
  if (cut.pieces == 1) return find(n, lanes, across, cut, nullptr, data<int64_t>(y));
  const Scratch<int64_t> candidates(lines.count * cut.pieces);
  find(n, lanes, across, cut, nullptr, candidates);
  find(cut.pieces, power_of_two_from(cut.pieces, threads), false, Pieces(cut.pieces, 1, 1), candidates, data<int64_t>(y));
}

}  // namespace retape::cuda
