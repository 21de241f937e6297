// BLEU, the usual figure for translations (Papineni et al. 2002), with the text prepared as sacreBLEU does (Post 2018).
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace retape {

struct Bleu {
  /// 0 to 100: brevity_penalty times the geometric mean of the precisions.
  double score = 0;
  /// Percent of the hypotheses' n-grams, n = 1 to 4, that a reference has; where none has, 100 / 2, 100 / 4, ... of their number
  /// (exponential smoothing). All 0 if there is no match at all.
  std::array<double, 4> precisions{};
  /// 1, or less where the hypotheses are shorter than the references: exp(1 - ref_len / hyp_len).
  double brevity_penalty = 1;
  /// n-grams that match, and all, in the hypotheses.
  std::array<int64_t, 4> counts{}, totals{};
  /// Tokens in the hypotheses, and in the references: of several, the one with the closest length (of equals the shorter).
  int64_t hyp_len = 0, ref_len = 0;
  /// References a hypothesis.
  int64_t num_refs = 1;

  /// Such as "BLEU = 34.92 68.1/42.2/28.3/19.2 (BP = 0.988 ratio = 0.988 hyp_len = 12035 ref_len = 12183)", as sacreBLEU prints it.
  std::string str() const;
  /// How it was computed, in sacreBLEU's form: "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp". Scores with the same one can be compared.
  std::string signature() const;
};

/// BLEU of a corpus: hypotheses[i] is compared with references[0][i], references[1][i], ... All are plain text (UTF-8), not tokenised:
/// tokenize_13a() does it. The result is that of sacreBLEU's corpus_bleu with default options. Of one sentence's BLEU nothing can be
/// concluded. Throws Error if there is no hypothesis or no reference, or if the numbers of hypotheses and references differ.
Bleu corpus_bleu(const std::vector<std::string>& hypotheses, const std::vector<std::vector<std::string>>& references);

/// The tokens of mteval-v13a, which WMT's campaigns use: &quot; &amp; &lt; &gt; are characters, ASCII punctuation and symbols stand by
/// themselves, but for apostrophes, hyphens that follow no digit, and periods and commas between digits.
std::vector<std::string> tokenize_13a(std::string_view text);

}  // namespace retape
