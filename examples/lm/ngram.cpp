#include "ngram.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

namespace retape::lm {

NgramModel::NgramModel(const std::vector<int64_t>& tokens, int64_t order, int64_t vocabulary) : order_(order), vocabulary_(vocabulary) {
  if (order < 1 || vocabulary < 1 || vocabulary >= int64_t{1} << 31)
    throw Error(fmt::format("ngram: an order of {} and a vocabulary of {} make no sense; both must be positive", order, vocabulary));
  nodes_.push_back({-1, 0});
  std::vector<int64_t> occurrences{0};  // of each node
  // ending[n]: the n-gram that ends at the last token
  std::vector<int32_t> ending(size_t(order) + 1, -1), before;
  ending[0] = 0;
  for (const int64_t token : tokens) {
    if (token < 0 || token >= vocabulary) throw Error(fmt::format("ngram: token {} is not in a vocabulary of {}", token, vocabulary));
    before = ending;
    for (int64_t n = 1; n <= order; ++n) {
      const int32_t prefix = before[size_t(n - 1)];
      if (prefix < 0) break;
      const auto [found, is_new] = children_.try_emplace(uint64_t(prefix) << 32 | uint64_t(token), int32_t(nodes_.size()));
      if (is_new) {
        nodes_.push_back({prefix, int32_t(n)});
        occurrences.push_back(0);
        if (n > 1) ++nodes_[size_t(ending[size_t(n - 1)])].count;  // one more token that stands before the n-gram without its first
      }
      ++occurrences[size_t(found->second)];
      ending[size_t(n)] = found->second;
    }
  }
  std::vector<int64_t> once(size_t(order) + 1), twice(size_t(order) + 1);
  for (size_t i = 1; i < nodes_.size(); ++i) {
    Node& node = nodes_[i];
    if (node.length == order) node.count = occurrences[i];
    once[size_t(node.length)] += node.count == 1, twice[size_t(node.length)] += node.count == 2;
    nodes_[size_t(node.parent)].total += node.count;
    nodes_[size_t(node.parent)].kinds += node.count > 0;
  }
  for (int64_t n = 0; n <= order; ++n) {
    const double seen = double(once[size_t(n)] + 2 * twice[size_t(n)]);
    discount_.push_back(seen > 0 ? double(once[size_t(n)]) / seen : 0.5);
  }
}

int32_t NgramModel::child(int32_t node, int64_t token) const {
  const auto found = children_.find(uint64_t(node) << 32 | uint64_t(token));
  return found == children_.end() ? -1 : found->second;
}

double NgramModel::probability(const int64_t* context, int64_t length, int64_t token) const {
  double p = 1 / double(vocabulary_);
  for (int64_t n = 1; n <= std::min(order_, length + 1); ++n) {
    int32_t node = 0;  // the last n - 1 tokens
    for (int64_t i = length - (n - 1); node >= 0 && i < length; ++i) node = child(node, context[i]);
    if (node < 0) break;
    const Node& before = nodes_[size_t(node)];
    if (before.total == 0) continue;
    const int32_t whole = child(node, token);
    const double count = whole < 0 ? 0 : double(nodes_[size_t(whole)].count), discount = discount_[size_t(n)];
    p = (std::max(count - discount, 0.0) + discount * double(before.kinds) * p) / double(before.total);
  }
  return p;
}

double NgramModel::loss(const std::vector<int64_t>& tokens, int64_t first) const {
  double sum = 0;
  for (int64_t i = first; i < int64_t(tokens.size()); ++i) {
    const int64_t length = std::min(i, order_ - 1);
    sum -= std::log(probability(tokens.data() + i - length, length, tokens[size_t(i)]));
  }
  return sum / double(int64_t(tokens.size()) - first);
}

void declare_ngram(examples::Settings& settings, NgramOptions& o) {
  declare_text(settings, o, examples::OnResume::replace);
  settings.add("--order", o.order, "tokens of the longest n-gram").at_least(1).at_most(100);
}

void ngram(NgramOptions& o, examples::Settings& settings) {
  settings.check();
  const Text text(o, settings);
  const TokenDataset data = text.dataset({.block = 1024});
  std::vector<int64_t> tokens = in_order(data, Split::train);
  const std::vector<int64_t> validation = in_order(data, Split::val);
  const int64_t first = int64_t(tokens.size());
  std::vector<int64_t> all = tokens;
  all.insert(all.end(), validation.begin(), validation.end());
  fmt::print("{} tokens to count, {} to validate (vocabulary of {})\norder  n-grams  validation loss\n", first, validation.size(),
             text.tokenizer().size());
  for (int64_t order = 1; order <= o.order; ++order) {
    const NgramModel model(tokens, order, text.tokenizer().size());
    fmt::print("{:5}  {:7}  {:.4f}\n", order, model.size(), model.loss(all, first));
  }
}

}  // namespace retape::lm
