// Beam search.
#pragma once
#include <vector>

#include "model.h"

namespace retape::translate {

struct SearchOptions {
  int64_t beam = 4;             // 1: greedy
  double length_penalty = 0.6;  // a hypothesis of n tokens scores log p / ((5 + n) / 6)^length_penalty (Wu et al. 2016)
  int64_t max_length = 0;       // tokens of a translation; 0: 50 more than the source, as in the paper
  int64_t begin = 1, end = 2;   // <s>, </s>
};
struct Hypothesis {
  std::vector<int64_t> ids;  // without <s> and </s>
  double score = 0;          // log p with the length penalty
  double log_probability = 0;
};
/// The best translations of several sources at once, each `beam` or fewer hypotheses, the best first. source (N, S) i64, filled up with pad.
/// The model must be in eval mode. A hypothesis has neither <s> nor pads, and ends with </s>, or where it is as long as it may be. Search
/// of a source ends when no hypothesis that goes on can become better than the best `beam` that have ended.
std::vector<std::vector<Hypothesis>> beam_search(Translator& model, const Tensor& source, const SearchOptions& options = {});

}  // namespace retape::translate
