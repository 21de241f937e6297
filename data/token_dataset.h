// A long sequence of tokens, for language models: random blocks of one part to train on, the other part in order to validate.
#pragma once
#include <cstdint>
#include <vector>

#include <retape/core/philox.h>
#include <retape/core/tensor.h>
#include <retape/data/split.h>
#include <retape/data/token_file.h>

namespace retape {

/// Inputs and targets, both i64 (batch, block): y[b][t] is the token after x[b][t].
struct TokenBatch {
  Tensor x, y;
};

struct TokenDatasetOptions {
  int64_t block = 64;         ///< tokens that a model sees at once
  double val_fraction = 0.1;  ///< of the tokens, at the end; 0 for no validation part
  uint64_t seed = 0;          ///< of the order of sample()
};

class TokenDataset {
 public:
  using Options = TokenDatasetOptions;
  /// Throws Error for a negative token, for one of 2^31 or more, and if a part has no block with the token after it.
  explicit TokenDataset(const std::vector<int64_t>& tokens, const Options& options = {});
  /// Reads the file's tokens where they are, as blocks ask for them. Throws Error if a part has no block with the token after it.
  explicit TokenDataset(const TokenFile& file, const Options& options = {});

  int64_t block() const { return options_.block; }
  /// The number of tokens of a part.
  int64_t size(Split split) const { return split == Split::train ? train_ : tokens_.count - train_; }

  /// The next `batch` blocks of a part in random order. An epoch visits every block once; each epoch cuts the part into blocks
  /// anew, from a random place near its beginning on. Throws Error if the part is empty.
  TokenBatch sample(int64_t batch, Split split = Split::train);
  /// The seed, and how many blocks sample() has given. A dataset that is set to it goes on with the same blocks.
  RandomState state() const { return state_; }
  void set_state(RandomState state) { state_ = state; }

  /// A part in order, without overlap: batch number i of batches(split, batch), each of up to `batch` blocks. What does not fill a
  /// block is the last batch, one row (1, rest), so that every token but the part's first is a target once. Weigh a batch's mean
  /// loss by its y.numel() for the mean over the whole part.
  TokenBatch batch(int64_t i, int64_t batch, Split split = Split::val) const;
  int64_t batches(int64_t batch, Split split = Split::val) const;

 private:
  int64_t begin_of(Split split) const { return split == Split::train ? 0 : train_; }
  Options options_;
  struct Tokens {
    Ref<Object> owner;  // of `data`: a vector or a mapped file
    const std::byte* data;
    int width;  // bytes of a token, 2 or 4
    int64_t count;
  };
  static Tokens own(const std::vector<int64_t>& tokens);
  TokenDataset(Tokens tokens, const Options& options);
  TokenBatch make_batch(const std::vector<int64_t>& starts, int64_t columns) const;
  Tokens tokens_;
  int64_t train_ = 0;
  RandomState state_;
};

}  // namespace retape
