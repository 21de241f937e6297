// A tensor that grows along one dim: what states hold of all positions of a sequence.
#pragma once
#include <retape/core/tensor.h>

namespace retape::nn {

/// Positions of a sequence, one behind the other along `dim`. While the tape records, what is added goes into a new tensor, as with cat(), through which
/// gradients pass. Under NoGrad it is written into a buffer with room for more, so that adding n positions one by one copies each a few times and not n. A
/// copy goes on by itself.
class GrowingTensor {
 public:
  explicit GrowingTensor(int dim) : dim_(dim) {}
  GrowingTensor(const GrowingTensor& o);
  GrowingTensor(GrowingTensor&&) noexcept = default;
  GrowingTensor& operator=(const GrowingTensor& o) { return *this = GrowingTensor(o); }
  GrowingTensor& operator=(GrowingTensor&&) noexcept = default;

  /// This one with x behind it: to take its place, `a = a.with(x)`, as they share the buffer, or to be dropped, and then nothing has changed. dtypes promote.
  /// A buffer that is made has `room` positions, at least those that there are; with 0, twice as many, and x alone, the first, is held as it is.
  /// Throws Error where another dim or the device is not that of the positions before.
  GrowingTensor with(const Tensor& x, int64_t room = 0) const;

  /// All positions, a view where there is a buffer. Undefined before the first ones.
  const Tensor& all() const { return all_; }
  int64_t length() const { return all_ ? all_.shape()[dim_] : 0; }
  /// How many positions the buffer can hold; 0 without one.
  int64_t room() const { return buffer_ ? buffer_.shape()[dim_] : 0; }

  /// Forgets all positions but the last `last` and the first `first` ones.
  void keep(int64_t last, int64_t first = 0);
  /// Forgets all positions, and keeps the buffer.
  void clear();
  /// Row i of dim 0 becomes what row rows[i] was, in a buffer with `room` positions. rows i64 (B').
  void select(const Tensor& rows, int64_t room);
  /// Goes over to a buffer with `room` positions, at least those that there are, if it has a larger one.
  void shrink(int64_t room);

 private:
  void move_to(int64_t room);
  void see(int64_t begin, int64_t length);

  int dim_;
  int64_t begin_ = 0;    // in the buffer
  Tensor buffer_, all_;  // without a buffer, all_ is a value of its own that nobody writes into
};

}  // namespace retape::nn
