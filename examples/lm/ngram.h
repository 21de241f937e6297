// An n-gram model, the baseline beside which a language model should stand.
#pragma once
#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "text.h"

namespace retape::lm {

/// Counts of all n-grams up to an order, smoothed by interpolation with those of one token less: Kneser & Ney 1995 in the interpolated form of Chen &
/// Goodman 1998 with one discount an order, n1 / (n1 + 2 n2).
class NgramModel {
 public:
  /// Throws Error unless order and vocabulary are positive, and for a token outside of the vocabulary.
  NgramModel(const std::vector<int64_t>& tokens, int64_t order, int64_t vocabulary);
  /// The probability of `token` behind a context of so many tokens, of which the last order - 1 count.
  double probability(const int64_t* context, int64_t length, int64_t token) const;
  /// Minus the mean logarithm of the probability of tokens[first ...], each behind all before it.
  double loss(const std::vector<int64_t>& tokens, int64_t first) const;
  /// How many different n-grams there are.
  int64_t size() const { return int64_t(nodes_.size()) - 1; }

 private:
  struct Node {  // an n-gram
    int32_t parent, length;
    int64_t count = 0;  // of it; below the order, of the different tokens before it
    int64_t total = 0;  // of the counts of the n-grams that are longer by one token
    int64_t kinds = 0;  // how many of those have one
  };
  int32_t child(int32_t node, int64_t token) const;

  int64_t order_, vocabulary_;
  std::vector<Node> nodes_;                         // the empty one first
  std::unordered_map<uint64_t, int32_t> children_;  // by node and token
  std::vector<double> discount_;                    // by length
};

struct NgramOptions : TextOptions {
  int64_t order = 8;
};
void declare_ngram(examples::Settings& settings, NgramOptions& options);
/// Prints the validation loss of every order up to --order, of the same part of the data as in `train`. Throws Error.
void ngram(NgramOptions& options, examples::Settings& settings);

}  // namespace retape::lm
