// Sums over rows that do not depend on the number of threads: rows are cut into chunks by shape alone, every chunk has its own
// sums, and those are added in order. For kernel files only.
#pragma once
#include <retape/core/put.h>

namespace retape::RETAPE_LEVEL {

struct RowChunks {
  int64_t rows, count;
  // A chunk has at least 16 rows, so that the sums stay small next to the rows, and about 16 Ki elements.
  RETAPE_INLINE RowChunks(int64_t rows_, int64_t columns) : rows(rows_) {
    const int64_t grain = max_of(int64_t{16}, row_grain(columns));
    count = max_of(int64_t{1}, min_of(int64_t{64}, rows / grain));
  }
  RETAPE_INLINE int64_t begin(int64_t chunk) const { return chunk * rows / count; }
};

// A row of sums for every chunk; nothing if nobody wants them.
template <class C> class PartialSums {
 public:
  RETAPE_INLINE PartialSums(bool wanted, int64_t count, int64_t columns)
      : wanted_(wanted), count_(count), columns_(columns), sums_(wanted ? count * columns : 0) {}
  /// The chunk's sums, set to 0; null if they are not wanted.
  RETAPE_INLINE C* start(int64_t chunk) const {
    if (!wanted_) return nullptr;
    C* row = sums_ + chunk * columns_;
    for (int64_t i = 0; i < columns_; ++i) row[i] = 0;
    return row;
  }
  template <class T> void add_up(T* y) const {
    const C* sums = sums_;
    const int64_t count = count_, columns = columns_, block = 64;
    parallel_for((columns + block - 1) / block, 16384 / (block * count), [&](int64_t begin, int64_t end) {
      for (int64_t from = begin * block; from < min_of(columns, end * block); from += block) {
        const int64_t width = min_of(block, columns - from);
        C sum[block] = {};
        for (int64_t c = 0; c < count; ++c) {
#pragma omp simd
          for (int64_t i = 0; i < width; ++i) sum[i] += sums[c * columns + from + i];
        }
        for (int64_t i = 0; i < width; ++i) put(y[from + i], sum[i]);
      }
    });
  }

 private:
  bool wanted_;
  int64_t count_, columns_;
  Scratch<C> sums_;
};

// x as C, or `otherwise` everywhere if x is undefined: kernels then need no case for an absent weight or bias.
template <class T> class Widened {
 public:
  using C = compute_t<T>;
  RETAPE_INLINE Widened(const Tensor& x, int64_t n, C otherwise) : values_(n) {
    C* to = values_;
    if (x) {
      const T* from = x.data<T>();
      for (int64_t i = 0; i < n; ++i) to[i] = C(from[i]);
    } else {
      for (int64_t i = 0; i < n; ++i) to[i] = otherwise;
    }
  }
  RETAPE_INLINE operator const C*() const { return values_; }

 private:
  Scratch<C> values_;
};

}  // namespace retape::RETAPE_LEVEL
