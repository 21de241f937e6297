// Iteration over the first dim: `for (const Tensor& row : x)`. Each step is select(x, 0, i), recorded like it.
#pragma once
#include <cstddef>
#include <iterator>

#include <retape/autograd/views.h>

namespace retape {

class RowIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = Tensor;
  using difference_type = std::ptrdiff_t;
  using pointer = void;
  using reference = Tensor;
  RowIterator() = default;
  RowIterator(Tensor x, int64_t i) : x_(std::move(x)), i_(i) {}
  Tensor operator*() const { return select(x_, 0, i_); }
  RowIterator& operator++() {
    ++i_;
    return *this;
  }
  RowIterator operator++(int) {
    RowIterator before = *this;
    ++i_;
    return before;
  }
  bool operator==(const RowIterator& o) const { return i_ == o.i_; }

 private:
  Tensor x_;
  int64_t i_ = 0;
};
/// Throws Error for a tensor without dims.
inline RowIterator begin(const Tensor& x) { return {x, 0}; }
inline RowIterator end(const Tensor& x) { return {x, x.size(0)}; }

}  // namespace retape
