#include <retape/data/bleu.h>

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <unordered_map>

#include <retape/core/error.h>
#include <retape/data/utf8.h>

namespace retape {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_stop(char c) { return c == '.' || c == ','; }
// ASCII punctuation and symbols without ' , - . and with the space
bool is_symbol(char c) {
  return (c >= ' ' && c <= '&') || (c >= '(' && c <= '+') || c == '/' || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') ||
         (c >= '{' && c <= '~');
}
// What separates words in Python.
bool is_space(char32_t c) { return utf8::is_space(c) || (c >= 0x1c && c <= 0x1f); }

void replace(std::string& text, std::string_view from, std::string_view to) {
  size_t at = text.find(from);
  if (at == std::string::npos) return;
  std::string result;
  size_t done = 0;
  for (; at != std::string::npos; at = text.find(from, done)) {
    result.append(text, done, at - done).append(to);
    done = at + from.size();
  }
  text = result.append(text, done);
}

// Where two characters in a row are what `matches` says, puts `spaces` around them, and goes on after both.
template <class Matches>
std::string spaced(const std::string& text, Matches&& matches, const char* before, const char* between, const char* after) {
  std::string result;
  result.reserve(text.size() + text.size() / 4);
  for (size_t i = 0; i < text.size(); ++i) {
    if (i + 1 < text.size() && matches(text[i], text[i + 1])) {
      result.append(before).append(1, text[i]).append(between).append(1, text[i + 1]).append(after);
      ++i;
    } else {
      result += text[i];
    }
  }
  return result;
}

using Gram = std::array<int32_t, 4>;  // token ids, -1 beyond its end
struct GramHash {
  size_t operator()(const Gram& gram) const {
    uint64_t h = 0;
    for (const int32_t id : gram) h = (h ^ uint32_t(id)) * 0x9e3779b97f4a7c15, h ^= h >> 29;
    return size_t(h);
  }
};
using Grams = std::unordered_map<Gram, int64_t, GramHash>;

Grams grams_of(const std::vector<int32_t>& tokens) {
  Grams grams;
  for (size_t i = 0; i < tokens.size(); ++i) {
    Gram gram{-1, -1, -1, -1};
    for (size_t n = 0; n < gram.size() && i + n < tokens.size(); ++n) {
      gram[n] = tokens[i + n];
      ++grams[gram];
    }
  }
  return grams;
}

// Numbers for tokens, the same for equal ones.
class Numbers {
 public:
  std::vector<int32_t> operator()(const std::string& text) {
    std::vector<int32_t> tokens;
    for (auto& token : tokenize_13a(text)) tokens.push_back(numbers_.emplace(std::move(token), int32_t(numbers_.size())).first->second);
    return tokens;
  }

 private:
  std::unordered_map<std::string, int32_t> numbers_;
};

}  // namespace

std::vector<std::string> tokenize_13a(std::string_view text) {
  // White space at the end goes first, and a hyphen before a line end goes with it.
  size_t length = 0;
  for (size_t at = 0; at < text.size();)
    if (!is_space(utf8::next(text, at))) length = at;
  std::string line(text.substr(0, length));
  replace(line, "<skipped>", "");
  replace(line, "-\n", "");
  replace(line, "\n", " ");
  replace(line, "&quot;", "\"");
  replace(line, "&amp;", "&");
  replace(line, "&lt;", "<");
  replace(line, "&gt;", ">");

  std::string separated = " ";
  for (const char c : line) {
    if (is_symbol(c)) separated.append(1, ' ').append(1, c).append(1, ' ');
    else separated += c;
  }
  separated += ' ';
  // One pass after the other, as in mteval: of ".." the second is found by the second pass.
  separated = spaced(
      separated, [](char a, char b) { return !is_digit(a) && is_stop(b); }, "", " ", " ");
  separated = spaced(
      separated, [](char a, char b) { return is_stop(a) && !is_digit(b); }, " ", " ", "");
  separated = spaced(
      separated, [](char a, char b) { return is_digit(a) && b == '-'; }, "", " ", " ");

  std::vector<std::string> tokens;
  bool inside = false;
  for (size_t at = 0; at < separated.size();) {
    const size_t start = at;
    const bool space = is_space(utf8::next(separated, at));
    if (!space && !inside) tokens.emplace_back();
    if (!space) tokens.back().append(separated, start, at - start);
    inside = !space;
  }
  return tokens;
}

Bleu corpus_bleu(const std::vector<std::string>& hypotheses, const std::vector<std::vector<std::string>>& references) {
  if (hypotheses.empty()) throw Error("corpus_bleu: there are no hypotheses; expected one or more");
  if (references.empty()) throw Error("corpus_bleu: there are no references; expected one list or more, each as long as the hypotheses");
  for (size_t k = 0; k < references.size(); ++k)
    if (references[k].size() != hypotheses.size())
      throw Error(fmt::format("corpus_bleu: references {} are {} and hypotheses {}; expected as many of both", k, references[k].size(),
                              hypotheses.size()));
  Bleu bleu;
  bleu.num_refs = int64_t(references.size());
  Numbers numbers;
  for (size_t i = 0; i < hypotheses.size(); ++i) {
    const auto hypothesis = numbers(hypotheses[i]);
    const auto hyp_len = int64_t(hypothesis.size());
    Grams best;  // the most that one reference has
    int64_t closest = -1;
    for (auto& list : references) {
      const auto reference = numbers(list[i]);
      const auto length = int64_t(reference.size()), off = std::abs(length - hyp_len), least = std::abs(closest - hyp_len);
      if (closest < 0 || off < least || (off == least && length < closest)) closest = length;
      for (auto& [gram, n] : grams_of(reference)) best[gram] = std::max(best[gram], n);
    }
    bleu.hyp_len += hyp_len;
    bleu.ref_len += closest;
    for (auto& [gram, n] : grams_of(hypothesis)) {
      const auto order = size_t(std::find(gram.begin(), gram.end(), -1) - gram.begin()) - 1;
      bleu.totals[order] += n;
      if (const auto found = best.find(gram); found != best.end()) bleu.counts[order] += std::min(n, found->second);
    }
  }
  if (bleu.hyp_len < bleu.ref_len) bleu.brevity_penalty = bleu.hyp_len ? std::exp(1 - double(bleu.ref_len) / double(bleu.hyp_len)) : 0;
  if (bleu.counts[0] == 0) return bleu;  // no match, so none of longer ones

  double smooth = 1, logs = 0;
  for (size_t n = 0; n < 4 && bleu.totals[n]; ++n) {
    if (bleu.counts[n] == 0) smooth *= 2;
    bleu.precisions[n] = 100 * (bleu.counts[n] ? double(bleu.counts[n]) : 1 / smooth) / double(bleu.totals[n]);
  }
  for (const double p : bleu.precisions) logs += std::log(p);  // a corpus without any 4-gram has the score 0
  bleu.score = bleu.brevity_penalty * std::exp(logs / 4);
  return bleu;
}

std::string Bleu::str() const {
  return fmt::format("BLEU = {:.2f} {:.1f}/{:.1f}/{:.1f}/{:.1f} (BP = {:.3f} ratio = {:.3f} hyp_len = {} ref_len = {})", score,
                     precisions[0], precisions[1], precisions[2], precisions[3], brevity_penalty,
                     ref_len ? double(hyp_len) / double(ref_len) : 0.0, hyp_len, ref_len);
}
std::string Bleu::signature() const { return fmt::format("nrefs:{}|case:mixed|eff:no|tok:13a|smooth:exp", num_refs); }

}  // namespace retape
