// tokenizer.json: Hugging Face's format, and the one that save() wrote before.
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include <retape/io/file.h>

#include "../catch.h"
#include "../temporary.h"

using namespace retape;
using namespace retape::testing;
namespace fs = std::filesystem;
using nlohmann::json;

namespace {

using Ids = std::vector<int64_t>;

// As Tokenizer.save() of Hugging Face's tokenizers 0.23.3 wrote it, after add_tokens(["zzz"]).
json hugging_face() {
  return json::parse(R"({"version":"1.0","truncation":null,"padding":null,"added_tokens":[
    {"id":0,"content":"<pad>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true},
    {"id":1,"content":"<unk>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true},
    {"id":9,"content":"zzz","single_word":false,"lstrip":false,"rstrip":false,"normalized":true,"special":false}],
    "normalizer":null,"pre_tokenizer":{"type":"Metaspace","replacement":"▁","prepend_scheme":"always","split":true},
    "post_processor":null,"decoder":{"type":"Metaspace","replacement":"▁","prepend_scheme":"always","split":true},
    "model":{"type":"BPE","dropout":null,"unk_token":"<unk>","continuing_subword_prefix":null,"end_of_word_suffix":null,"fuse_unk":false,
    "byte_fallback":false,"ignore_merges":false,"vocab":{"<pad>":0,"<unk>":1,"a":2,"b":3,"c":4,"▁":5,"▁a":6,"▁ab":7,"▁abc":8},
    "merges":[["▁","a"],["▁a","b"],["▁ab","c"]]}})");
}
// A few bytes, the others unknown; with the shape that files had when GPT-2's was published: no type of the model, merges as strings.
json bytes() {
  return json::parse(R"({"version":"1.0","truncation":null,"padding":null,"added_tokens":[
    {"id":5,"special":true,"content":"<|é|>","single_word":false,"lstrip":false,"rstrip":false,"normalized":true}],"normalizer":null,
    "pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true},
    "post_processor":{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":false},
    "decoder":{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true},
    "model":{"dropout":null,"unk_token":"?","continuing_subword_prefix":"","end_of_word_suffix":"","fuse_unk":false,
    "vocab":{"a":0,"b":1,"Ġ":2,"Ġa":3,"?":4,"<|é|>":5},"merges":["Ġ a"]}})");
}
BpeTokenizer read(const json& file) { return BpeTokenizer::from_json(file.dump()); }
template <class... Keys> json with(json file, const json& value, Keys... keys) {
  json* at = &file;
  ((at = &(*at)[keys]), ...);
  *at = value;
  return file;
}

}  // namespace

TEST_CASE("a tokenizer.json of Hugging Face gives its ids", "[data][tokenizer_json]") {
  const auto tokenizer = read(hugging_face());
  CHECK(tokenizer.size() == 10);
  CHECK(tokenizer.special_tokens() == std::set<std::string>{"<pad>", "<unk>", "zzz"});
  CHECK(tokenizer.encode("abc  ab cQQ") == Ids{8, 5, 7, 5, 4, 1, 1});
  CHECK(tokenizer.encode("ab<pad>a zzzb", tokenizer.special_tokens()) == Ids{7, 0, 6, 5, 9, 5, 3});
  CHECK(tokenizer.encode("<pad>").size() == 6);
  CHECK(tokenizer.decode({0, 7, 9, 6, 0}) == "<pad> abzzz a<pad>");
  CHECK(tokenizer.decode({0, 7, 9, 6, 0}, true) == "abzzz a");

  const auto byte_level = read(bytes());
  CHECK(byte_level.encode("a ab\xc3\xa9<|é|>", {"<|é|>"}) == Ids{0, 3, 1, 4, 4, 5});
  CHECK(byte_level.decode({0, 3, 5}) == "a a<|é|>");
  CHECK(read(with(bytes(), true, "model", "fuse_unk")).encode("aXY Za") == Ids{0, 4, 2, 4, 0});
  const auto prefixed = read(with(bytes(), true, "pre_tokenizer", "add_prefix_space"));
  CHECK(prefixed.encode("a a<|é|>a", {"<|é|>"}) == Ids{3, 3, 5, 3});
  CHECK(prefixed.encode("\na") == Ids{2, 4, 0});
  CHECK(prefixed.safe_prefix("a\nb") == 0);
  CHECK(prefixed.safe_prefix("a\nb a") == 3);
}

TEST_CASE("a space goes in front of every part, of the first, or of none", "[data][tokenizer_json]") {
  struct Row {
    const char* scheme;
    Ids ids;
    const char* text;
  };
  for (const auto& [scheme, ids, text] : std::vector<Row>{
           {"always", {6, 0, 6}, "a<pad> a"},
           {"first", {6, 0, 2}, "a<pad>a"},
           {"never", {2, 0, 2}, "a<pad>a"},
       }) {
    json file = with(hugging_face(), scheme, "pre_tokenizer", "prepend_scheme");
    file["decoder"] = file["pre_tokenizer"];
    INFO(scheme);
    for (const auto& tokenizer : {read(file), BpeTokenizer::from_json(read(file).to_json())}) {
      CHECK(tokenizer.encode("a<pad>a", {"<pad>"}) == ids);
      CHECK(tokenizer.decode(ids) == text);
    }
  }
  for (const bool prefix : {true, false}) {  // as files said it before there were schemes
    json file = hugging_face();
    file["pre_tokenizer"] = {{"type", "Metaspace"}, {"replacement", "▁"}, {"add_prefix_space", prefix}};
    file["decoder"] = file["pre_tokenizer"];
    CHECK(read(file).encode("a") == Ids{prefix ? 6 : 2});
  }
}

TEST_CASE("merges may be strings or pairs", "[data][tokenizer_json]") {
  const auto strings = read(with(hugging_face(), json{"▁ a", "▁a b", "▁ab c"}, "model", "merges"));
  CHECK(strings.to_json() == read(hugging_face()).to_json());
}

TEST_CASE("what has been saved is the same tokenizer, in Hugging Face's format", "[data][tokenizer_json]") {
  const TemporaryFolder folder;
  for (const auto& file : {hugging_face(), bytes(), with(bytes(), true, "model", "fuse_unk")}) {
    const auto tokenizer = read(file);
    tokenizer.save(folder / "tokenizer.json");
    CHECK(folder.files() == std::vector<std::string>{"tokenizer.json"});
    const json saved = json::parse(read_file(folder / "tokenizer.json"));
    CHECK(saved["version"] == "1.0");
    CHECK(saved["added_tokens"] == [&] {
      json expected = file["added_tokens"];
      for (auto& token : expected) token["normalized"] = false;  // there is no normalizer
      return expected;
    }());
    CHECK(saved["model"]["merges"][0] == json{tokenizer.vocabulary().merges[0].first, tokenizer.vocabulary().merges[0].second});
    const auto loaded = load_tokenizer(folder.path);
    CHECK(loaded->type() == tokenizer.type());
    CHECK(dynamic_cast<const BpeTokenizer&>(*loaded).to_json() == tokenizer.to_json());
    CHECK(loaded->encode("abc a?") == tokenizer.encode("abc a?"));
  }
}

TEST_CASE("files that earlier versions have saved can be read", "[data][tokenizer_json]") {
  const TemporaryFolder folder;
  const json tokens = BpeTrainer({.special_tokens = {"<|endoftext|>"}}).train().vocabulary().tokens;
  json older = {{"type", "gpt2"}, {"tokens", tokens}, {"merges", {"a b"}}};
  older["tokens"].insert(older["tokens"].end(), {"ab", "Ġend", "Ã©", "Ã"});
  older["tokens"].erase(older["tokens"].end() - 1);
  write_file_atomically(folder / "old.json", older.dump());
  const auto tokenizer = load_tokenizer(folder / "old.json");
  CHECK(tokenizer->type() == std::string("gpt2"));
  CHECK(tokenizer->encode("aab") == Ids{65, 257});
  const auto& bpe = dynamic_cast<const BpeTokenizer&>(*tokenizer);
  // A token that no merge makes is special and stands for its text; of "Ã©" that is "é", which is the name of the byte 0xe9.
  CHECK(bpe.special_tokens() == std::set<std::string>{" end", "<|endoftext|>"});
  CHECK(bpe.encode("a end", {" end"}) == Ids{65, 258});
  CHECK(bpe.decode({258, 259}) == " end\u00e9");
  const auto again = BpeTokenizer::from_json(bpe.to_json());
  CHECK(again.special_tokens() == bpe.special_tokens());
  CHECK(again.decode({258, 259}) == " end\u00e9");
  CHECK(again.to_json() == bpe.to_json());
}

TEST_CASE("what a tokenizer.json has beyond what is implemented is named", "[data][tokenizer_json]") {
  const json good = hugging_face();
  struct Row {
    json file;
    const char* message;
  };
  const auto added = [&](const char* key, const json& value) { return with(good, value, "added_tokens", 0, key); };
  for (const auto& [file, message] : std::vector<Row>{
           {with(good, "2.0", "version"), "\"version\": \"\\\"2.0\\\"\" is not implemented; expected \"1.0\""},
           {with(good, json{{"type", "NFC"}}, "normalizer"), "\"normalizer\": \"\\\"NFC\\\"\" is not implemented; expected null"},
           {with(good, json{{"max_length", 5}}, "truncation"), "\"truncation\": "},
           {with(good, json{{"pad_id", 5}}, "padding"), "\"padding\": "},
           {with(good, json{{"type", "Whitespace"}}, "pre_tokenizer"),
            "\"pre_tokenizer\": \"\\\"Whitespace\\\"\" is not implemented; expected ByteLevel or Metaspace"},
           {with(good, nullptr, "pre_tokenizer"), "\"pre_tokenizer\": \"null\" is not implemented"},
           {with(good, nullptr, "decoder"), "\"decoder\": \"null\" is not implemented"},
           {with(good, bytes()["decoder"], "decoder"), "a pre_tokenizer Metaspace with a decoder ByteLevel is not implemented"},
           {with(good, "never", "decoder", "prepend_scheme"), "of which only one has a prefix space"},
           {with(good, "_", "pre_tokenizer", "replacement"), "pre_tokenizer has \"replacement\": \"\\\"_\\\"\" is not implemented"},
           {with(good, false, "pre_tokenizer", "split"), "pre_tokenizer has \"split\": \"false\" is not implemented"},
           {with(good, "some", "pre_tokenizer", "prepend_scheme"), "expected a scheme always, first or never"},
           {with(good, false, "pre_tokenizer", "add_prefix_space"), "and the two to agree"},
           {with(good, 1, "pre_tokenizer", "extra"), "pre_tokenizer has \"extra\", which is not known"},
           {with(bytes(), false, "pre_tokenizer", "use_regex"), "pre_tokenizer has \"use_regex\": \"false\" is not implemented"},
           {with(bytes(), 1, "pre_tokenizer", "add_prefix_space"), "pre_tokenizer has \"add_prefix_space\": \"1\"; expected true or false"},
           {with(good, json{{"type", "TemplateProcessing"}}, "post_processor"),
            "\"post_processor\": \"\\\"TemplateProcessing\\\"\" is not implemented"},
           {with(good, "WordPiece", "model", "type"),
            "model has \"type\": \"\\\"WordPiece\\\"\" is not implemented; expected \"BPE\" or null"},
           {with(good, 0.1, "model", "dropout"), "model has \"dropout\": \"0.1\" is not implemented"},
           {with(good, true, "model", "byte_fallback"), "model has \"byte_fallback\""},
           {with(good, true, "model", "ignore_merges"), "model has \"ignore_merges\""},
           {with(good, "##", "model", "continuing_subword_prefix"), "model has \"continuing_subword_prefix\""},
           {with(good, "</w>", "model", "end_of_word_suffix"), "model has \"end_of_word_suffix\": \"\\\"</w>\\\"\" is not implemented"},
           {with(good, 1, "model", "max_input"), "model has \"max_input\", which is not known"},
           {with(good, 1, "extra"), "it has \"extra\", which is not known"},
           {added("lstrip", true), "the added token \"<pad>\" has \"lstrip\": \"true\" is not implemented"},
           {added("single_word", true), "has \"single_word\""},
           {added("extra", 1), "the added token \"<pad>\" has \"extra\", which is not known"},
       }) {
    INFO(message);
    CHECK_THAT(error_of([&, &file = file] { read(file); }), ContainsSubstring(message));
  }
}

TEST_CASE("a malformed tokenizer.json is refused", "[data][tokenizer_json]") {
  const json good = hugging_face();
  struct Row {
    json file;
    const char* message;
  };
  const auto added = [&](const char* key, const json& value) { return with(good, value, "added_tokens", 2, key); };
  for (const auto& [file, message] : std::vector<Row>{
           {json::array(), "not a saved tokenizer"},
           {with(good, 1, "model"), "model is \"1\"; expected an object"},
           {with(good, 1, "model", "vocab"), "has no \"vocab\""},
           {with(good, 1, "model", "merges"), "has no list of \"merges\""},
           {with(good, json{1}, "model", "merges"), "merge 1 \"1\" is neither a string nor a pair of strings"},
           {with(good, json::array({json{"a", "b", "c"}}), "model", "merges"), "is neither a string nor a pair of strings"},
           {with(good, json{"ab"}, "model", "merges"), "merge 1 \"ab\" is not two tokens with a space between them"},
           {with(good, json::array({json{"a", "x"}}), "model", "merges"), "merge 1 \"a x\": \"x\" is no token"},
           {with(good, 8, "model", "vocab", "c"), "have the same id 8"},
           {with(good, 11, "model", "vocab", "c"), "token \"c\" has the id \"11\"; the ids of 10 tokens must be 0 to 9"},
           {with(good, "<none>", "model", "unk_token"), "the unk_token \"<none>\" is no token"},
           {with(good, 1, "model", "unk_token"), "model has \"unk_token\": \"1\"; expected a string"},
           {with(bytes(), nullptr, "model", "unk_token"), "has no token \"\xc4\x80\" for the byte 0x00, and no unk_token"},
           {with(good, 1, "added_tokens"), "\"added_tokens\" is no list"},
           {with(good, json{1}, "added_tokens"), "an added token is \"1\"; expected an object"},
           {added("content", 1), "has \"content\": \"1\"; expected a string"},
           {added("content", ""), "token 9 is empty"},
           {added("content", "a"), "the added token \"a\" has the id 9, but the model's vocabulary says \"2\""},
           {added("content", "<pad>"), "the added token \"<pad>\" is there twice"},
           {added("id", -1), "the added token \"zzz\" has the id \"-1\"; expected a number from 0"},
           {added("id", 8), "have the same id 8"},
           {added("id", 10), "token \"zzz\" has the id \"10\""},
           {added("special", 1), "has \"special\": \"1\"; expected true or false"},
       }) {
    INFO(message);
    CHECK_THAT(error_of([&, &file = file] { read(file); }), ContainsSubstring(message));
  }
  const auto strict = read(with(good, nullptr, "model", "unk_token"));
  CHECK(strict.encode("abc") == Ids{8});
  CHECK_THAT(error_of([&] { strict.encode("abé"); }), ContainsSubstring("the character \"é\" is none of the vocabulary"));
}

TEST_CASE("a list that is nested a million deep is refused like any other", "[data][tokenizer_json]") {
  const std::string deep = std::string(1'000'000, '[') + std::string(1'000'000, ']'), good = hugging_face().dump();
  const TemporaryFolder folder;
  for (const char* place :
       {"\"normalizer\":null", "\"unk_token\":\"<unk>\"", "\"c\":4", "\"merges\":[", "\"added_tokens\":[", "\"type\":\"BPE\"",
        "\"prepend_scheme\":\"always\"", "\"id\":0", "\"content\":\"zzz\"", "\"version\":\"1.0\""}) {
    INFO(place);
    std::string file = good;
    const size_t at = file.find(place);
    REQUIRE(at != std::string::npos);
    const std::string text = place;
    if (text.back() == '[') file.insert(at + text.size(), deep + ",");
    else file.replace(at, text.size(), text.substr(0, text.find(':') + 1) + deep);
    CHECK_THAT(error_of([&] { BpeTokenizer::from_json(file); }), ContainsSubstring("[...]"));
  }
  for (const std::string& file :
       {"{\"type\":" + deep + "}", "{\"type\":\"char\",\"characters\":[" + deep + "]}", "{\"type\":\"gpt2\",\"tokens\":[" + deep + "]}"}) {
    write_file_atomically(folder / "deep.json", file);
    CHECK(error_of([&] { load_tokenizer(folder / "deep.json"); }) != "(no error)");
  }
}

TEST_CASE("a text of kind metaspace can be cut before its last space", "[data][tokenizer_json]") {
  const auto tokenizer = read(hugging_face());
  for (const std::string text : {"abc  ab cQ\n a", " a", "", "  ", "ab▁c ab "}) {
    const Ids whole = tokenizer.encode(text);
    for (size_t n = 0; n <= text.size(); ++n) {
      const size_t cut = tokenizer.safe_prefix(std::string_view(text).substr(0, n));
      REQUIRE(cut <= n);
      Ids parts = tokenizer.encode(text.substr(0, cut));
      for (const int64_t id : tokenizer.encode(text.substr(cut))) parts.push_back(id);
      CHECK(parts == whole);
    }
  }
  CHECK(tokenizer.safe_prefix("a b c") == 3);
}

TEST_CASE("GPT-2's vocabulary is the same as a tokenizer.json", "[data][tokenizer_json]") {
  const char* data = std::getenv("RETAPE_DATA");
  if (!data || !fs::exists(fs::path(data) / "gpt2-bpe" / "encoder.json")) {
    WARN("skipped: RETAPE_DATA does not name a folder with gpt2-bpe");
    return;
  }
  const TemporaryFolder folder;
  const auto tokenizer = BpeTokenizer::load(fs::path(data) / "gpt2-bpe");
  tokenizer.save(folder / "tokenizer.json");
  const auto saved = BpeTokenizer::load(folder / "tokenizer.json");
  CHECK(saved.size() == 50257);
  CHECK(saved.special_tokens() == std::set<std::string>{"<|endoftext|>"});
  const std::string text = "Hello world! It's 日本 \u00a0 1234\n\n";
  CHECK(saved.encode(text) == tokenizer.encode(text));
  CHECK(saved.to_json() == tokenizer.to_json());
}
