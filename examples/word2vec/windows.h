// Training examples: windows of words around a centre, and what they are to predict.
#pragma once
#include <cstdint>
#include <vector>

#include <retape/core/kernel_args.h>

#include "corpus.h"

namespace retape::word2vec {

/// Draws ids as often as their weights say, in constant time (Walker 1977, with Vose's construction).
class AliasTable {
 public:
  explicit AliasTable(const std::vector<double>& weights);
  /// Two random words give an id.
  int32_t draw(uint32_t a, uint32_t b) const {
    const uint32_t i = uint32_t(uint64_t(a) * slots_.size() >> 32);
    return b < slots_[i].keep ? int32_t(i) : slots_[i].other;
  }

 private:
  struct Slot {
    uint32_t keep;  // of 2^32
    int32_t other;
  };
  std::vector<Slot> slots_;
};

/// The Huffman code of each word: the inner nodes from the root on, and which way it goes there, 1 or 0.
struct HuffmanCode {
  std::vector<int32_t> begin;  // of word w's part, up to begin[w + 1]
  std::vector<int32_t> nodes;
  std::vector<float> bits;
  explicit HuffmanCode(const Vocabulary& vocabulary);
};

struct WindowOptions {
  int64_t window = 5;
  int64_t negative = 5;  // per window; 0: hierarchical softmax
  double sample = 1e-4;  // words that are more frequent are dropped now and then; 0: none
  uint64_t seed = 1;
};

/// Makes the windows of a stretch of the corpus. They are a function of the seed, the epoch and the place: threads change nothing.
class Windows {
 public:
  /// `vocabulary` and `ids` are kept by reference.
  Windows(const Vocabulary& vocabulary, const TokenFile& ids, const WindowOptions& options);
  /// Of the words at [begin, end). A word is dropped with word2vec's probability; then each word left is the centre of a window of 1 to
  /// `window` words on both sides, as far as the line and the stretch go. With negative sampling a window's targets are its centre,
  /// labelled 1, and `negative` other words drawn by count^0.75, labelled 0; else the inner nodes of its centre's Huffman code, labelled
  /// 1 where the bit is 0. The windows are in the order of the text.
  Word2VecWindows make(int64_t epoch, int64_t begin, int64_t end) const;

 private:
  int32_t id_at(int64_t i) const;
  const Vocabulary& vocabulary_;
  const TokenFile& ids_;
  WindowOptions options_;
  std::vector<uint32_t> keep_;  // the probability that a word stays, of 2^32
  AliasTable noise_;
  HuffmanCode huffman_;
};

/// Windows [first, first + count) alone.
Word2VecWindows part(const Word2VecWindows& windows, int64_t first, int64_t count);

}  // namespace retape::word2vec
