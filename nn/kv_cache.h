// Keys and values that attention has seen, for generating one token after another.
#pragma once
#include <retape/autograd/attention.h>
#include <retape/nn/growing_tensor.h>

namespace retape::nn {

struct KVCacheOptions {
  int64_t capacity = 0;  ///< how many positions there may be, in a buffer for all of them; 0: any number, in one that grows as needed
  int64_t window = 0;    ///< attend to the last so many positions alone, and keep no others; 0: to all. Takes no capacity
  int64_t sinks = 0;     ///< with a window: this many first positions are attended to as well. StreamingLLM (Xiao et al. 2023)
};
/// The keys and values of one attention layer for positions 0 .. length() - 1; with a window, of those alone that later ones can see, in
/// memory that does not grow. The first call of attend() makes the buffer. For generation: nothing of it is differentiable, so use it under NoGrad. A copy goes on by itself.
class KVCache {
 public:
  /// Throws Error for negative numbers, for sinks without a window, and for a window with a capacity.
  explicit KVCache(KVCacheOptions options = {});
  /// Throws Error unless capacity is positive.
  explicit KVCache(int64_t capacity);

  /// Adds the next T positions, k (B, Hkv, T, D) and v (B, Hkv, T, Dv), and attends causally from q (B, Hq, T, D): query t sees all
  /// positions before and the new ones up to t, or with a window those in it. Gives (B, Hq, T, Dv). Of params, scale, softcap, biases and, without
  /// a window, block_mask count; relative_bias is (Hq, T + keys_for(T) - 1). Throws Error, and adds nothing, if the positions do not fit the
  /// capacity, shapes, dtypes or devices disagree with each other or with what is there, params has more than that, or biases by distance meet
  /// sinks, whose distances are not kept, or the result would have to be recorded.
  Tensor attend(const Tensor& q, const Tensor& k, const Tensor& v, AttentionParams params = {});

  int64_t length() const { return length_; }
  const KVCacheOptions& options() const { return options_; }
  /// How many keys, the new ones among them, an attend() of the next `positions` ones reads.
  int64_t keys_for(int64_t positions) const { return keys_.length() + positions; }
  /// Forgets all positions; keeps the buffer.
  void clear() { length_ = 0, keys_.clear(), values_.clear(); }
  /// Row i becomes what row rows[i] was, for every position: rows i64 (B'), as beam search goes on from some of its hypotheses. The buffer
  /// is then one for some positions more than there are, and grows as needed up to the capacity.
  void select(const Tensor& rows);
  /// What is there: (B, Hkv, length, D) and (B, Hkv, length, Dv), with a window the sinks and the last window - 1 positions only, since
  /// the next one is in the window, too; views of the buffer; undefined before the first attend().
  Tensor keys() const { return keys_.all(); }
  Tensor values() const { return values_.all(); }

 private:
  KVCacheOptions options_;
  int64_t length_ = 0;
  GrowingTensor keys_{2}, values_{2};  // what is kept, sinks first
};

}  // namespace retape::nn
