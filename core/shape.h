// Sizes or strides of up to eight dimensions, without heap memory.
#pragma once
#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include <retape/core/config.h>

namespace retape {

class Shape {
 public:
  static constexpr int max_rank = 8;
  Shape() = default;
  Shape(std::initializer_list<int64_t> sizes) : Shape(sizes.begin(), sizes.size()) {}
  Shape(const std::vector<int64_t>& sizes) : Shape(sizes.data(), sizes.size()) {}
  Shape(const int64_t* sizes, size_t rank) {
    if (rank > size_t(max_rank)) too_many(rank);
    rank_ = int(rank);
    for (size_t i = 0; i < rank; ++i) size_[i] = sizes[i];
  }
  /// `rank` dimensions of size `value`.
  static Shape filled(int rank, int64_t value) {
    Shape s;
    if (rank > max_rank) too_many(size_t(rank));
    s.rank_ = rank;
    for (int i = 0; i < rank; ++i) s.size_[i] = value;
    return s;
  }
  RETAPE_INLINE int rank() const { return rank_; }
  /// Negative i counts from the end. Not checked; see normalize_dim().
  RETAPE_INLINE int64_t operator[](int i) const { return size_[i < 0 ? i + rank_ : i]; }
  RETAPE_INLINE int64_t& operator[](int i) { return size_[i < 0 ? i + rank_ : i]; }
  RETAPE_INLINE const int64_t* begin() const { return size_; }
  RETAPE_INLINE const int64_t* end() const { return size_ + rank_; }
  /// The product of all sizes; 1 for rank 0. Tensors check it against overflow when they are made.
  RETAPE_INLINE int64_t numel() const {
    int64_t n = 1;
    for (int i = 0; i < rank_; ++i) n *= size_[i];
    return n;
  }
  RETAPE_INLINE bool operator==(const Shape& o) const {
    if (rank_ != o.rank_) return false;
    for (int i = 0; i < rank_; ++i)
      if (size_[i] != o.size_[i]) return false;
    return true;
  }
  void push_back(int64_t size) {
    if (rank_ == max_rank) too_many(size_t(rank_) + 1);
    size_[rank_++] = size;
  }
  void insert(int at, int64_t size) {
    push_back(0);
    for (int i = rank_ - 1; i > at; --i) size_[i] = size_[i - 1];
    size_[at] = size;
  }
  void erase(int at) {
    for (int i = at; i + 1 < rank_; ++i) size_[i] = size_[i + 1];
    --rank_;
  }
  std::string str() const;  ///< "[2, 3]"
  std::vector<int64_t> vec() const { return {begin(), end()}; }

 private:
  [[noreturn]] static void too_many(size_t rank);
  int rank_ = 0;
  int64_t size_[max_rank] = {};
};

/// Row-major strides, in elements.
RETAPE_INLINE Shape contiguous_strides(const Shape& shape) {
  Shape s = shape;
  int64_t n = 1;
  for (int i = shape.rank(); i-- > 0; n *= shape[i]) s[i] = n;
  return s;
}
/// Those of (N, C, ...) whose elements lie as row-major (N, ..., C) would.
RETAPE_INLINE Shape channels_last_strides(const Shape& shape) {
  Shape s = shape;
  s[1] = 1;
  int64_t n = shape[1];
  for (int i = shape.rank(); i-- > 2; n *= shape[i]) s[i] = n;
  s[0] = n;
  return s;
}
/// `dim` as an index in [0, rank); throws Error naming the op unless -rank <= dim < rank (a scalar has dims -1 and 0).
int normalize_dim(const char* op, int64_t dim, int rank);
/// The common shape of a and b by NumPy's rules; throws Error naming the op.
Shape broadcast_shapes(const char* op, const Shape& a, const Shape& b);

}  // namespace retape
