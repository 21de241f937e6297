// Tokenizer and token dataset.

#include <filesystem>
#include <numeric>

#include <retape/io/file.h>

#include "../catch.h"
#include "../temporary.h"

using namespace retape;
using namespace retape::testing;

namespace {
std::vector<int64_t> count_to(int64_t n) {
  std::vector<int64_t> tokens(static_cast<size_t>(n));
  std::iota(tokens.begin(), tokens.end(), int64_t{0});
  return tokens;
}
}  // namespace

TEST_CASE("characters are numbered in the order of their code points", "[data]") {
  const auto tokenizer = CharTokenizer::from_text("hello\nwörld €😀");
  CHECK(tokenizer.size() == 12);
  CHECK(tokenizer.encode("\n dehlorwö€😀").size() == 12);
  CHECK(tokenizer.encode("\n dehlorwö€😀") == count_to(12));
  CHECK(tokenizer.decode(count_to(12)) == "\n dehlorwö€😀");
  const std::string text = "wöw €€ 😀 hello";
  CHECK(tokenizer.decode(tokenizer.encode(text)) == text);
  CHECK(tokenizer.encode("").empty());
  CHECK(tokenizer.decode({}).empty());
  CHECK(CharTokenizer::from_text("").size() == 0);
}

TEST_CASE("unknown characters and ids are named", "[data]") {
  const auto tokenizer = CharTokenizer::from_text("abcö");
  CHECK_THAT(error_of([&] { tokenizer.encode("abX"); }), ContainsSubstring("character 'X' U+0058 at byte 2 is none of the 4"));
  CHECK_THAT(error_of([&] { tokenizer.encode("öé"); }), ContainsSubstring("character 'é' U+00E9 at byte 2"));
  CHECK_THAT(error_of([&] { tokenizer.encode("a\n"); }), ContainsSubstring("character U+000A at byte 1"));
  CHECK_THAT(error_of([&] { tokenizer.decode({0, 4}); }), ContainsSubstring("there is no token 4; expected 0 <= id < 4"));
  CHECK_THAT(error_of([&] { tokenizer.decode({-1}); }), ContainsSubstring("there is no token -1"));
}

TEST_CASE("text that is not UTF-8 is an error with the offset", "[data]") {
  struct Row {
    std::string text;
    const char* message;
  };
  for (const auto& [text, message] : std::vector<Row>{
           {"ab\x80", "byte 0x80 at offset 2"},  // a continuation without a beginning
           {"ab\xc3", "byte 0xc3 at offset 2"},  // cut off
           {"\xc3(", "byte 0xc3 at offset 0"},   // not continued
           {"\xe2\x82", "byte 0xe2 at offset 0"},
           {"\xc0\xaf", "byte 0xc0 at offset 0"},  // overlong
           {"\xe0\x80\xaf", "byte 0xe0 at offset 0"},
           {"\xf0\x80\x80\xaf", "byte 0xf0 at offset 0"},
           {"a\xed\xa0\x80", "byte 0xed at offset 1"},     // a surrogate
           {"\xf4\x90\x80\x80", "byte 0xf4 at offset 0"},  // above U+10FFFF
           {"\xf8\x88\x80\x80\x80", "byte 0xf8 at offset 0"},
           {"\xff", "byte 0xff at offset 0"},
       }) {
    INFO(message);
    CHECK_THAT(error_of([&, &text = text] { CharTokenizer::from_text(text); }), ContainsSubstring(message));
    CHECK_THAT(error_of([&, &text = text] { CharTokenizer::from_text("ab").encode(text.substr(text.find_first_not_of("ab"))); }),
               ContainsSubstring("not valid UTF-8"));
  }
  const std::string edges = "\x7f\xc2\x80\xdf\xbf\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xef\xbf\xbf\xf0\x90\x80\x80\xf4\x8f\xbf\xbf";
  const auto tokenizer = CharTokenizer::from_text(edges);
  CHECK(tokenizer.size() == 9);
  CHECK(tokenizer.encode(edges) == count_to(9));
  CHECK(tokenizer.decode(count_to(9)) == edges);
}

TEST_CASE("a tokenizer comes back from its file, and other files are refused", "[data]") {
  const TemporaryFile file;
  const std::string text("\0\n\"\\aö😀", 11);
  const auto tokenizer = CharTokenizer::from_text(text);
  tokenizer.save(file.path);
  const auto loaded = CharTokenizer::load(file.path);
  CHECK(loaded.size() == tokenizer.size());
  CHECK(loaded.encode(text) == tokenizer.encode(text));
  CHECK(loaded.decode(loaded.encode(text)) == text);

  struct Row {
    const char *content, *message;
  };
  for (const auto& [content, message] : std::vector<Row>{
           {"", "not valid JSON"},
           {"{", "not valid JSON"},
           {"[]", "not a character tokenizer"},
           {R"({"type":"bpe","characters":[]})", "not a character tokenizer"},
           {R"({"type":"char"})", "not a character tokenizer"},
           {R"({"type":"char","characters":"ab"})", "not a character tokenizer"},
           {R"({"type":"char","characters":["a",1]})", "character 1 is 1; it must be a string of one character"},
           {R"({"type":"char","characters":["ab"]})", "character 0 is \"ab\""},
           {R"({"type":"char","characters":[""]})", "character 0 is \"\""},
           {R"({"type":"char","characters":["a","b","a"]})", "character 'a' U+0061 is there twice"},
       }) {
    INFO(content);
    write_file_atomically(file.path, std::string_view(content));
    CHECK_THAT(error_of([&] { CharTokenizer::load(file.path); }), ContainsSubstring(message));
  }
  CHECK_THAT(error_of([&] { CharTokenizer::load(file.path + "none"); }), ContainsSubstring("No such file"));
}

TEST_CASE("targets are the inputs shifted by one, and stay inside their part", "[data]") {
  TokenDataset data(count_to(1000), {.block = 8, .val_fraction = 0.1, .seed = 1});
  CHECK(data.size(Split::train) == 900);
  CHECK(data.size(Split::val) == 100);
  int64_t least[2] = {1000, 1000}, most[2] = {0, 0};
  for (int i = 0; i < 300; ++i)
    for (const Split split : {Split::train, Split::val}) {
      const auto [x, y] = data.sample(16, split);
      REQUIRE(x.shape() == Shape{16, 8});
      REQUIRE(x.dtype() == DType::i64);
      CHECK(same_bits(x + 1, y));
      CHECK(same_bits(slice(x, 1, 1, 8) - slice(x, 1, 0, 7), ones({16, 7}, {DType::i64})));
      const int s = int(split);
      least[s] = std::min(least[s], amin(x).item<int64_t>()), most[s] = std::max(most[s], amax(y).item<int64_t>());
    }
  // In many epochs the ends are met.
  CHECK(least[0] == 0);
  CHECK(most[0] == 899);
  CHECK(least[1] == 900);
  CHECK(most[1] == 999);
}

TEST_CASE("an epoch visits every block once, in another order and from another token each time", "[data]") {
  TokenDataset data(count_to(501), {.block = 5, .val_fraction = 0, .seed = 5});
  std::vector<int> phases(6);
  std::vector<int64_t> last;
  for (int epoch = 0; epoch < 200; ++epoch) {
    std::vector<int64_t> starts;
    for (const int64_t batch : {64, 35})  // an epoch has (501 - 5) / 5 = 99 blocks
      for (const int64_t start : select(data.sample(batch).x, 1, 0).to_vector<int64_t>()) starts.push_back(start);
    CHECK(starts != last);
    last = starts;
    std::sort(starts.begin(), starts.end());
    for (size_t i = 0; i < starts.size(); ++i) CHECK(starts[i] == starts[0] + 5 * int64_t(i));
    ++phases.at(size_t(starts[0]));
  }
  for (const int n : phases) CHECK(std::abs(n - 33) < 5 * std::sqrt(33.0));
}

TEST_CASE("each block is equally likely to come first", "[data]") {
  std::vector<int> times(10);
  for (uint64_t seed = 0; seed < 2000; ++seed)
    ++times[size_t(TokenDataset(count_to(11), {.block = 1, .val_fraction = 0, .seed = seed}).sample(1).x.item<int64_t>())];
  for (const int n : times) CHECK(std::abs(n - 200) < 5 * std::sqrt(200.0));
}

TEST_CASE("a dataset set to a state goes on with the same batches", "[data]") {
  TokenDataset data(count_to(500), {.block = 4, .seed = 3}), again(count_to(500), {.block = 4, .seed = 3}),
      other(count_to(500), {.block = 4, .seed = 4});
  CHECK(same_bits(data.sample(5).x, again.sample(5).x));
  CHECK_FALSE(same_bits(data.sample(5).x, other.sample(5).x));
  const RandomState state = data.state();
  const Tensor first = data.sample(7).x, second = data.sample(7).x;
  CHECK_FALSE(same_bits(first, second));
  other.set_state(state);
  CHECK(same_bits(other.sample(7).x, first));
  CHECK(same_bits(other.sample(7).x, second));
}

TEST_CASE("in order, every token of a part but its first is a target once", "[data]") {
  for (const int64_t n : {100, 101, 104, 105, 109}) {
    const TokenDataset data(count_to(n), {.block = 8, .val_fraction = 0.5});
    for (const Split split : {Split::train, Split::val})
      for (const int64_t batch : {1, 3, 100}) {
        std::vector<int64_t> inputs, targets;
        const int64_t batches = data.batches(batch, split);
        for (int64_t i = 0; i < batches; ++i) {
          const auto [x, y] = data.batch(i, batch, split);
          CHECK(x.size(0) <= batch);
          CHECK((x.size(1) == 8 || i == batches - 1));
          for (int64_t id : x.to_vector<int64_t>()) inputs.push_back(id);
          for (int64_t id : y.to_vector<int64_t>()) targets.push_back(id);
        }
        const int64_t begin = split == Split::train ? 0 : data.size(Split::train), size = data.size(split);
        REQUIRE(int64_t(targets.size()) == size - 1);
        for (int64_t i = 0; i < size - 1; ++i) {
          CHECK(inputs[size_t(i)] == begin + i);
          CHECK(targets[size_t(i)] == begin + i + 1);
        }
        CHECK_THAT(error_of([&] { data.batch(batches, batch, split); }), ContainsSubstring("there is no batch"));
      }
  }
}

TEST_CASE("a text shorter than a block is an error with both numbers", "[data]") {
  const auto making = [](int64_t n, TokenDatasetOptions options) { return error_of([&] { TokenDataset(count_to(n), options); }); };
  CHECK_THAT(making(50, {.block = 64}),
             ContainsSubstring("the training part has 45 of 50 tokens, too few for one block and the token after it, 65"));
  CHECK_THAT(making(100, {.block = 10}),
             ContainsSubstring("the validation part has 10 of 100 tokens, too few for one block and the token after it, 11"));
  CHECK_THAT(making(0, {}), ContainsSubstring("has 0 of 0 tokens"));
  CHECK_THAT(making(100, {.block = 0}), ContainsSubstring("block 0 is not valid"));
  CHECK_THAT(making(100, {.block = INT64_MAX}), ContainsSubstring("9223372036854775808"));
  CHECK_THAT(making(100, {.block = 4, .val_fraction = 1}), ContainsSubstring("val_fraction 1 is not valid"));
  CHECK_THAT(making(100, {.block = 4, .val_fraction = NAN}), ContainsSubstring("val_fraction nan"));
  CHECK_THAT(error_of([] {
               TokenDataset({1, 2, -3, 4}, {.block = 1, .val_fraction = 0});
             }),
             ContainsSubstring("token -3 at 2 is out of range"));
  CHECK(making(11, {.block = 10, .val_fraction = 0}) == "(no error)");

  TokenDataset data(count_to(11), {.block = 10, .val_fraction = 0});
  CHECK(data.sample(2).x.to_vector<int64_t>()[0] == 0);
  CHECK(data.batches(4) == 0);
  CHECK_THAT(error_of([&] { data.sample(0); }), ContainsSubstring("a batch of 0 blocks"));
  CHECK_THAT(error_of([&] { data.sample(1, Split::val); }), ContainsSubstring("no validation part"));
}
