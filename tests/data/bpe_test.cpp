// Byte-level BPE, files of token ids, and what both tokenizers have in common.
#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>

#include <retape/data/utf8.h>
#include <retape/io/file.h>

#include "../catch.h"
#include "../temporary.h"

using namespace retape;
using namespace retape::testing;
namespace fs = std::filesystem;
using nlohmann::json;

namespace {

// The 256 bytes, whose ids are the bytes themselves, then what `merges` make, then <|endoftext|>.
const char* const merges = "#version: 0.2\nl l\nh e\nhe ll\nhell o\n\xc4\xa0 w\na a\nr l\n";
json vocabulary() {
  json ids = json::object();
  char32_t next = 0x100;
  for (int b = 0; b < 256; ++b) {
    std::string name;
    const bool printable = (b > 0x20 && b < 0x7f) || (b > 0xa0 && b != 0xad);
    utf8::append(name, printable ? char32_t(b) : next++);
    ids[name] = b;
  }
  int id = 256;
  for (const char* token : {"ll", "he", "hell", "hello", "\xc4\xa0w", "aa", "rl", "<|endoftext|>"}) ids[token] = id++;
  return ids;
}
BpeTokenizer small() { return BpeTokenizer::from_files(vocabulary().dump(), merges); }

using Ids = std::vector<int64_t>;
Ids bytes_of(std::string_view text) {
  Ids ids;
  for (const char c : text) ids.push_back(uint8_t(c));
  return ids;
}

// GPT-2's own vocabulary, or nothing where the data is not there.
std::optional<fs::path> gpt2_folder() {
  const char* data = std::getenv("RETAPE_DATA");
  if (data && fs::exists(fs::path(data) / "gpt2-bpe" / "encoder.json")) return fs::path(data) / "gpt2-bpe";
  WARN("skipped: RETAPE_DATA does not name a folder with gpt2-bpe");
  return {};
}

// Text of letters, digits, spaces of all kinds, other scripts, and bytes that are no UTF-8.
std::string random_text(uint64_t seed, size_t pieces, bool valid) {
  const std::vector<std::string> parts = {
      " ",      " ", "\n", "\t",     "  ",           "\u00a0",     "\u2003", "\u3000", "a",      "hello",         "'s", "'ll", "'", "12",
      "\u0661", ".", "!?", "\u00e9", "\u65e5\u672c", "\U0001f44b", "\u180e", "\r\n",   "\u0301", "<|endoftext|>", "_"};
  const std::vector<std::string> broken = {"\xff", "\x80", "\xc3", "\xe2\x82", "\xed\xa0\x80", "\xf0\x9f"};
  Generator generator(seed);
  std::string text;
  for (const int64_t i :
       randint(0, int64_t(parts.size() + (valid ? 0 : broken.size())), {int64_t(pieces)}, {DType::i64}, generator).to_vector<int64_t>())
    text += size_t(i) < parts.size() ? parts[size_t(i)] : broken[size_t(i) - parts.size()];
  return text;
}

}  // namespace

TEST_CASE("pairs are merged in the order in which they were learned", "[data][bpe]") {
  const auto tokenizer = small();
  CHECK(tokenizer.size() == 264);
  CHECK(tokenizer.encode("hello") == Ids{259});
  CHECK(tokenizer.encode("hell he ll") == Ids{258, ' ', 257, ' ', 256});
  CHECK(tokenizer.encode("hello world") == Ids{259, 260, 'o', 262, 'd'});
  CHECK(tokenizer.encode("lll") == Ids{256, 'l'});  // the leftmost of equals
  CHECK(tokenizer.encode("aaaaa") == Ids{261, 261, 'a'});
  CHECK(tokenizer.encode("hel lo") == Ids{257, 'l', ' ', 'l', 'o'});  // words are not merged with each other
  CHECK(tokenizer.encode("").empty());
  CHECK(tokenizer.decode({259, 260, 'o', 262, 'd'}) == "hello world");
  CHECK(tokenizer.decode({}).empty());
  CHECK_THAT(error_of([&] { tokenizer.decode({264}); }), ContainsSubstring("there is no token 264; expected 0 <= id < 264"));
  CHECK_THAT(error_of([&] { tokenizer.decode({-1}); }), ContainsSubstring("there is no token -1"));
}

TEST_CASE("a word of a million bytes takes no more than n log n", "[data][bpe]") {
  const auto ids = small().encode(std::string(1'000'001, 'a'));
  CHECK(ids.size() == 500'001);
  CHECK(ids.front() == 261);
  CHECK(ids.back() == 'a');
}

TEST_CASE("special tokens are text unless they are allowed", "[data][bpe]") {
  const auto tokenizer = small();
  const std::string text = "hello<|endoftext|>hello";
  CHECK(tokenizer.special_tokens() == std::set<std::string>{"<|endoftext|>"});
  CHECK(tokenizer.special_id("<|endoftext|>") == 263);
  Ids plain = {259};
  for (const int64_t id : bytes_of("<|endoftext|>")) plain.push_back(id);
  plain.push_back(259);
  CHECK(tokenizer.encode(text) == plain);
  CHECK(tokenizer.encode(text, {"<|endoftext|>"}) == Ids{259, 263, 259});
  CHECK(tokenizer.encode("<|endoftext|><|endoftext|>", {"<|endoftext|>"}) == Ids{263, 263});
  CHECK(tokenizer.encode("<|endoftext", {"<|endoftext|>"}) == bytes_of("<|endoftext"));
  CHECK(tokenizer.decode({259, 263}) == "hello<|endoftext|>");
  CHECK_THAT(error_of([&] { tokenizer.encode(text, {"<|pad|>"}); }),
             ContainsSubstring("\"<|pad|>\" is no special token; the vocabulary has \"<|endoftext|>\""));
  CHECK_THAT(error_of([&] { tokenizer.special_id("hello"); }), ContainsSubstring("\"hello\" is no special token"));
}

TEST_CASE("bytes that are no UTF-8 are words by themselves and come back", "[data][bpe]") {
  const auto tokenizer = small();
  CHECK(tokenizer.encode("hello\xffhello") == Ids{259, 0xff, 259});
  CHECK(tokenizer.encode("  \xff\xfe hell") == Ids{' ', ' ', 0xff, 0xfe, ' ', 258});
  CHECK(tokenizer.encode(std::string_view("\0\xc3", 2)) == Ids{0, 0xc3});
  for (uint64_t seed = 0; seed < 50; ++seed) {
    const std::string text = random_text(seed, 200, false);
    CHECK(tokenizer.decode(tokenizer.encode(text)) == text);
  }
}

TEST_CASE("a BPE tokenizer comes back from its file and from both kinds of folder", "[data][bpe]") {
  const TemporaryFolder folder;
  const auto tokenizer = small();
  const std::string text = random_text(1, 100, false) + "hello";
  fs::create_directory(folder / "openai"), fs::create_directory(folder / "hf"), fs::create_directory(folder / "run");
  write_file_atomically(folder / "openai/encoder.json", vocabulary().dump());
  write_file_atomically(folder / "openai/vocab.bpe", std::string_view(merges));
  write_file_atomically(folder / "hf/vocab.json", vocabulary().dump());
  write_file_atomically(folder / "hf/merges.txt", std::string_view(merges).substr(std::string_view(merges).find('\n') + 1));
  tokenizer.save(folder / "run/tokenizer.json");
  for (const char* path : {"openai", "hf", "run", "run/tokenizer.json"}) {
    INFO(path);
    const auto loaded = load_tokenizer(folder / path);
    CHECK(loaded->type() == std::string("gpt2"));
    CHECK(loaded->size() == tokenizer.size());
    CHECK(loaded->encode(text) == tokenizer.encode(text));
    CHECK(loaded->decode(loaded->encode(text)) == text);
  }
  CharTokenizer::from_text("abc").save(folder / "char.json");
  CHECK(load_tokenizer(folder / "char.json")->type() == std::string("char"));
  CHECK(load_tokenizer(folder / "char.json")->encode("cab") == Ids{2, 0, 1});
  CHECK_THAT(error_of([&] { load_tokenizer(folder.path); }), ContainsSubstring("has no vocabulary"));
  CHECK_THAT(error_of([&] { BpeTokenizer::load(folder / "run"); }), ContainsSubstring("has neither encoder.json"));
  CHECK_THAT(error_of([&] { BpeTokenizer::load(folder / "char.json"); }), ContainsSubstring("not a saved tokenizer of \"type\": \"gpt2\""));
  CHECK_THAT(error_of([&] { load_tokenizer(folder / "hf/vocab.json"); }), ContainsSubstring("is not a saved tokenizer"));
  CHECK_THAT(error_of([&] { load_tokenizer(folder / "none"); }), ContainsSubstring("No such file"));
  fs::remove(folder / "hf/merges.txt");
  CHECK_THAT(error_of([&] { load_tokenizer(folder / "hf"); }), ContainsSubstring("merges.txt: No such file"));
}

TEST_CASE("malformed vocabularies are refused", "[data][bpe]") {
  const auto with = [](const char* key, json value) {
    json v = vocabulary();
    v[key] = std::move(value);
    return v.dump();
  };
  json missing = vocabulary();
  missing.erase("a");
  missing["extra"] = 'a';
  struct Row {
    std::string vocabulary, merges;
    const char* message;
  };
  for (const auto& [ids, lines, message] : std::vector<Row>{
           {"", merges, "not valid JSON"},
           {"{", merges, "not valid JSON"},
           {"[1]", merges, "not a vocabulary"},
           {"{}", merges, "no token \"\xc4\x80\" for the byte 0x00"},
           {with("x", -1), merges, "token \"x\" has the id \"-1\"; the ids of 264 tokens must be 0 to 263"},
           {with("x", 264), merges, "token \"x\" has the id \"264\""},
           {with("x", 1.5), merges, "token \"x\" has the id \"1.5\""},
           {with("x", "1"), merges, "token \"x\" has the id"},
           {with("x", json::array()), merges, "token \"x\" has the id \"[]\""},
           {with("x", 121), merges, "have the same id 121"},
           {with("", 264), merges, "token 264 is empty"},
           {missing.dump(), merges, "no token \"a\" for the byte 0x61"},
           {vocabulary().dump(), "ll", "merge 1 \"ll\" is not two tokens with a space between them"},
           {vocabulary().dump(), "l l\n\nh e", "merge 2 \"\" is not two tokens"},
           {vocabulary().dump(), "l l l", "merge 1 \"l l l\" is not two tokens"},
           {vocabulary().dump(), " l", "merge 1 \" l\" is not two tokens"},
           {vocabulary().dump(), "l ", "merge 1 \"l \" is not two tokens"},
           {vocabulary().dump(), "l l\nx lx", "merge 2 \"x lx\": \"lx\" is no token"},
           {vocabulary().dump(), "x y", "merge 1 \"x y\": \"xy\" is no token"},
           {vocabulary().dump(), "l l\r\n", "\"l\\r\" is no token"},
           {vocabulary().dump(), "l l\nl l", "merge 2 \"l l\" is there twice"},
       }) {
    INFO(message);
    CHECK_THAT(error_of([&, &ids = ids, &lines = lines] { BpeTokenizer::from_files(ids, lines); }), ContainsSubstring(message));
  }
  const TemporaryFolder folder;
  for (const auto& [content, message] : std::vector<std::pair<const char*, const char*>>{
           {"{", "not valid JSON"},
           {R"({"type":"gpt2"})", "\"tokens\" is missing"},
           {R"({"type":"gpt2","tokens":[1]})", "\"tokens\" has \"1\"; all must be strings"},
           {R"({"type":"gpt2","tokens":[],"merges":{}})", "\"merges\" is missing or is no list"},
           {R"({"type":"gpt2","tokens":["a","a"],"merges":[]})", "the token \"a\" is there twice"},
           {R"({"type":"gpt2","tokens":["a"],"merges":[]})", "no token"},
       }) {
    INFO(content);
    write_file_atomically(folder / "t.json", std::string_view(content));
    CHECK_THAT(error_of([&] { BpeTokenizer::load(folder / "t.json"); }), ContainsSubstring(message));
  }
}

TEST_CASE("many threads can encode with one tokenizer", "[data][bpe]") {
  const auto tokenizer = small();
  const std::string text = random_text(3, 2000, true);
  const Ids expected = small().encode(text);
  std::vector<Ids> results(4);
  std::vector<std::thread> threads;
  for (Ids& result : results)
    threads.emplace_back([&] {
      for (int i = 0; i < 20; ++i) result = tokenizer.encode(text);
    });
  for (std::thread& t : threads) t.join();
  for (const Ids& result : results) CHECK(result == expected);
}

TEST_CASE("text that is cut where it may be has the same tokens", "[data][bpe]") {
  const auto bpe = small();
  for (uint64_t seed = 0; seed < 60; ++seed) {
    const std::string text = random_text(seed, 30, false);
    const Ids whole = bpe.encode(text);
    for (size_t n = 0; n <= text.size(); ++n) {
      const size_t cut = bpe.safe_prefix(std::string_view(text).substr(0, n));
      REQUIRE(cut <= n);
      Ids parts = bpe.encode(text.substr(0, cut));
      for (const int64_t id : bpe.encode(text.substr(cut))) parts.push_back(id);
      REQUIRE(parts == whole);
    }
  }
  CHECK(bpe.safe_prefix("hello wor") == 5);
  CHECK(bpe.safe_prefix("hello   ") == 5);
  CHECK(bpe.safe_prefix("a\u00a0 b") == 0);
  CHECK(bpe.safe_prefix("\u65e5\u672c\n") == 6);
  CHECK(bpe.safe_prefix("hello") == 0);
  CHECK(bpe.safe_prefix(" hello") == 0);
  const auto chars = CharTokenizer::from_text("a\u00e9\u65e5\U0001f44b");
  CHECK(chars.safe_prefix("a\u00e9") == 3);
  CHECK(chars.safe_prefix("a\xc3") == 1);
  CHECK(chars.safe_prefix("a\xe6\x97") == 1);
  CHECK(chars.safe_prefix("a\xf0\x9f\x91") == 1);
  CHECK(chars.safe_prefix("") == 0);
}

TEST_CASE("GPT-2's vocabulary gives GPT-2's ids", "[data][bpe]") {
  const auto folder = gpt2_folder();
  if (!folder) return;
  const auto tokenizer = BpeTokenizer::load(*folder);
  CHECK(tokenizer.size() == 50257);
  CHECK(tokenizer.special_id("<|endoftext|>") == 50256);
  CHECK(tokenizer.special_tokens().size() == 1);
  const json expected = json::parse(read_file(*folder / "expected_ids.json"));
  size_t cases = 0;
  for (auto& [section, list] : expected.items())
    for (auto& entry : list) {
      if (!entry.is_object() || !entry.contains("ids")) continue;
      const auto text = entry["text"].get<std::string>();
      INFO(section << ": " << text);
      CHECK(tokenizer.encode(text) == entry["ids"].get<Ids>());
      CHECK(tokenizer.decode(entry["ids"].get<Ids>()) == text);
      ++cases;
    }
  CHECK(cases >= 10);
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const std::string text = random_text(seed, 500, false);
    CHECK(tokenizer.decode(tokenizer.encode(text)) == text);
  }
}

TEST_CASE("a tokenised file has the ids of the whole text, whatever the pieces", "[data][token_file]") {
  const TemporaryFolder folder;
  const auto bpe = small();
  std::string text;
  for (uint64_t seed = 0; seed < 5; ++seed) text += random_text(seed, 200, true);
  write_file_atomically(folder / "text", text);
  const Ids expected = bpe.encode(text);
  for (const size_t piece : {1, 7, 100, 1000, 1 << 20}) {
    INFO(piece);
    CHECK(tokenize_file(bpe, folder / "text", folder / "ids.bin", piece) == int64_t(expected.size()));
    const TokenFile file = TokenFile::open(folder / "ids.bin");
    CHECK(file.size() == int64_t(expected.size()));
    CHECK(file.vocabulary() == 264);
    REQUIRE(file.bytes_per_token() == 2);
    const auto* ids = reinterpret_cast<const uint16_t*>(file.data());
    CHECK(Ids(ids, ids + file.size()) == expected);
  }
  CHECK(read_file(folder / "ids.bin").substr(0, 16) == std::string("\xffretape\n\1\0\0\0\2\0\0\0", 16));
  CHECK(TokenFile::has_header(folder / "ids.bin"));
  CHECK_FALSE(TokenFile::has_header(folder / "text"));

  write_file_atomically(folder / "empty", "");
  CHECK(tokenize_file(bpe, folder / "empty", folder / "empty.bin") == 0);
  CHECK(TokenFile::open(folder / "empty.bin").size() == 0);
  CHECK_FALSE(TokenFile::has_header(folder / "empty"));

  const auto chars = CharTokenizer::from_text("abc");
  CHECK_THAT(error_of([&] { tokenize_file(chars, folder / "text", folder / "none.bin"); }),
             ContainsSubstring("piece that begins at byte 0"));
  CHECK_FALSE(fs::exists(folder / "none.bin"));
  CHECK_THAT(error_of([&] { tokenize_file(bpe, folder / "missing", folder / "none.bin"); }), ContainsSubstring("No such file"));
  CHECK_THAT(error_of([&] { tokenize_file(bpe, folder / "text", folder / "none.bin", 0); }), ContainsSubstring("a piece of 0 bytes"));
}

TEST_CASE("large vocabularies take four bytes a token", "[data][token_file]") {
  const TemporaryFolder folder;
  std::string text;
  for (char32_t c = 0x10000; c < 0x20001; ++c) utf8::append(text, c);
  const auto chars = CharTokenizer::from_text(text);
  REQUIRE(chars.size() == 65537);
  write_file_atomically(folder / "text", text);
  CHECK(tokenize_file(chars, folder / "text", folder / "ids.bin", 1001) == 65537);
  const TokenFile file = TokenFile::open(folder / "ids.bin");
  REQUIRE(file.bytes_per_token() == 4);
  TokenDataset data(file, {.block = 100, .val_fraction = 0});
  CHECK(same_bits(data.batch(655, 1, Split::train).y, reshape(arange(65501, 65537), {1, 36})));
}

TEST_CASE("a dataset over a file is the dataset over its tokens", "[data][token_file]") {
  const TemporaryFolder folder;
  const auto bpe = small();
  std::string text;
  for (int i = 0; i < 400; ++i) text += fmt::format("hello {} world\n", i);
  write_file_atomically(folder / "text", text);
  tokenize_file(bpe, folder / "text", folder / "ids.bin", 50);
  // nanoGPT's layout is ours without the header
  write_file_atomically(folder / "bare.bin", std::string_view(read_file(folder / "ids.bin")).substr(32));
  const TokenDatasetOptions options{.block = 8, .seed = 4};
  for (const auto& file : {TokenFile::open(folder / "ids.bin"), TokenFile::open(folder / "bare.bin", TokenLayout::u16)}) {
    TokenDataset expected(bpe.encode(text), options), data(file, options);
    CHECK(data.size(Split::val) == expected.size(Split::val));
    for (const Split split : {Split::train, Split::val}) {
      const auto [x, y] = data.sample(5, split);
      const auto [ex, ey] = expected.sample(5, split);
      CHECK(same_bits(x, ex));
      CHECK(same_bits(y, ey));
      CHECK(same_bits(data.batch(2, 3, split).y, expected.batch(2, 3, split).y));
      CHECK(same_bits(data.batch(data.batches(3, split) - 1, 3, split).x, expected.batch(expected.batches(3, split) - 1, 3, split).x));
    }
  }
  CHECK(TokenFile::open(folder / "bare.bin", TokenLayout::u16).vocabulary() == 65536);
  CHECK_THAT(error_of([&] { TokenDataset(TokenFile::open(folder / "ids.bin"), {.block = 100000}); }),
             ContainsSubstring("too few for one block"));
}

TEST_CASE("files that are not of token ids are refused", "[data][token_file]") {
  const TemporaryFolder folder;
  write_file_atomically(folder / "text", "hello");
  tokenize_file(small(), folder / "text", folder / "ids.bin");
  const std::string good = read_file(folder / "ids.bin");
  const auto error_for = [&](std::string content, TokenLayout layout = TokenLayout::with_header) {
    write_file_atomically(folder / "bad.bin", content);
    return error_of([&] { TokenFile::open(folder / "bad.bin", layout); });
  };
  const auto changed = [&](size_t at, char to) {
    std::string content = good;
    content[at] = to;
    return content;
  };
  CHECK(error_for(good) == "(no error)");
  CHECK_THAT(error_for(""), ContainsSubstring("not a file of token ids with a header"));
  CHECK_THAT(error_for(good.substr(0, 31)), ContainsSubstring("not a file of token ids with a header"));
  CHECK_THAT(error_for(changed(1, 'R')), ContainsSubstring("not a file of token ids with a header"));
  CHECK_THAT(error_for(changed(8, 2)), ContainsSubstring("version 2 of the format is not known; expected 1"));
  CHECK_THAT(error_for(changed(12, 3)), ContainsSubstring("ids of 3 bytes are not possible; expected 2 or 4"));
  CHECK_THAT(error_for(changed(16, 2)), ContainsSubstring("2 ids of 2 bytes do not fill the file's 2 bytes after the header"));
  CHECK_THAT(error_for(changed(23, char(0x80))), ContainsSubstring("do not fill the file's 2 bytes"));
  CHECK_THAT(error_for(changed(26, 2)), ContainsSubstring("a vocabulary of 131336 does not fit ids of 2 bytes"));
  CHECK_THAT(error_for(good + "x"), ContainsSubstring("do not fill the file's 3 bytes"));
  CHECK_THAT(error_for("abc", TokenLayout::u16), ContainsSubstring("3 bytes are no whole number of ids of 2 bytes"));
  CHECK_THAT(error_for(good, TokenLayout::u16), ContainsSubstring("this file has a header"));
}
