// BLEU against sacreBLEU 2.6.0: print(sacrebleu.corpus_bleu(hypotheses, references)) gave the lines, its .score the scores.
#include "../catch.h"

using namespace retape;
using namespace retape::testing;

namespace {
using Texts = std::vector<std::string>;
}

TEST_CASE("corpus BLEU is sacreBLEU's", "[data][bleu]") {
  struct Row {
    Texts hypotheses;
    std::vector<Texts> references;
    double score;
    const char* line;
  };
  for (const auto& [hypotheses, references, score, line] : std::vector<Row>{
           {{"The cat sat on the mat.", "It's 3.5 km, isn't it?"},
            {{"The cat is sitting on the mat.", "It is 3.5 km, isn't it?"}},
            57.44693510615706,
            "BLEU = 57.45 85.7/75.0/60.0/50.0 (BP = 0.867 ratio = 0.875 hyp_len = 14 ref_len = 16)"},
           {{"the dog runs through the green grass"},
            {{"a dog runs through the grass"}, {"the dog is running through green grass today"}},
            51.697315395717055,
            "BLEU = 51.70 85.7/83.3/40.0/25.0 (BP = 1.000 ratio = 1.167 hyp_len = 7 ref_len = 6)"},
           {{"a b c d x e"},  // 3-grams and 4-grams are smoothed
            {{"a y c d z e f"}},
            16.341219448835542,
            "BLEU = 16.34 66.7/20.0/12.5/8.3 (BP = 0.846 ratio = 0.857 hyp_len = 6 ref_len = 7)"},
           {{"a x b y c"},
            {{"c b a"}},
            14.058533129758727,
            "BLEU = 14.06 60.0/12.5/8.3/6.2 (BP = 1.000 ratio = 1.667 hyp_len = 5 ref_len = 3)"},
           {{"&quot;Tom &amp; Jerry&quot; &lt;3 <skipped>"},
            {{"\"Tom & Jerry\" <3"}},
            100,
            "BLEU = 100.00 100.0/100.0/100.0/100.0 (BP = 1.000 ratio = 1.000 hyp_len = 7 ref_len = 7)"},
           {{"In 1,000.5 a.m.-3-4 x-1 ...end.", "„Straße“ – 1.\u00a0Mai …"},
            {{"In 1,000.5 a.m. -3-4 x-1 ... end.", "„Straße“ – 2. Mai …"}},
            86.56030552541704,
            "BLEU = 86.56 95.2/89.5/82.4/80.0 (BP = 1.000 ratio = 1.000 hyp_len = 21 ref_len = 21)"},
           {{"", "a b c d"},
            {{"x", "a b c d e"}},
            60.653065971263366,
            "BLEU = 60.65 100.0/100.0/100.0/100.0 (BP = 0.607 ratio = 0.667 hyp_len = 4 ref_len = 6)"},
           {{"", ""}, {{"a", "b"}}, 0, "BLEU = 0.00 0.0/0.0/0.0/0.0 (BP = 0.000 ratio = 0.000 hyp_len = 0 ref_len = 2)"},
           {{"a"}, {{"a"}}, 0, "BLEU = 0.00 100.0/0.0/0.0/0.0 (BP = 1.000 ratio = 1.000 hyp_len = 1 ref_len = 1)"},
           {{"x y z w v"}, {{"a b c d e"}}, 0, "BLEU = 0.00 0.0/0.0/0.0/0.0 (BP = 1.000 ratio = 1.000 hyp_len = 5 ref_len = 5)"},
           {{"a b c d e"},  // of equally close references the shorter one
            {{"a b c d e f"}, {"a b c d"}},
            100,
            "BLEU = 100.00 100.0/100.0/100.0/100.0 (BP = 1.000 ratio = 1.250 hyp_len = 5 ref_len = 4)"},
       }) {
    INFO(line);
    const Bleu bleu = corpus_bleu(hypotheses, references);
    CHECK(bleu.score == Approx(score).margin(1e-9));
    CHECK(bleu.str() == line);
    CHECK(bleu.signature() == "nrefs:" + std::to_string(references.size()) + "|case:mixed|eff:no|tok:13a|smooth:exp");
  }
}

TEST_CASE("text is split as mteval-v13a splits it", "[data][bleu]") {
  struct Row {
    const char* text;
    Texts tokens;
  };
  for (const auto& [text, tokens] : std::vector<Row>{
           {"", {}},
           {" \t\u00a0\u3000\n", {}},
           {"a  b\u2003c\x1c"
            "d",
            {"a", "b", "c", "d"}},
           {"don't (stop), \"now\"!", {"don't", "(", "stop", ")", ",", "\"", "now", "\"", "!"}},
           {"1,000.5 5. .5 a.b", {"1,000.5", "5", ".", ".", "5", "a", ".", "b"}},
           {"..., a..", {".", ".", ".", ",", "a", ".", "."}},
           {"1-2 x-1 1--2", {"1", "-", "2", "x-1", "1", "-", "-2"}},
           {"$5 50% a/b a_b", {"$", "5", "50", "%", "a", "/", "b", "a", "_", "b"}},
           {"&amp;quot; &quot; &amp; &lt;&gt; &apos;", {"&", "quot", ";", "\"", "&", "<", ">", "&", "apos", ";"}},
           {"a <skipped>b exam-\nple c\nd x-\n", {"a", "b", "example", "c", "d", "x-"}},
           {"„Straße“ – 日本。 é.", {"„Straße“", "–", "日本。", "é", "."}},
           {"\xff.\xc3 a", {"\xff", ".", "\xc3", "a"}},  // no UTF-8
       }) {
    INFO(text);
    CHECK(tokenize_13a(text) == tokens);
  }
}

TEST_CASE("BLEU wants as many hypotheses as references", "[data][bleu]") {
  CHECK_THAT(error_of([] { corpus_bleu({}, {{}}); }), ContainsSubstring("there are no hypotheses"));
  CHECK_THAT(error_of([] { corpus_bleu({"a"}, {}); }), ContainsSubstring("there are no references"));
  CHECK_THAT(error_of([] { corpus_bleu({"a"}, {{"a"}, {"b", "c"}}); }), ContainsSubstring("references 1 are 2 and hypotheses 1"));
}
