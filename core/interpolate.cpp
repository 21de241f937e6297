// Images of other sizes. Interpolation is linear in the image and separable: each dim has a sparse matrix, and the gradient takes the
// matrices' transposes. A row of the result is at first a sum of rows of the image, then each of its places a sum of places.
#include <retape/core/interpolate.h>
#include <retape/core/weighted_sum.h>

namespace retape::RETAPE_LEVEL {
namespace {

// What row r is made of: entries [begin[r], begin[r + 1]), in the order of their columns.
template <class C> class Matrix {
 public:
  RETAPE_INLINE Matrix(const InterpolateArgs& args, int d, bool transposed)
      : columns(transposed ? args.out[d] : args.in[d]),
        rows_(transposed ? args.in[d] : args.out[d]),
        begin_(rows_ + 1),
        column_(args.out[d] * taps_of(args, d)),
        weight_(args.out[d] * taps_of(args, d)) {
    const int taps = taps_of(args, d);
    for (int64_t r = 0; r <= rows_; ++r) begin_[r] = transposed ? 0 : r * taps;
    if (transposed) {
      for (int64_t o = 0; o < columns; ++o) {
        const Taps<C> of = taps_at<C>(args, d, o);
        for (int k = 0; k < taps; ++k) ++begin_[of.place[k] + 1];
      }
      for (int64_t r = 0; r < rows_; ++r) begin_[r + 1] += begin_[r];
    }
    for (int64_t o = 0; o < args.out[d]; ++o) {
      const Taps<C> of = taps_at<C>(args, d, o);
      for (int k = 0; k < taps; ++k) {
        const int64_t at = transposed ? begin_[of.place[k]]++ : o * taps + k;
        column_[at] = transposed ? o : of.place[k];
        weight_[at] = of.weight[k];
      }
    }
    if (!transposed) return;
    for (int64_t r = rows_; r > 0; --r) begin_[r] = begin_[r - 1];
    begin_[0] = 0;
  }
  const int64_t columns;
  RETAPE_INLINE int64_t rows() const { return rows_; }
  RETAPE_INLINE int64_t begin(int64_t row) const { return begin_[row]; }
  RETAPE_INLINE int64_t most() const {  // entries of a row
    int64_t n = 0;
    for (int64_t r = 0; r < rows_; ++r) n = max_of(n, begin(r + 1) - begin(r));
    return n;
  }
  RETAPE_INLINE int64_t column(int64_t entry) const { return column_[entry]; }
  RETAPE_INLINE C weight(int64_t entry) const { return weight_[entry]; }

 private:
  int64_t rows_;
  Scratch<int64_t> begin_, column_;
  Scratch<C> weight_;
};

// The columns that a matrix reads, as runs [begin(i), end(i)).
class Runs {
 public:
  template <class C> RETAPE_INLINE explicit Runs(const Matrix<C>& m) : at_(2 * m.columns + 2) {
    const Scratch<uint8_t> used(m.columns);
    for (int64_t c = 0; c < m.columns; ++c) used[c] = 0;
    for (int64_t e = 0; e < m.begin(m.rows()); ++e) used[m.column(e)] = 1;
    for (int64_t c = 0; c < m.columns; ++c) {
      if (!used[c]) continue;
      if (count == 0 || at_[2 * count - 1] != c) at_[2 * count++] = c;
      at_[2 * count - 1] = c + 1;
    }
  }
  int64_t count = 0;
  RETAPE_INLINE int64_t begin(int64_t i) const { return at_[2 * i]; }
  RETAPE_INLINE int64_t end(int64_t i) const { return at_[2 * i + 1]; }

 private:
  Scratch<int64_t> at_;
};

template <class T> RETAPE_INLINE void resample(const InterpolateArgs& args, bool transposed, const Tensor& x, Tensor& y) {
  using C = compute_t<T>;
  const Matrix<C> depth(args, 0, transposed), height(args, 1, transposed), width(args, 2, transposed);
  const Runs runs(width);
  const T* const in = x.data<T>();
  T* const out = y.mutable_data<T>();
  const int64_t channels = x.shape()[-1], rows = depth.rows() * height.rows(), in_row = width.columns * channels,
                out_row = width.rows() * channels;
  parallel_for(x.shape()[0] * rows, row_grain(max_of(in_row, out_row) * 2), [&](int64_t begin, int64_t end) {
    const Scratch<C> sum(in_row), weight(depth.most() * height.most());
    const Scratch<const T*> row(depth.most() * height.most());
    for (int64_t r = begin; r < end; ++r) {
      const int64_t n = r / rows, p = r / height.rows() % depth.rows(), q = r % height.rows();
      int64_t terms = 0;
      for (int64_t a = depth.begin(p); a < depth.begin(p + 1); ++a)
        for (int64_t b = height.begin(q); b < height.begin(q + 1); ++b) {
          row[terms] = in + ((n * depth.columns + depth.column(a)) * height.columns + height.column(b)) * in_row;
          weight[terms++] = depth.weight(a) * height.weight(b);
        }
      const auto along = [&](const auto* source) {
        for (int64_t w = 0; w < width.rows(); ++w) {
          const int64_t c = width.begin(w);
          weighted_sum<C>(
              width.begin(w + 1) - c, [&](int64_t k) { return source + width.column(c + k) * channels; },
              [&](int64_t k) { return width.weight(c + k); }, channels, out + r * out_row + w * channels);
        }
      };
      if (terms == 1 && weight[0] == 1) {
        along(row[0]);
        continue;
      }
      for (int64_t i = 0; i < runs.count; ++i) {
        const int64_t from = runs.begin(i) * channels;
        weighted_sum<C>(
            terms, [&](int64_t k) { return row[k] + from; }, [&](int64_t k) { return weight[k]; }, runs.end(i) * channels - from,
            sum + from);
      }
      const C* const source = sum;
      along(source);
    }
  });
}

}  // namespace

void interpolate(const InterpolateArgs& args, const Tensor& x, Tensor& y) {
  with_floating("interpolate", x.dtype(), [&](auto zero) { resample<decltype(zero)>(args, false, x, y); });
}
void interpolate_backward(const InterpolateArgs& args, const Tensor& dy, Tensor& dx) {
  with_floating("interpolate_backward", dx.dtype(), [&](auto zero) { resample<decltype(zero)>(args, true, dy, dx); });
}

}  // namespace retape::RETAPE_LEVEL
