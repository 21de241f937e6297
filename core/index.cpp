// Reading and adding at positions given by an index tensor (i64 or i32). All index values are checked before any element is
// touched. Sums are made in the order of the index, one thread an element, so they do not depend on the number of threads.
#include <retape/core/put.h>

namespace retape::RETAPE_LEVEL {
namespace {

// The values of an index tensor as int64_t, all in [0, size).
class Positions {
 public:
  RETAPE_INLINE Positions(const char* kernel, const Tensor& index, int64_t size) : own_(index.dtype() == DType::i32 ? index.numel() : 0) {
    const int64_t n = index.numel();
    if (index.dtype() == DType::i32) {
      const int32_t* from = index.data<int32_t>();
      int64_t* to = own_;
      for (int64_t i = 0; i < n; ++i) to[i] = from[i];
      values_ = to;
    } else {
      values_ = index.data<int64_t>();
    }
    for (int64_t i = 0; i < n; ++i)
      if (values_[i] < 0 || values_[i] >= size) detail::index_out_of_range(kernel, values_[i], size);
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

// What sums are held in while they grow: y itself, or for half types a copy in float.
template <class T> class Sums {
 public:
  using C = compute_t<T>;
  static constexpr bool direct = std::is_same_v<T, C>;
  RETAPE_INLINE explicit Sums(Tensor& y) : n_(y.numel()), y_(y.mutable_data<T>()), own_(direct ? 0 : n_) {
    if constexpr (!direct) {
      const T* from = y_;
      C* to = own_;
      parallel_for(n_, 16384, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) to[i] = C(from[i]);
      });
    }
  }
  RETAPE_INLINE C* get() {
    if constexpr (direct) return y_;
    else return own_;
  }
  RETAPE_INLINE void store() {
    if constexpr (!direct) {
      const C* from = own_;
      T* to = y_;
      parallel_for(n_, 16384, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) put(to[i], from[i]);
      });
    }
  }

 private:
  int64_t n_;
  T* y_;
  Scratch<C> own_;
};

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

// y (n) += the given rows of source, whose rows are `stride` apart
template <class T> void add_rows(const T* source, const int64_t* begin, const int64_t* end, int64_t stride, int64_t n, T* y) {
  using C = compute_t<T>;
  C sum[columns];
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) sum[i] = C(y[i]);
  for (const int64_t* j = begin; j != end; ++j) {
    const T* row = source + *j * stride;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) sum[i] = C(sum[i] + C(row[i]));
  }
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) put(y[i], sum[i]);
}

}  // namespace

// x (outer, size, inner), index (k), y (outer, k, inner)
void index_select(const Tensor& x, int dim, const Tensor& index, Tensor& y) {
  const Around in(x.shape(), dim);
  const Positions at("index_select", index, in.size);
  const int64_t k = index.numel(), inner = in.inner, size = in.size, grain = row_grain(inner);
  const int64_t* positions = at;
  with_size(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T* from = raw<T>(x);
    T* to = raw_mutable<T>(y);
    parallel_for(in.outer * k, grain, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const T* row = from + (r / k * size + positions[r % k]) * inner;
        if (inner == 1) to[r] = *row;
        else __builtin_memcpy(to + r * inner, row, size_t(inner) * sizeof(T));
      }
    });
  });
}

// index (k), source (outer, k, inner), y (outer, size, inner): y[:, index[j]] += source[:, j]
void index_add(const Tensor& index, const Tensor& source, int dim, Tensor& y) {
  const Around out(y.shape(), dim);
  const Positions at("index_add", index, out.size);
  const int64_t k = index.numel(), inner = out.inner, size = out.size;
  if (source.numel() == 0) return;
  const Groups groups(at, k, size);
  with_any(y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T* from = source.data<T>();
    T* to = y.mutable_data<T>();
    // A row of y gets all that the index sends there. Where rows are few, threads share the columns of a row.
    const int64_t rows = out.outer * size, parts = rows < 64 ? (inner + columns - 1) / columns : 1, part = parts > 1 ? columns : inner;
    const double grain = 16384.0 * double(parts * rows) / double(source.numel());
    parallel_for(parts * rows, grain < 1 ? 1 : int64_t(grain), [&](int64_t begin, int64_t end) {
      int64_t outer = begin / parts / size, position = begin / parts % size, first = begin % parts * part;
      for (int64_t task = begin; task < end; ++task) {
        const int64_t *const group = groups.begin(position), *const group_end = groups.end(position);
        if (group != group_end)
          for (int64_t c = first; c < min_of(inner, first + part); c += columns)
            add_rows(from + outer * k * inner + c, group, group_end, inner, min_of(columns, inner - c),
                     to + (outer * size + position) * inner + c);
        if ((first += part) < inner) continue;
        first = 0;
        if (++position < size) continue;
        position = 0, ++outer;
      }
    });
  });
}

// index, y (outer, k, inner) lie inside x (outer, size, inner) except along dim: y[o, j, i] = x[o, index[o, j, i], i]
void gather(const Tensor& x, int dim, const Tensor& index, Tensor& y) {
  const Around in(x.shape(), dim), box(index.shape(), dim);
  const Positions at("gather", index, in.size);
  const int64_t* positions = at;
  if (y.numel() == 0) return;
  const Offsets outer(index.shape(), x.shape(), 0, dim), inner(index.shape(), x.shape(), dim + 1, x.dim());
  with_size(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T* from = raw<T>(x);
    T* to = raw_mutable<T>(y);
    parallel_for(box.outer * box.size, row_grain(box.inner), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const T* base = from + outer[r / box.size] * in.size * in.inner;
        for (int64_t i = 0; i < box.inner; ++i) to[r * box.inner + i] = base[positions[r * box.inner + i] * in.inner + inner[i]];
      }
    });
  });
}

// index, source (outer, k, inner) lie inside y (outer, size, inner) except along dim: y[o, index[o, j, i], i] += source[o, j, i]
void scatter_add(const Tensor& index, const Tensor& source, int dim, Tensor& y) {
  const Around out(y.shape(), dim), box(index.shape(), dim);
  const Positions at("scatter_add", index, out.size);
  const int64_t* positions = at;
  if (source.numel() == 0) return;
  const Offsets outer(index.shape(), y.shape(), 0, dim), inner(index.shape(), y.shape(), dim + 1, y.dim());
  with_any(y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    const T* from = source.data<T>();
    Sums<T> sums(y);
    C* to = sums.get();
    const int64_t pieces = (box.inner + columns - 1) / columns, work = box.size * min_of(columns, box.inner);
    parallel_for(box.outer * pieces, work >= 16384 ? 1 : 16384 / work, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t o = task / pieces, first = task % pieces * columns, last = min_of(box.inner, first + columns);
        C* base = to + outer[o] * out.size * out.inner;
        for (int64_t j = 0; j < box.size; ++j) {
          const int64_t row = (o * box.size + j) * box.inner;
          for (int64_t i = first; i < last; ++i) {
            C& sum = base[positions[row + i] * out.inner + inner[i]];
            sum = C(sum + C(from[row + i]));
          }
        }
      }
    });
    sums.store();
  });
}

}  // namespace retape::RETAPE_LEVEL
