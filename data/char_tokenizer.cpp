#include <retape/data/char_tokenizer.h>

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include <retape/core/error.h>
#include <retape/data/utf8.h>
#include <retape/io/file.h>

namespace retape {
namespace {

char32_t next_character(const char* op, std::string_view text, size_t& at) {
  const size_t start = at;
  const char32_t c = utf8::next(text, at);
  if (c == utf8::invalid)
    throw Error(fmt::format("{}: the text is not valid UTF-8: byte 0x{:02x} at offset {}", op, uint8_t(text[start]), start));
  return c;
}
std::string describe(char32_t c) {
  std::string text;
  if (c >= 0x20 && c != 0x7f && !(c >= 0x80 && c < 0xa0)) {
    utf8::append(text, c);
    text = "'" + text + "' ";
  }
  return fmt::format("{}U+{:04X}", text, uint32_t(c));
}

}  // namespace

CharTokenizer::CharTokenizer(std::u32string characters) : characters_(std::move(characters)) {
  ascii_.fill(-1);
  for (size_t i = 0; i < characters_.size(); ++i) {
    const char32_t c = characters_[i];
    if (c < ascii_.size()) ascii_[c] = int64_t(i);
    else others_.emplace(c, int64_t(i));
  }
}
int64_t CharTokenizer::id_of(char32_t c) const {
  if (c < ascii_.size()) return ascii_[c];
  const auto found = others_.find(c);
  return found == others_.end() ? -1 : found->second;
}

CharTokenizer CharTokenizer::from_text(std::string_view text) {
  std::array<bool, 128> ascii{};
  std::set<char32_t> characters;
  for (size_t at = 0; at < text.size();) {
    const char32_t c = next_character("char_tokenizer", text, at);
    if (c < ascii.size()) ascii[c] = true;
    else characters.insert(c);
  }
  std::u32string sorted;
  for (size_t c = 0; c < ascii.size(); ++c)
    if (ascii[c]) sorted += char32_t(c);
  sorted.append(characters.begin(), characters.end());
  return CharTokenizer(std::move(sorted));
}

std::vector<int64_t> CharTokenizer::encode(std::string_view text) const {
  std::vector<int64_t> ids;
  ids.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const size_t start = at;
    const char32_t c = next_character("encode", text, at);
    const int64_t id = id_of(c);
    if (id < 0)
      throw Error(fmt::format("encode: character {} at byte {} is none of the {} that the tokenizer knows", describe(c), start, size()));
    ids.push_back(id);
  }
  return ids;
}
std::string CharTokenizer::decode(const std::vector<int64_t>& ids) const {
  std::string text;
  text.reserve(ids.size());
  for (const int64_t id : ids) {
    if (id < 0 || id >= size()) throw Error(fmt::format("decode: there is no token {}; expected 0 <= id < {}", id, size()));
    utf8::append(text, characters_[size_t(id)]);
  }
  return text;
}

size_t CharTokenizer::safe_prefix(std::string_view text) const { return utf8::whole_characters(text); }

void CharTokenizer::save(const std::filesystem::path& path) const {
  auto list = nlohmann::ordered_json::array();
  for (const char32_t c : characters_) {
    std::string text;
    utf8::append(text, c);
    list.push_back(std::move(text));
  }
  write_file_atomically(path, nlohmann::ordered_json{{"type", "char"}, {"characters", std::move(list)}}.dump() + "\n");
}
CharTokenizer CharTokenizer::load(const std::filesystem::path& path) {
  const auto fail = [&](const std::string& what) { throw Error(fmt::format("char_tokenizer: {}: {}", path.string(), what)); };
  const std::string content = read_file(path);
  const auto json = nlohmann::json::parse(content, nullptr, false);
  if (json.is_discarded()) fail("not valid JSON");
  if (!json.is_object() || !json.contains("type") || json["type"] != "char" || !json.contains("characters") ||
      !json["characters"].is_array())
    fail("not a character tokenizer, which is an object of \"type\": \"char\" and \"characters\", a list");
  std::u32string characters;
  std::set<char32_t> known;
  for (auto& entry : json["characters"]) {
    size_t at = 0;
    const std::string text = entry.is_string() ? entry.get<std::string>() : "";
    const char32_t c = text.empty() ? 0 : next_character("char_tokenizer", text, at);
    if (at == 0 || at != text.size())
      fail(fmt::format("character {} is {}; it must be a string of one character", characters.size(),
                       entry.is_structured() ? "a list or an object" : entry.dump()));
    if (!known.insert(c).second) fail(fmt::format("character {} is there twice", describe(c)));
    characters += c;
  }
  return CharTokenizer(std::move(characters));
}

}  // namespace retape
