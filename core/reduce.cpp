// Reductions over any dims. The tree is fixed by shape: runs of elements go into lanes, blocks of runs into partial results, and
// those are combined in order, so the number of threads does not matter.
#include <retape/core/elementwise.h>

namespace retape::RETAPE_LEVEL {
namespace {

template <class T> struct Sum {
  static RETAPE_INLINE T start() { return T(0); }
  static RETAPE_INLINE T join(T a, T b) { return functor::Add::value(a, b); }
};
template <class T> struct Product {
  static RETAPE_INLINE T start() { return T(1); }
  static RETAPE_INLINE T join(T a, T b) { return functor::Mul::value(a, b); }
};
template <class T> RETAPE_INLINE T lowest() {
  if constexpr (std::is_floating_point_v<T>) return -T(__builtin_inf());
  else if constexpr (sizeof(T) == 1) return T(0);
  else return T(T(1) << (sizeof(T) * 8 - 1));
}
template <class T> RETAPE_INLINE T highest() {
  if constexpr (std::is_floating_point_v<T>) return T(__builtin_inf());
  else return T(~lowest<T>());
}
template <class T> struct Max {  // nan wins
  static RETAPE_INLINE T start() { return lowest<T>(); }
  static RETAPE_INLINE T join(T a, T b) { return functor::Maximum::value(a, b); }
};
template <class T> struct Min {
  static RETAPE_INLINE T start() { return highest<T>(); }
  static RETAPE_INLINE T join(T a, T b) { return functor::Minimum::value(a, b); }
};

constexpr int64_t block = 4096;       // elements whose result is one partial
constexpr int64_t row_block = 256;    // rows whose result is one partial
constexpr int64_t arg_columns = 256;  // columns whose extremes are looked for together
constexpr int64_t columns = 2048;     // columns that are reduced together: long runs of memory, sums that stay in the first cache

// Dims of one kind (kept or reduced), merged where strides allow.
struct Dims {
  int rank = 0;
  int64_t count = 1, size[Shape::max_rank], stride[Shape::max_rank];
  RETAPE_INLINE void add(int64_t n, int64_t s) {
    count *= n;
    if (n == 1) return;
    if (rank && stride[rank - 1] == s * n) {
      size[rank - 1] *= n;
      stride[rank - 1] = s;
    } else {
      size[rank] = n;
      stride[rank++] = s;
    }
  }
  RETAPE_INLINE int64_t offset(int64_t i) const {
    int64_t at = 0;
    for (int d = rank; d-- > 0; i /= size[d]) at += i % size[d] * stride[d];
    return at;
  }
};

// A run of n elements, 32 lanes side by side so that a vector unit can hold them.
template <class R, class T, class A> RETAPE_INLINE A reduce_run(const T* x, int64_t n, int64_t stride) {
  A lanes[32];
  for (auto& lane : lanes) lane = R::start();
  int64_t i = 0;
  if (stride == 1) {
    for (; i + 32 <= n; i += 32) {
#pragma omp simd
      for (int k = 0; k < 32; ++k) lanes[k] = R::join(lanes[k], A(compute_t<T>(x[i + k])));
    }
  }
  for (; i < n; ++i) lanes[i % 32] = R::join(lanes[i % 32], A(compute_t<T>(x[i * stride])));
  for (int width = 16; width; width /= 2)
    for (int k = 0; k < width; ++k) lanes[k] = R::join(lanes[k], lanes[k + width]);
  return lanes[0];
}

// T is the element type, A that in which partial results are held, Out that of the result.
template <class T, class A, template <class> class R, class Out = T> void reduce_as(const Tensor& x, Tensor& y) {
  using RA = R<A>;
  Dims kept, reduced;
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
  const T* in = reinterpret_cast<const T*>(bytes_of(x));
  Out* out = reinterpret_cast<Out*>(bytes_of(y));
  if (kept.count == 0) return;
  if (reduced.count == 0) {
    for (int64_t i = 0; i < kept.count; ++i) out[i] = Out(compute_t<Out>(RA::start()));
    return;
  }

  if (kept.rank && kept.stride[kept.rank - 1] == 1 && kept.size[kept.rank - 1] > 1 && reduced.rank) {
    // Rows are added to rows: `width` neighbouring outputs at a time, in blocks of rows.
    const int64_t inner = kept.size[kept.rank - 1], outer = kept.count / inner, pieces = (inner + columns - 1) / columns;
    const int64_t rows = reduced.count, row_blocks = (rows + row_block - 1) / row_block;
    Scratch<A> partial(row_blocks > 1 ? outer * inner * row_blocks : 1);
    const int64_t work = min_of(rows, row_block) * min_of(inner, columns);
    parallel_for(outer * pieces * row_blocks, work >= 16384 ? 1 : 16384 / work, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t rb = task % row_blocks, piece = task / row_blocks % pieces, o = task / row_blocks / pieces;
        const int64_t from = piece * columns, width = min_of(columns, inner - from), last_row = min_of(rows, (rb + 1) * row_block);
        const T* base = in + kept.offset(o * inner) + from;
        A acc[columns];
        for (int64_t k = 0; k < width; ++k) acc[k] = RA::start();
        for (int64_t r = rb * row_block; r < last_row; ++r) {
          const T* row = base + reduced.offset(r);
#pragma omp simd
          for (int64_t k = 0; k < width; ++k) acc[k] = RA::join(acc[k], A(compute_t<T>(row[k])));
        }
        if (row_blocks > 1) {
          A* to = partial + (o * row_blocks + rb) * inner + from;
          for (int64_t k = 0; k < width; ++k) to[k] = acc[k];
        } else {
          Out* to = out + o * inner + from;
          for (int64_t k = 0; k < width; ++k) to[k] = Out(compute_t<Out>(acc[k]));
        }
      }
    });
    if (row_blocks > 1)
      for (int64_t o = 0; o < outer; ++o)
        for (int64_t k = 0; k < inner; ++k) {
          A acc = RA::start();
          for (int64_t rb = 0; rb < row_blocks; ++rb) acc = RA::join(acc, partial[(o * row_blocks + rb) * inner + k]);
          out[o * inner + k] = Out(compute_t<Out>(acc));
        }
    return;
  }

  // Every output is one reduction of its own, in blocks of elements.
  const int64_t run = reduced.rank ? reduced.size[reduced.rank - 1] : 1, runs = reduced.count / run;
  const int64_t stride = reduced.rank ? reduced.stride[reduced.rank - 1] : 1;
  const int64_t run_blocks = (run + block - 1) / block, blocks = runs * run_blocks;
  if (kept.count == 1 && blocks > 1) {
    Scratch<A> partial(blocks);
    parallel_for(blocks, run >= block ? 4 : 4 * block / run, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) {
        const int64_t from = b % run_blocks * block;
        partial[b] = reduce_run<RA, T, A>(in + reduced.offset(b / run_blocks * run) + from * stride, min_of(block, run - from), stride);
      }
    });
    A acc = RA::start();
    for (int64_t b = 0; b < blocks; ++b) acc = RA::join(acc, partial[b]);
    out[0] = Out(compute_t<Out>(acc));
    return;
  }
  parallel_for(kept.count, row_grain(reduced.count), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T* base = in + kept.offset(i);
      A acc = RA::start();
      for (int64_t b = 0; b < blocks; ++b) {
        const int64_t from = b % run_blocks * block;
        acc = RA::join(
            acc, reduce_run<RA, T, A>(base + reduced.offset(b / run_blocks * run) + from * stride, min_of(block, run - from), stride));
      }
      out[i] = Out(compute_t<Out>(acc));
    }
  });
}

template <class T, class A> RETAPE_INLINE void reduce_typed(ReduceKind op, const Tensor& x, Tensor& y) {
  switch (op) {
    case ReduceKind::sum: return reduce_as<T, A, Sum>(x, y);
    case ReduceKind::prod: return reduce_as<T, A, Product>(x, y);
    case ReduceKind::max: return reduce_as<T, A, Max>(x, y);
    case ReduceKind::min: return reduce_as<T, A, Min>(x, y);
  }
}

}  // namespace

void reduce(ReduceKind op, const Tensor& x, Tensor& y) {
  if (x.dtype() != y.dtype()) {  // a sum of integers
    if (x.dtype() == DType::i32) return reduce_as<int32_t, int64_t, Sum, int64_t>(x, y);
    return reduce_as<uint8_t, int64_t, Sum, int64_t>(x, y);
  }
  switch (x.dtype()) {
    case DType::f64: return reduce_typed<double, double>(op, x, y);
    case DType::f32: return reduce_typed<float, float>(op, x, y);
    case DType::f16: return reduce_typed<f16, float>(op, x, y);
    case DType::bf16: return reduce_typed<bf16, float>(op, x, y);
    case DType::i64: return reduce_typed<int64_t, int64_t>(op, x, y);
    case DType::i32: return reduce_typed<int32_t, int32_t>(op, x, y);
    case DType::u8:
    case DType::boolean: return reduce_typed<uint8_t, uint8_t>(op, x, y);
  }
}

namespace {

// The first position of the extreme of n elements, the first nan if there is one. First the extreme itself, in vector lanes; then
// where it stands.
template <class R, class T> int64_t find_extreme(const T* x, int64_t n, int64_t stride) {
  using C = compute_t<T>;
  const C extreme = reduce_run<R, T, C>(x, n, stride);
  const auto is_it = [&](int64_t i) {
    const C v = C(x[i * stride]);
    return int(v == extreme) | int(v != v);
  };
  int64_t from = 0;
  const auto skip = [&]<int width>(std::integer_sequence<int, width>) {  // a loop that may stop is not vectorised: `width` at a time
    for (; stride == 1 && from + width <= n; from += width) {
      int found = 0;
#pragma omp simd reduction(| : found)
      for (int64_t i = 0; i < width; ++i) {
        const C v = C(x[from + i]);
        found |= int(v == extreme) | int(v != v);
      }
      if (found) return;
    }
  };
  skip(std::integer_sequence<int, 256>{});
  skip(std::integer_sequence<int, 16>{});
  for (int64_t i = from; i < n; ++i)
    if (is_it(i)) return i;
  return 0;
}
// The same for neighbouring lines at once, whose rows are `step` apart.
template <ArgKind op, class T> void find_extremes_of_columns(const T* x, int64_t n, int64_t step, int64_t width, int64_t* out) {
  using C = compute_t<T>;
  C best[arg_columns];
  int32_t at[arg_columns];
  for (int64_t k = 0; k < width; ++k) best[k] = C(x[k]), at[k] = 0;
  for (int64_t r = 1; r < n; ++r) {
    const T* row = x + r * step;
#pragma omp simd
    for (int64_t k = 0; k < width; ++k) {
      const C v = C(row[k]), b = best[k];
      const bool better = (b == b) & ((v != v) | (op == ArgKind::max ? v > b : v < b));
      best[k] = better ? v : b;
      at[k] = better ? int32_t(r) : at[k];
    }
  }
  for (int64_t k = 0; k < width; ++k) out[k] = at[k];
}
// Along lines of n elements `step` apart, of which there is one for each of `kept`.
template <ArgKind op, class T> void find_extremes(const T* in, int64_t n, int64_t step, const Dims& kept, int64_t* out) {
  using C = compute_t<T>;
  using R = std::conditional_t<op == ArgKind::max, Max<C>, Min<C>>;
  const int64_t pieces = (n + 16 * block - 1) / (16 * block);
  if (kept.count == 1 && pieces > 1) {  // one long line: the first piece that holds the extreme of all
    Scratch<int64_t> at(pieces);
    parallel_for(pieces, 1, [&](int64_t p, int64_t) {
      const int64_t from = p * 16 * block;
      at[p] = from + find_extreme<R>(in + from * step, min_of(16 * block, n - from), step);
    });
    int64_t best = at[0];
    for (int64_t p = 1; p < pieces; ++p) {
      const C b = C(in[best * step]), v = C(in[at[p] * step]);
      if (b == b && (v != v || (v != b && R::join(b, v) == v))) best = at[p];
    }
    out[0] = best;
    return;
  }
  const int64_t inner = kept.rank ? kept.size[kept.rank - 1] : 1;
  if (step != 1 && inner > 1 && kept.stride[kept.rank - 1] == 1 && n <= INT32_MAX) {
    const int64_t parts = (inner + arg_columns - 1) / arg_columns, work = n * min_of(inner, arg_columns);
    parallel_for(kept.count / inner * parts, work >= 16384 ? 1 : 16384 / work, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t from = task / parts * inner + task % parts * arg_columns;
        find_extremes_of_columns<op>(in + kept.offset(from), n, step, min_of(arg_columns, inner - task % parts * arg_columns), out + from);
      }
    });
    return;
  }
  parallel_for(kept.count, row_grain(n), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) out[i] = find_extreme<R>(in + kept.offset(i), n, step);
  });
}

}  // namespace

void arg_reduce(ArgKind op, const Tensor& x, int dim, Tensor& y) {
  Dims kept;
  for (int d = 0; d < x.dim(); ++d)
    if (d != dim) kept.add(x.shape()[d], x.strides()[d]);
  const int64_t n = x.shape()[dim], step = x.strides()[dim];
  int64_t* out = y.mutable_data<int64_t>();
  with_any(x.dtype(), [&](auto zero) {
    using T = std::conditional_t<std::is_same_v<decltype(zero), bool>, uint8_t, decltype(zero)>;
    const T* in = reinterpret_cast<const T*>(bytes_of(x));
    if (op == ArgKind::max) find_extremes<ArgKind::max>(in, n, step, kept, out);
    else find_extremes<ArgKind::min>(in, n, step, kept, out);
  });
}

}  // namespace retape::RETAPE_LEVEL
