// Pairs of sentences, and batches of about as many tokens.
#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <retape/core/tensor.h>
#include <retape/data/bpe_tokenizer.h>

namespace retape::translate {

/// The lines of a text file (UTF-8, plain or gzip), without line ends. Throws Error if it cannot be read, is a damaged gzip file, or has a line
/// that is not UTF-8, which is named.
std::vector<std::string> read_lines(const std::filesystem::path& path);

/// Sentences in two languages: line i of one is a translation of line i of the other.
struct Sentences {
  std::vector<std::string> source, target;
  int64_t size() const { return int64_t(source.size()); }
};
/// Throws Error, with both numbers, if the files have different numbers of lines, and if they are empty.
Sentences read_sentences(const std::filesystem::path& source, const std::filesystem::path& target);
/// Takes every 20th pair out of `sentences`. Throws Error if there are fewer than 20.
Sentences take_validation(Sentences& sentences);

/// Sentences as ids: source ends with </s>, target begins with <s> and ends with </s>.
struct Pairs {
  std::vector<std::vector<int64_t>> source, target;
  int64_t left_out = 0;  // empty, or longer than max_length
  int64_t size() const { return int64_t(source.size()); }
};
/// Throws Error if no pair is left. `what` is named then.
Pairs encode(const Sentences& sentences, const BpeTokenizer& tokenizer, int64_t max_length, const std::string& what);

struct PairBatch {
  Tensor source, target;  // i64 (N, S), (N, T), filled up with pad
  int64_t tokens = 0;     // of both, without pads
};
PairBatch make_batch(const Pairs& pairs, const std::vector<int64_t>& rows, int64_t pad);

/// Cuts epochs into batches whose source and whose target take at most `max_tokens` places, pads included. Sentences of like length come
/// together: each epoch's random order is cut into pools that are sorted by length, and the batches come in random order. Batch i is a
/// function of the seed and i.
class TokenBatches {
 public:
  TokenBatches(const Pairs& pairs, int64_t max_tokens, uint64_t seed);
  /// The rows of batch i, counted through all epochs. Many threads may ask.
  std::vector<int64_t> batch(int64_t i) const;
  /// The epoch of batch i, from 0.
  int64_t epoch(int64_t i) const;

 private:
  struct Epoch {
    int64_t number, first;  // first: number of its first batch
    std::vector<std::vector<int64_t>> batches;
  };
  std::shared_ptr<const Epoch> epoch_of(int64_t i) const;
  std::vector<std::vector<int64_t>> cut(int64_t epoch) const;
  const Pairs& pairs_;
  int64_t max_tokens_;
  uint64_t seed_;
  mutable std::mutex mutex_;
  mutable std::vector<int64_t> firsts_{0};  // number of the first batch of each epoch so far, and of the next
  mutable std::vector<std::shared_ptr<const Epoch>> recent_;
};

}  // namespace retape::translate
