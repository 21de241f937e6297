// Reading and writing at positions given by an index tensor (i64 or i32). All index values are checked before any element is
// touched. What goes to one element goes there in the order of the index, from one thread, so that sums, and which of several
// values stays, do not depend on the number of threads.
#include <retape/core/elementwise.h>
#include <retape/core/sums.h>

namespace retape::RETAPE_LEVEL {
namespace {

template <class I> RETAPE_INLINE bool any_outside(const I* values, int64_t n, int64_t size) {
  int64_t outside = 0;
#pragma omp simd reduction(| : outside)
  for (int64_t i = 0; i < n; ++i) outside |= int64_t(uint64_t(values[i]) >= uint64_t(size));
  return outside;
}
// Throws for the first value outside [0, size), of which there is one.
template <class I> [[noreturn]] RETAPE_INLINE void throw_outside(const char* op, const I* values, int64_t size) {
  while (*values >= 0 && *values < size) ++values;
  detail::index_out_of_range(op, *values, size);
}
// Calls f with the values of an index tensor.
template <class F> RETAPE_INLINE void with_index(const Tensor& index, const F& f) {
  if (index.dtype() == DType::i32) f(index.data<int32_t>());
  else f(index.data<int64_t>());
}
// The values of an index tensor as int64_t, all in [0, size).
class Positions {
 public:
  // Values that are not checked here are checked before they are used.
  RETAPE_INLINE Positions(const char* op, const Tensor& index, int64_t size, bool check = true)
      : own_(index.dtype() == DType::i32 ? index.numel() : 0) {
    const int64_t n = index.numel();
    if (index.dtype() == DType::i32) {
      const int32_t* from = index.data<int32_t>();
      int64_t* to = own_;
      for (int64_t i = 0; i < n; ++i) to[i] = from[i];
      values_ = to;
    } else {
      values_ = index.data<int64_t>();
    }
    if (!check) return;
    int64_t wrong = 0;
    parallel_for(n, 65536, [&](int64_t begin, int64_t end) {
      if (any_outside(values_ + begin, end - begin, size)) __atomic_store_n(&wrong, int64_t{1}, __ATOMIC_RELAXED);
    });
    if (wrong) throw_outside(op, values_, size);
  }
  RETAPE_INLINE operator const int64_t*() const { return values_; }

 private:
  Scratch<int64_t> own_;
  const int64_t* values_;
};

// A contiguous tensor around one dim: (outer, size, inner).
struct Around {
  int64_t outer = 1, size = 1, inner = 1;
  RETAPE_INLINE Around(const Shape& shape, int dim) {
    for (int d = 0; d < shape.rank(); ++d) (d < dim ? outer : d == dim ? size : inner) *= shape[d];
  }
};

// Calls f(T{}) with an unsigned type of the dtype's size: for moving elements, only their size matters.
template <class F> RETAPE_INLINE void with_size(DType d, const F& f) {
  switch (size_of(d)) {
    case 1: return f(uint8_t{});
    case 2: return f(uint16_t{});
    case 4: return f(uint32_t{});
    default: return f(uint64_t{});
  }
}
template <class T> RETAPE_INLINE const T* raw(const Tensor& x) { return reinterpret_cast<const T*>(x->storage->data) + x.offset(); }
template <class T> RETAPE_INLINE T* raw_mutable(Tensor& x) {
  ++x->storage->version;
  return reinterpret_cast<T*>(x->storage->data) + x.offset();
}

// Offsets in `whole` of the elements of a smaller box: dims [from, to) of `part`, in row-major order. Null if they are 0, 1, 2, ...
class Offsets {
 public:
  RETAPE_INLINE Offsets(const Shape& part, const Shape& whole, int from, int to)
      : values_(plain(part, whole, from, to) ? 0 : count(part, from, to)) {
    if (plain(part, whole, from, to)) return;
    int64_t* p = values_;
    p_ = p;
    const int64_t n = count(part, from, to);
    for (int64_t i = 0; i < n; ++i) {
      int64_t rest = i, stride = 1, at = 0;
      for (int d = to; d-- > from; stride *= whole[d], rest /= part[d]) at += rest % part[d] * stride;
      p[i] = at;
    }
  }
  RETAPE_INLINE int64_t operator[](int64_t i) const { return p_ ? p_[i] : i; }

 private:
  static RETAPE_INLINE bool plain(const Shape& part, const Shape& whole, int from, int to) {
    for (int d = from + 1; d < to; ++d)
      if (part[d] != whole[d]) return false;
    return true;
  }
  static RETAPE_INLINE int64_t count(const Shape& part, int from, int to) {
    int64_t n = 1;
    for (int d = from; d < to; ++d) n *= part[d];
    return n;
  }
  Scratch<int64_t> values_;
  const int64_t* p_ = nullptr;
};

// The numbers 0 .. k-1 grouped by the position that index gives them, in order within each group (a counting sort).
class Groups {
 public:
  RETAPE_INLINE Groups(const int64_t* index, int64_t k, int64_t size) : ends_(size + 1), order_(k) {
    int64_t *const ends = ends_, *const order = order_;
    for (int64_t p = 0; p <= size; ++p) ends[p] = 0;
    for (int64_t j = 0; j < k; ++j) ++ends[index[j] + 1];
    for (int64_t p = 0; p < size; ++p) ends[p + 1] += ends[p];  // where group p begins; filling moves it to where it ends
    for (int64_t j = 0; j < k; ++j) order[ends[index[j]]++] = j;
  }
  RETAPE_INLINE const int64_t* begin(int64_t position) const { return order_ + (position ? ends_[position - 1] : 0); }
  RETAPE_INLINE const int64_t* end(int64_t position) const { return order_ + ends_[position]; }

 private:
  Scratch<int64_t> ends_, order_;
};

constexpr int64_t columns = 128;  // neighbouring elements that one task handles

template <PutKind> struct Join;
template <> struct Join<PutKind::add> : functor::Add {};
template <> struct Join<PutKind::multiply> : functor::Mul {};
template <> struct Join<PutKind::max> : functor::Maximum {};
template <> struct Join<PutKind::min> : functor::Minimum {};
// Calls f(Join{}, T{}) for a kind that is not `replace`, whose elements need no arithmetic.
template <class F> RETAPE_INLINE void with_join(PutKind kind, DType d, const F& f) {
  with_any(d, [&](auto zero) {
    switch (kind) {
      case PutKind::add: return f(Join<PutKind::add>{}, zero);
      case PutKind::multiply: return f(Join<PutKind::multiply>{}, zero);
      case PutKind::max: return f(Join<PutKind::max>{}, zero);
      case PutKind::min: return f(Join<PutKind::min>{}, zero);
      case PutKind::replace: return;
    }
  });
}

// y (n) is joined with the given rows of source, whose rows are `stride` apart
template <class J, class T> void join_rows(const T* source, const int64_t* begin, const int64_t* end, int64_t stride, int64_t n, T* y) {
  using C = compute_t<T>;
  C sum[columns];
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) sum[i] = C(y[i]);
  for (const int64_t* j = begin; j != end; ++j) {
    const T* row = source + *j * stride;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) sum[i] = J::value(sum[i], C(row[i]));
  }
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) put(y[i], sum[i]);
}

// Calls f(from, to, begin, end) for parts of rows of y (outer, size, inner) that the index names: the part's row in `source` is
// from + j * inner for each j in [begin, end), its place in y is `to`, in elements.
template <class F> RETAPE_INLINE void each_put(const Groups& groups, const Around& out, int64_t k, const F& f) {
  const int64_t inner = out.inner, size = out.size;
  // A row of y gets all that the index sends there. Where rows are few, threads share the columns of a row.
  const int64_t rows = out.outer * size, parts = rows < 64 ? (inner + columns - 1) / columns : 1, part = parts > 1 ? columns : inner;
  const double grain = 16384.0 * double(parts * rows) / (double(out.outer) * double(k) * double(inner));
  parallel_for(parts * rows, grain < 1 ? 1 : int64_t(grain), [&](int64_t begin, int64_t end) {
    int64_t outer = begin / parts / size, position = begin / parts % size, first = begin % parts * part;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t *const group = groups.begin(position), *const group_end = groups.end(position);
      if (group != group_end)
        for (int64_t c = first; c < min_of(inner, first + part); c += columns)
          f(outer * k * inner + c, (outer * size + position) * inner + c, min_of(columns, inner - c), group, group_end);
      if ((first += part) < inner) continue;
      first = 0;
      if (++position < size) continue;
      position = 0, ++outer;
    }
  });
}

// Calls f(target, source) for each element of the box, in the order of the index for each target. False if a position is not in the
// dim: the elements around it are then left out.
template <class F> RETAPE_INLINE bool each_scattered(const int64_t* positions, const Shape& part, const Shape& whole, int dim, const F& f) {
  const Around out(whole, dim), box(part, dim);
  const Offsets outer(part, whole, 0, dim), inner(part, whole, dim + 1, whole.rank());
  const int64_t pieces = (box.inner + columns - 1) / columns, work = box.size * min_of(columns, box.inner);
  int wrong = 0;
  parallel_for(box.outer * pieces, work >= 16384 ? 1 : 16384 / work, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t o = task / pieces, first = task % pieces * columns, last = min_of(box.inner, first + columns);
      const int64_t base = outer[o] * out.size * out.inner;
      const bool lines = box.inner == 1 && out.inner == 1;
      for (int64_t j = 0; j < (lines ? 1 : box.size); ++j) {
        const int64_t row = (o * box.size + j) * box.inner, from = lines ? row : row + first, to = lines ? row + box.size : row + last;
        if (any_outside(positions + from, to - from, out.size)) __atomic_store_n(&wrong, 1, __ATOMIC_RELAXED);
        else if (lines)
          for (int64_t i = from; i < to; ++i) f(base + positions[i], i);
        else
          for (int64_t i = first; i < last; ++i) f(base + positions[row + i] * out.inner + inner[i], row + i);
      }
    }
  });
  return !wrong;
}

// y = y * size + index, with negative indices counted from the end: what flat_positions() does for each dim.
struct Wrap {
  int64_t size;
  bool first;
  int* wrong;
};
template <class T> void wrap_loop(char* const* p, const int64_t* stride, int64_t n, const void* argument) {
  const Wrap& wrap = *static_cast<const Wrap*>(argument);
  const int64_t size = wrap.size, scale = wrap.first ? 0 : size;
  int64_t wrong = 0;
  for (int64_t i = 0; i < n; ++i) {
    int64_t v = *reinterpret_cast<const T*>(p[0] + i * stride[0]);
    v += v < 0 ? size : 0;
    wrong |= int64_t(uint64_t(v) >= uint64_t(size));
    int64_t& y = *reinterpret_cast<int64_t*>(p[1] + i * stride[1]);
    y = (scale ? y * scale : 0) + v;
  }
  if (wrong) __atomic_store_n(wrap.wrong, 1, __ATOMIC_RELAXED);
}
// Throws for the first value of index that is out of range.
template <class T> [[noreturn]] void throw_out_of_dim(const Tensor& index, int64_t size, int64_t dim) {
  const T* in = reinterpret_cast<const T*>(bytes_of(index));
  for (int64_t i = 0;; ++i) {
    int64_t rest = i, at = 0;
    for (int d = index.dim(); d-- > 0; rest /= index.shape()[d]) at += rest % index.shape()[d] * index.strides()[d];
    if (in[at] < -size || in[at] >= size) detail::index_out_of_dim(in[at], dim, size);
  }
}

}  // namespace

// x (outer, size, inner), index (k), y (outer, k, inner)
void index_select(const char* op, const Tensor& x, int dim, const Tensor& index, Tensor& y) {
  const Around in(x.shape(), dim);
  const Positions at(op, index, in.size);
  const int64_t k = index.numel(), inner = in.inner, size = in.size, grain = row_grain(inner);
  const int64_t* positions = at;
  with_size(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T* from = raw<T>(x);
    T* to = raw_mutable<T>(y);
    parallel_for(in.outer * k, grain, [&](int64_t begin, int64_t end) {
      int64_t j = begin % k;
      const T* base = from + begin / k * size * inner;
      for (int64_t r = begin; r < end; ++r) {
        if (inner == 1) to[r] = base[positions[j]];
        else __builtin_memcpy(to + r * inner, base + positions[j] * inner, size_t(inner) * sizeof(T));
        if (++j < k) continue;
        j = 0, base += size * inner;
      }
    });
  });
}

// index (k), source (outer, k, inner), y (outer, size, inner): y[:, index[j]] is joined with source[:, j]
void index_put(const char* op, PutKind kind, const Tensor& index, const Tensor& source, int dim, Tensor& y) {
  const Around out(y.shape(), dim);
  const Positions at(op, index, out.size);
  const int64_t k = index.numel(), inner = out.inner;
  if (source.numel() == 0) return;
  const Groups groups(at, k, out.size);
  if (kind == PutKind::replace) {
    with_size(y.dtype(), [&](auto zero) {
      using T = decltype(zero);
      const T* from = raw<T>(source);
      T* to = raw_mutable<T>(y);
      each_put(groups, out, k, [&](int64_t s, int64_t t, int64_t n, const int64_t*, const int64_t* end) {
        __builtin_memcpy(to + t, from + s + end[-1] * inner, size_t(n) * sizeof(T));
      });
    });
    return;
  }
  with_join(kind, y.dtype(), [&](auto join, auto zero) {
    using T = decltype(zero);
    const T* from = source.data<T>();
    T* to = y.mutable_data<T>();
    each_put(groups, out, k, [&](int64_t s, int64_t t, int64_t n, const int64_t* begin, const int64_t* end) {
      join_rows<decltype(join)>(from + s, begin, end, inner, n, to + t);
    });
  });
}

// index, y (outer, k, inner) lie inside x (outer, size, inner) except along dim: y[o, j, i] = x[o, index[o, j, i], i]
void gather(const char* op, const Tensor& x, int dim, const Tensor& index, Tensor& y) {
  const Around in(x.shape(), dim), box(index.shape(), dim);
  if (y.numel() == 0) return;
  const Offsets outer(index.shape(), x.shape(), 0, dim), inner(index.shape(), x.shape(), dim + 1, x.dim());
  const bool whole_lines = box.inner == 1;  // along the last dim
  const int64_t rows = whole_lines ? box.outer : box.outer * box.size, width = whole_lines ? box.size : box.inner;
  with_index(index, [&](const auto* positions) {
    int64_t wrong = 0;
    with_size(x.dtype(), [&](auto zero) {
      using T = decltype(zero);
      const T* from = raw<T>(x);
      T* to = raw_mutable<T>(y);
      parallel_for(rows, row_grain(width), [&](int64_t begin, int64_t end) {
        if (any_outside(positions + begin * width, (end - begin) * width, in.size)) {
          __atomic_store_n(&wrong, int64_t{1}, __ATOMIC_RELAXED);
          return;
        }
        for (int64_t r = begin; r < end; ++r) {
          const T* base = from + outer[whole_lines ? r : r / box.size] * in.size * in.inner;
          if (whole_lines)
            for (int64_t j = r * width; j < (r + 1) * width; ++j) to[j] = base[positions[j]];
          else
            for (int64_t i = 0; i < width; ++i) to[r * width + i] = base[positions[r * width + i] * in.inner + inner[i]];
        }
      });
    });
    if (wrong) throw_outside(op, positions, in.size);
  });
}

// index, source (outer, k, inner) lie inside y (outer, size, inner) except along dim: y[o, index[o, j, i], i] is joined with
// source[o, j, i]
void scatter(const char* op, PutKind kind, const Tensor& index, const Tensor& source, int dim, Tensor& y) {
  const int64_t size = y.shape()[dim];
  const Positions at(op, index, size, false);
  bool right = true;
  const int64_t* positions = at;
  if (source.numel() == 0) return;
  if (kind == PutKind::replace) {
    with_size(y.dtype(), [&](auto zero) {
      using T = decltype(zero);
      const T* from = raw<T>(source);
      T* to = raw_mutable<T>(y);
      right = each_scattered(positions, index.shape(), y.shape(), dim, [&](int64_t t, int64_t s) { to[t] = from[s]; });
    });
    if (!right) throw_outside(op, positions, size);
    return;
  }
  with_join(kind, y.dtype(), [&](auto join, auto zero) {
    using J = decltype(join);
    using T = decltype(zero);
    using C = compute_t<T>;
    const T* from = source.data<T>();
    Sums<T> sums(y);
    C* to = sums.get();
    right = each_scattered(positions, index.shape(), y.shape(), dim, [&](int64_t t, int64_t s) { to[t] = J::value(to[t], C(from[s])); });
    sums.store();
  });
  if (!right) throw_outside(op, positions, size);
}

void flat_positions(const std::vector<Tensor>& indices, const Shape& sizes, const Shape& dims, Tensor& y) {
  for (int k = 0; k < sizes.rank(); ++k) {
    const Tensor& index = indices.data()[k];
    const bool narrow = index.dtype() == DType::i32;
    int wrong = 0;
    const Wrap wrap{sizes[k], k == 0, &wrong};
    walk(make_loops(y.shape(), {&index, &y}), narrow ? wrap_loop<int32_t> : wrap_loop<int64_t>, &wrap);
    if (wrong && narrow) throw_out_of_dim<int32_t>(index, sizes[k], dims[k]);
    if (wrong) throw_out_of_dim<int64_t>(index, sizes[k], dims[k]);
  }
}

void nonzero(const Tensor& mask, Tensor& y) {
  constexpr int64_t chunk = 16384;
  const Shape& shape = mask.shape();
  const int rank = shape.rank();
  const int64_t n = mask.numel(), chunks = (n + chunk - 1) / chunk;
  const uint8_t* in = reinterpret_cast<const uint8_t*>(bytes_of(mask));
  int64_t* out = y.mutable_data<int64_t>();
  Scratch<int64_t> starts(chunks);
  int64_t* const start = starts;
  parallel_for(chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      int64_t count = 0;
      const int64_t last = min_of(n, (c + 1) * chunk);
#pragma omp simd reduction(+ : count)
      for (int64_t i = c * chunk; i < last; ++i) count += in[i];
      start[c] = count;
    }
  });
  int64_t total = 0;
  for (int64_t c = 0; c < chunks; ++c) {
    const int64_t count = start[c];
    start[c] = total;
    total += count;
  }
  parallel_for(chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      int64_t *to = out + start[c] * rank, *const stop = out + (c + 1 < chunks ? start[c + 1] : total) * rank;
      if (rank == 1) {  // without a branch on the mask
        for (int64_t i = c * chunk; to != stop; ++i) {
          *to = i;
          to += in[i];
        }
        continue;
      }
      for (int64_t i = c * chunk; to != stop; ++i) {
        if (!in[i]) continue;
        int64_t rest = i;
        for (int d = rank; d-- > 1; rest /= shape[d]) to[d] = rest % shape[d];
        if (rank) to[0] = rest;
        to += rank;
      }
    }
  });
}

}  // namespace retape::RETAPE_LEVEL
