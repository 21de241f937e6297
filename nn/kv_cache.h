// Keys and values that attention has seen, for generating one token after another.
#pragma once
#include <retape/core/tensor.h>

namespace retape::nn {

/// The keys and values of one attention layer for positions 0 .. length() - 1, in a buffer for `capacity` positions that the first
/// call of attend() makes. For generation: nothing of it is differentiable, so use it under NoGrad.
class KVCache {
 public:
  /// Throws Error unless capacity is positive.
  explicit KVCache(int64_t capacity);

  /// Adds the next T positions, k (B, Hkv, T, D) and v (B, Hkv, T, Dv), and attends causally from q (B, Hq, T, D): query t sees all
  /// positions before and the new ones up to t. Gives (B, Hq, T, Dv). scale: of the scores; 0: 1 / sqrt(D).
  /// Throws Error, and adds nothing, if the positions do not fit the capacity, shapes, dtypes or devices disagree with each other or
  /// with what is there, or the result would have to be recorded.
  Tensor attend(const Tensor& q, const Tensor& k, const Tensor& v, double scale = 0);

  int64_t length() const { return length_; }
  int64_t capacity() const { return capacity_; }
  /// Forgets all positions; keeps the buffer.
  void clear() { length_ = 0; }
  /// Row i becomes what row rows[i] was, for every position: rows i64 (B'), as beam search goes on from some of its hypotheses. The buffer
  /// is then one for some positions more than there are, and grows as needed up to the capacity.
  void select(const Tensor& rows);
  /// What is there: (B, Hkv, length, D) and (B, Hkv, length, Dv), views of the buffer; undefined before the first attend().
  Tensor keys() const;
  Tensor values() const;

 private:
  int64_t capacity_, length_ = 0;
  Tensor keys_, values_;
};

}  // namespace retape::nn
