// Learning byte pair encodings. Expected merges and ids are those of Hugging Face's tokenizers 0.23.3 for the same lines.
#include <filesystem>
#include <map>

#include <retape/io/file.h>

#include "../catch.h"
#include "../temporary.h"

using namespace retape;
using namespace retape::testing;

namespace {

using Ids = std::vector<int64_t>;
using Merges = std::vector<std::pair<std::string, std::string>>;

const std::string text = "low low low low low lower lower\nnewest newest newest newest newest newest\nwidest widest widest straße\n";
const std::vector<std::string> specials = {"<pad>", "<s>", "</s>", "<unk>"};

BpeTokenizer trained(BpeTrainerOptions options, std::string_view from = text) {
  BpeTrainer trainer(std::move(options));
  trainer.add_text(from);
  return trainer.train();
}
BpeTokenizer metaspace(int64_t vocab_size = 30) {
  return trained({.kind = BpeKind::metaspace, .vocab_size = vocab_size, .special_tokens = specials});
}

// Counts all pairs anew for every merge.
Merges merges_by_hand(const std::map<std::string, int64_t>& words, const BpeVocabulary& vocabulary, size_t symbols) {
  std::vector<std::string> tokens(vocabulary.tokens.begin(), vocabulary.tokens.begin() + int64_t(symbols));
  std::vector<std::pair<std::vector<size_t>, int64_t>> split;
  for (auto& [word, n] : words) {
    split.push_back({{}, n});
    for (const char c : word)
      split.back().first.push_back(size_t(std::find(tokens.begin(), tokens.end(), std::string(1, c)) - tokens.begin()));
  }
  Merges merges;
  while (tokens.size() < vocabulary.tokens.size()) {
    std::map<std::pair<size_t, size_t>, int64_t> counts;
    for (auto& [ids, n] : split)
      for (size_t i = 0; i + 1 < ids.size(); ++i) counts[{ids[i], ids[i + 1]}] += n;
    const auto best = std::max_element(counts.begin(), counts.end(), [](auto& a, auto& b) { return a.second < b.second; })->first;
    const std::string name = tokens[best.first] + tokens[best.second];
    const auto id = size_t(std::find(tokens.begin(), tokens.end(), name) - tokens.begin());
    if (id == tokens.size()) tokens.push_back(name);
    if (const std::pair merge{tokens[best.first], tokens[best.second]}; std::find(merges.begin(), merges.end(), merge) == merges.end())
      merges.push_back(merge);
    for (auto& [ids, n] : split)
      for (size_t i = 0; i + 1 < ids.size(); ++i)
        if (std::pair(ids[i], ids[i + 1]) == best) ids[i] = id, ids.erase(ids.begin() + int64_t(i) + 1);
  }
  return merges;
}

}  // namespace

TEST_CASE("merges of words with U+2581 for spaces are Hugging Face's", "[data][bpe]") {
  const auto tokenizer = metaspace();
  CHECK(tokenizer.type() == std::string("metaspace"));
  CHECK(tokenizer.size() == 30);
  CHECK(tokenizer.vocabulary().merges == Merges{{"s", "t"},
                                                {"e", "st"},
                                                {"l", "o"},
                                                {"▁", "lo"},
                                                {"▁lo", "w"},
                                                {"e", "w"},
                                                {"n", "ew"},
                                                {"▁", "new"},
                                                {"▁new", "est"},
                                                {"d", "est"},
                                                {"i", "dest"},
                                                {"w", "idest"},
                                                {"▁", "widest"}});
  CHECK(tokenizer.special_tokens() == std::set<std::string>(specials.begin(), specials.end()));
  CHECK(tokenizer.special_id("</s>") == 2);
  CHECK(tokenizer.unk_id() == 3);
  CHECK(tokenizer.encode("lowest  straße") == Ids{21, 18, 16, 16, 17, 11, 4, 15, 6});
  CHECK(tokenizer.encode("wide\u2581str?s") == Ids{16, 14, 7, 5, 6, 16, 17, 11, 3, 12});
  CHECK(tokenizer.encode(" low") == Ids{21});
  CHECK(tokenizer.encode("").empty());
  const Ids ids = tokenizer.encode("<s>new low</s>", tokenizer.special_tokens());
  CHECK(ids == Ids{1, 24, 21, 2});
  CHECK(tokenizer.decode(ids) == "<s> new low</s>");
  CHECK(tokenizer.decode(ids, true) == "new low");
  CHECK(tokenizer.encode("<s>")[0] == 16);  // text
  for (const char* line : {"low newest straße", "lower  estates", "a", ""}) CHECK(tokenizer.decode(tokenizer.encode(line)) == line);
  CHECK(tokenizer.decode(tokenizer.encode("new?")) == "new<unk>");
  CHECK_THAT(error_of([&] { tokenizer.encode("ab\xff"); }), ContainsSubstring("not valid UTF-8: byte 0xff at offset 2"));
  CHECK_THAT(error_of([&] { tokenizer.decode({30}); }), ContainsSubstring("there is no token 30"));
}

TEST_CASE("merges of bytes are Hugging Face's", "[data][bpe]") {
  const auto tokenizer = trained({.vocab_size = 270, .min_frequency = 2, .special_tokens = {"<|endoftext|>"}});
  CHECK(tokenizer.type() == std::string("gpt2"));
  CHECK(tokenizer.vocabulary().merges == Merges{{"s", "t"},
                                                {"e", "st"},
                                                {"l", "o"},
                                                {"lo", "w"},
                                                {"e", "w"},
                                                {"n", "ew"},
                                                {"Ġ", "low"},
                                                {"new", "est"},
                                                {"Ġ", "newest"},
                                                {"d", "est"},
                                                {"i", "dest"},
                                                {"w", "idest"},
                                                {"e", "r"}});
  CHECK(tokenizer.special_id("<|endoftext|>") == 0);
  CHECK_FALSE(tokenizer.unk_id());
  CHECK(tokenizer.encode("lowest straße\nlow") == Ids{260, 258, 221, 257, 82, 65, 128, 254, 69, 199, 260});
  const std::string any = "\xff\0 any bytes \xc3 \u65e5\n\n  ";
  CHECK(tokenizer.decode(tokenizer.encode(any)) == any);
}

TEST_CASE("every merge is of the most frequent pair, of equals the one with the lower ids", "[data][bpe]") {
  Generator generator(7);
  for (int round = 0; round < 60; ++round) {
    std::string words;
    const auto letters = randint(0, 2 + round % 3, {200}, {DType::i64}, generator).to_vector<int64_t>();
    for (const int64_t l : letters) words += l == 0 ? ' ' : char('a' + l - 1);
    std::map<std::string, int64_t> counts;
    for (size_t at = words.find_first_not_of(' '); at < words.size();) {  // ends of words have no space in front
      const size_t end = std::min(words.find(' ', at), words.size());
      ++counts[words.substr(at, end - at)];
      at = words.find_first_not_of(' ', end);
    }
    // each word by itself: no spaces, so that the other count need not know how spaces are written
    BpeTrainer trainer({.vocab_size = 256 + 25});
    for (auto& [word, n] : counts)
      for (int64_t i = 0; i < n; ++i) trainer.add_text(word);
    const auto tokenizer = trainer.train();
    INFO(words);
    REQUIRE(tokenizer.vocabulary().merges == merges_by_hand(counts, tokenizer.vocabulary(), 256));
  }
}

TEST_CASE("a tokenizer depends on the words only, not on order, files and pieces", "[data][bpe]") {
  const TemporaryFolder folder;
  std::string english, german;
  for (int i = 0; i < 300; ++i) {
    english += "The house number " + std::to_string(i * 7) + " is on the street.\n";
    german += "Das Haus Nummer " + std::to_string(i * 7) + " ist in der Straße.\r\n";
  }
  write_file_atomically(folder / "en", english), write_file_atomically(folder / "de", german);
  for (const BpeKind kind : {BpeKind::byte_level, BpeKind::metaspace}) {
    const BpeTrainerOptions options{.kind = kind, .vocab_size = 400, .special_tokens = specials};
    BpeTrainer whole(options);
    whole.add_text(english), whole.add_text(german);
    const std::string expected = whole.train().to_json();
    CHECK(whole.train().size() == 400);
    for (const size_t piece : {1, 10, 1000, 1 << 20}) {
      BpeTrainer trainer(options);
      trainer.add_file(folder / "de", piece), trainer.add_file(folder / "en", piece);
      CHECK(trainer.train().to_json() == expected);
    }
  }
  const auto lines = trained({.kind = BpeKind::metaspace, .vocab_size = 100}, german);
  const Ids ends = lines.encode("\r\n");  // which are no part of lines
  REQUIRE(ends.size() == 3);
  CHECK(ends[1] == lines.unk_id());
  CHECK(ends[2] == lines.unk_id());
  BpeTrainer trainer({});
  CHECK_THAT(error_of([&] { trainer.add_file(folder / "none"); }), ContainsSubstring("No such file"));
  CHECK_THAT(error_of([&] { trainer.add_file(folder / "de", 0); }), ContainsSubstring("a piece of 0 bytes"));
}

TEST_CASE("training ends at vocab_size, min_frequency, or where all is merged", "[data][bpe]") {
  CHECK(metaspace(21).size() == 21);
  CHECK(metaspace(17).vocabulary().merges.empty());
  const auto all = metaspace(1000);
  CHECK(all.size() < 60);
  CHECK(all.encode("low lower newest widest straße").size() == 5);
  const auto frequent = trained({.kind = BpeKind::metaspace, .vocab_size = 1000, .min_frequency = 4});
  CHECK(frequent.encode("newest").size() == 1);  // 6 times
  CHECK(frequent.encode("widest").size() == 5);  // 3 times: ▁ w i d est
  CHECK(trained({.vocab_size = 256}, "").size() == 256);
  CHECK(trained({.kind = BpeKind::metaspace}, "").encode("a b") == Ids{1, 0, 1, 0});
}

TEST_CASE("the rarest characters can be left out, and no merge reaches across them", "[data][bpe]") {
  const auto tokenizer = trained({.kind = BpeKind::metaspace, .vocab_size = 100, .limit_alphabet = 3}, "abxab abxab ab cab\n");
  CHECK(tokenizer.vocabulary().tokens == std::vector<std::string>{"<unk>", "a", "b", "\u2581", "ab", "\u2581ab"});
  CHECK(tokenizer.encode("abxab") == Ids{5, 0, 4});
  CHECK(tokenizer.encode("c") == Ids{3, 0});
}

TEST_CASE("no merge makes a special token", "[data][bpe]") {
  for (const BpeKind kind : {BpeKind::byte_level, BpeKind::metaspace}) {
    const auto tokenizer = trained({.kind = kind, .vocab_size = 300, .special_tokens = {"<unk>", "ab"}}, "ab ab ab <unk> <unk> abc\n");
    for (const int64_t id : tokenizer.encode("ab <unk> abc")) CHECK(id > 1);
    CHECK(tokenizer.encode("ab", {"ab"}) == Ids{1});
  }
}

TEST_CASE("what cannot be trained is refused", "[data][bpe]") {
  struct Row {
    BpeTrainerOptions options;
    const char* message;
  };
  for (const auto& [options, message] : std::vector<Row>{
           {{.vocab_size = 0}, "a vocab_size of 0 is not possible"},
           {{.vocab_size = int64_t{1} << 31}, "a vocab_size of 2147483648 is not possible; expected 1 to 2147483647"},
           {{.min_frequency = -1}, "a min_frequency of -1 is not possible"},
           {{.limit_alphabet = 10}, "limit_alphabet is for kind metaspace"},
           {{.kind = BpeKind::metaspace, .limit_alphabet = 0}, "a limit_alphabet of 0 is not possible"},
           {{.special_tokens = {""}}, "the special token \"\" is empty or not UTF-8"},
           {{.special_tokens = {"<\xff>"}}, "is empty or not UTF-8"},
           {{.special_tokens = {"\u00e9"}}, "is a single character"},
           {{.special_tokens = {"<s>", "<s>"}}, "the special token \"<s>\" is there twice"},
           {{.vocab_size = 256, .special_tokens = {"<s>"}}, "does not hold 1 special tokens and 256 bytes; expected 257 or more"},
           {{.kind = BpeKind::metaspace, .vocab_size = 13},
            "does not hold 1 special tokens and 13 characters; expected 14 or more, or a limit_alphabet"},
       }) {
    INFO(message);
    CHECK_THAT(error_of([&, &options = options] { trained(options); }), ContainsSubstring(message));
  }
  const TemporaryFolder folder;
  write_file_atomically(folder / "latin1",
                        "ok\nStra\xdf"
                        "e\n");
  BpeTrainer trainer({.kind = BpeKind::metaspace});
  CHECK_THAT(error_of([&] { trainer.add_file(folder / "latin1"); }),
             ContainsSubstring("byte 0xdf at offset 4, in the line that begins at byte 3") && ContainsSubstring("latin1"));
}
