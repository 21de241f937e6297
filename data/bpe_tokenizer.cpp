#include <retape/data/bpe_tokenizer.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <queue>
#include <unordered_map>

#include <retape/core/error.h>
#include <retape/data/utf8.h>
#include <retape/io/file.h>
#include <retape/io/quote.h>

namespace retape {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

// GPT-2's pattern. White space is spelled out because PCRE's \s differs from Unicode's in U+180E.
#define RETAPE_SPACE R"(\t-\r \x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})"
constexpr const char* word_pattern = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{L}\p{N})" RETAPE_SPACE R"(]+|[)" RETAPE_SPACE
                                     R"(]+(?![^)" RETAPE_SPACE R"(])|[)" RETAPE_SPACE R"(]+)";
#undef RETAPE_SPACE

constexpr size_t longest_cached = 64, most_cached = size_t{1} << 17;

// Vocabulary files write every byte as a printable character: itself where it is one in Latin-1, else U+0100 and up.
struct ByteAlphabet {
  std::array<char32_t, 256> character;
  std::unordered_map<char32_t, uint8_t> byte;
  ByteAlphabet() {
    char32_t next = 0x100;
    for (int b = 0; b < 256; ++b) {
      const bool printable = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
      character[size_t(b)] = printable ? char32_t(b) : next++;
      byte.emplace(character[size_t(b)], uint8_t(b));
    }
  }
  // What a token of a vocabulary file stands for. A special token that has other characters stands for itself.
  std::string bytes_of(const std::string& name) const {
    std::string bytes;
    for (size_t at = 0; at < name.size();) {
      const auto found = byte.find(utf8::next(name, at));
      if (found == byte.end()) return name;
      bytes += char(found->second);
    }
    return bytes;
  }
  std::string name_of(uint8_t b) const {
    std::string name;
    utf8::append(name, character[b]);
    return name;
  }
};
const ByteAlphabet& alphabet() {
  static const ByteAlphabet a;
  return a;
}

struct Hash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
};
template <class T> using StringMap = std::unordered_map<std::string, T, Hash, std::equal_to<>>;

// What one call of encode() works with: words that it has seen, and PCRE's scratch.
struct Scratch {
  StringMap<std::vector<int32_t>> words;
  pcre2_match_data* match = pcre2_match_data_create(1, nullptr);
  Scratch() {
    if (!match) throw std::bad_alloc();
  }
  Scratch(const Scratch&) = delete;
  ~Scratch() { pcre2_match_data_free(match); }
};

uint64_t key_of(int32_t left, int32_t right) { return uint64_t(uint32_t(left)) << 32 | uint32_t(right); }

}  // namespace

struct BpeTokenizer::Model {
  struct Merge {
    int32_t rank, id;
  };
  std::vector<std::string> names, tokens;           // by id: as files write them, and their bytes
  std::vector<std::pair<int32_t, int32_t>> merged;  // by rank
  std::unordered_map<uint64_t, Merge> merges;
  std::array<int32_t, 256> byte_ids{};
  std::map<std::string, int64_t> special;
  std::set<std::string> special_names;
  std::unique_ptr<pcre2_code, void (*)(pcre2_code*)> pattern{nullptr, pcre2_code_free};

  Model(std::vector<std::string> names, const std::vector<std::string>& merge_lines, const std::string& file);
  Model(const Model&) = delete;
  void encode(std::string_view text, Scratch& scratch, std::vector<int64_t>& ids) const;
  void encode_words(std::string_view text, Scratch& scratch, std::vector<int64_t>& ids) const;
  void encode_word(std::string_view word, Scratch& scratch, std::vector<int64_t>& ids) const;
  std::vector<int32_t> merge(std::string_view word) const;

  // Each call takes one and gives it back, so that words stay known from call to call and threads do not wait for each other.
  mutable std::mutex mutex;
  mutable std::vector<std::unique_ptr<Scratch>> idle;
  std::unique_ptr<Scratch> take() const {
    const std::lock_guard lock(mutex);
    if (idle.empty()) return std::make_unique<Scratch>();
    auto scratch = std::move(idle.back());
    idle.pop_back();
    return scratch;
  }
  void give(std::unique_ptr<Scratch> scratch) const {
    const std::lock_guard lock(mutex);
    idle.push_back(std::move(scratch));
  }
};

// ---- the vocabulary -------------------------------------------------------------------------------------------------

BpeTokenizer::Model::Model(std::vector<std::string> all_names, const std::vector<std::string>& merge_lines, const std::string& file)
    : names(std::move(all_names)) {
  const auto fail = [&](const std::string& what) { throw Error(fmt::format("bpe_tokenizer: {}: {}", file, what)); };
  StringMap<int32_t> ids;
  for (auto& name : names) {
    if (name.empty()) fail(fmt::format("token {} is empty", ids.size()));
    if (!ids.emplace(name, int32_t(ids.size())).second) fail(fmt::format("the token {} is there twice", in_quotes(name)));
    tokens.push_back(alphabet().bytes_of(name));
  }
  std::vector<bool> reached(names.size());
  for (int b = 0; b < 256; ++b) {
    const auto found = ids.find(alphabet().name_of(uint8_t(b)));
    if (found == ids.end())
      fail(fmt::format("the vocabulary has no token {} for the byte 0x{:02x}", in_quotes(alphabet().name_of(uint8_t(b))), b));
    byte_ids[size_t(b)] = found->second;
    reached[size_t(found->second)] = true;
  }
  merges.reserve(merge_lines.size());
  for (auto& line : merge_lines) {
    const auto what = [&] { return fmt::format("merge {} {}", merged.size() + 1, in_quotes(line)); };
    const size_t space = line.find(' ');
    if (space == std::string::npos || space == 0 || space + 1 == line.size() || line.find(' ', space + 1) != std::string::npos)
      fail(fmt::format("{} is not two tokens with a space between them", what()));
    const auto id_of = [&](const std::string& name) {
      const auto found = ids.find(name);
      if (found == ids.end()) fail(fmt::format("{}: {} is no token of the vocabulary", what(), in_quotes(name)));
      return found->second;
    };
    const std::string left_name = line.substr(0, space), right_name = line.substr(space + 1);
    const int32_t left = id_of(left_name), right = id_of(right_name), id = id_of(left_name + right_name);
    if (!merges.emplace(key_of(left, right), Merge{int32_t(merged.size()), id}).second) fail(fmt::format("{} is there twice", what()));
    merged.emplace_back(left, right);
    reached[size_t(id)] = true;
  }
  for (size_t id = 0; id < names.size(); ++id) {
    if (reached[id]) continue;
    special.emplace(tokens[id], int64_t(id));
    special_names.insert(tokens[id]);
  }

  int error = 0;
  PCRE2_SIZE offset = 0;
  pattern.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(word_pattern), PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED,
                              &error, &offset, nullptr));
  if (!pattern) throw Error(fmt::format("bpe_tokenizer: libpcre2 refuses the pattern at {}: error {}", offset, error));
  pcre2_jit_compile(pattern.get(), PCRE2_JIT_COMPLETE);  // where it cannot, pcre2_match interprets the pattern
}

BpeTokenizer::BpeTokenizer(std::shared_ptr<const Model> model) : model_(std::move(model)) {}

namespace {

std::vector<std::string> names_by_id(std::string_view content, const std::string& file) {
  const auto fail = [&](const std::string& what) { throw Error(fmt::format("bpe_tokenizer: {}: {}", file, what)); };
  const json vocabulary = json::parse(content, nullptr, false);
  if (vocabulary.is_discarded()) fail("not valid JSON");
  if (!vocabulary.is_object()) fail(R"(not a vocabulary, which is an object {"token": id, ...})");
  std::vector<std::string> names(vocabulary.size());
  std::vector<bool> known(names.size());
  for (auto& [name, id] : vocabulary.items()) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= names.size())
      fail(fmt::format("token {} has the id {}; the ids of {} tokens must be 0 to {}", in_quotes(name), in_quotes(id.dump()), names.size(),
                       names.size() - 1));
    const size_t i = id.get<size_t>();
    if (known[i]) fail(fmt::format("tokens {} and {} have the same id {}", in_quotes(names[i]), in_quotes(name), i));
    known[i] = true;
    names[i] = name;
  }
  return names;
}

std::vector<std::string> lines_of(std::string_view text) {
  std::vector<std::string> lines;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    lines.emplace_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  if (!lines.empty() && lines.front().starts_with("#version")) lines.erase(lines.begin());
  return lines;
}

std::vector<std::string> strings_of(const json& object, const char* key, const std::string& file) {
  const auto fail = [&](const std::string& what) { throw Error(fmt::format("bpe_tokenizer: {}: {}", file, what)); };
  if (!object.contains(key) || !object[key].is_array()) fail(fmt::format("\"{}\" is missing or is no list", key));
  std::vector<std::string> strings;
  for (auto& entry : object[key]) {
    if (!entry.is_string()) fail(fmt::format("\"{}\" has {}; all must be strings", key, in_quotes(entry.dump())));
    strings.push_back(entry.get<std::string>());
  }
  return strings;
}

}  // namespace

BpeTokenizer BpeTokenizer::from_files(std::string_view vocabulary_json, std::string_view merges) {
  return BpeTokenizer(std::make_shared<const Model>(names_by_id(vocabulary_json, "vocabulary"), lines_of(merges), "vocabulary and merges"));
}

BpeTokenizer BpeTokenizer::load(const fs::path& path) {
  if (fs::is_directory(path)) {
    for (const auto& [vocabulary, merges] : {std::pair{"encoder.json", "vocab.bpe"}, std::pair{"vocab.json", "merges.txt"}}) {
      if (!fs::exists(path / vocabulary) && !fs::exists(path / merges)) continue;
      return BpeTokenizer(std::make_shared<const Model>(names_by_id(read_file(path / vocabulary), (path / vocabulary).string()),
                                                        lines_of(read_file(path / merges)), (path / merges).string()));
    }
    throw Error(fmt::format("bpe_tokenizer: {} has neither encoder.json and vocab.bpe nor vocab.json and merges.txt", path.string()));
  }
  const json saved = json::parse(read_file(path), nullptr, false);
  if (saved.is_discarded()) throw Error(fmt::format("bpe_tokenizer: {}: not valid JSON", path.string()));
  if (!saved.is_object() || saved.value("type", json()) != "gpt2")
    throw Error(fmt::format("bpe_tokenizer: {}: not a saved tokenizer of \"type\": \"gpt2\"", path.string()));
  auto tokens = strings_of(saved, "tokens", path.string());
  return BpeTokenizer(std::make_shared<const Model>(std::move(tokens), strings_of(saved, "merges", path.string()), path.string()));
}

void BpeTokenizer::save(const fs::path& path) const {
  auto merges = nlohmann::ordered_json::array();
  for (const auto& [left, right] : model_->merged) merges.push_back(model_->names[size_t(left)] + ' ' + model_->names[size_t(right)]);
  const nlohmann::ordered_json saved{{"type", type()}, {"tokens", model_->names}, {"merges", std::move(merges)}};
  write_file_atomically(path, saved.dump() + "\n");
}

int64_t BpeTokenizer::size() const { return int64_t(model_->names.size()); }
const std::set<std::string>& BpeTokenizer::special_tokens() const { return model_->special_names; }
int64_t BpeTokenizer::special_id(const std::string& name) const {
  const auto found = model_->special.find(name);
  if (found == model_->special.end()) {
    std::string known;
    for (auto& special : model_->special_names) known += (known.empty() ? "" : ", ") + in_quotes(special);
    throw Error(
        fmt::format("bpe_tokenizer: {} is no special token; the vocabulary has {}", in_quotes(name), known.empty() ? "none" : known));
  }
  return found->second;
}

// ---- encoding -------------------------------------------------------------------------------------------------------

// The pairs of neighbours wait in a heap, the one learned first (of equals, the leftmost) on top; a pair of which a part has been
// merged meanwhile is recognised when it comes up. n log n, also for a word of a million bytes.
std::vector<int32_t> BpeTokenizer::Model::merge(std::string_view word) const {
  struct Candidate {
    int32_t rank, id;
    size_t at;
    uint64_t pair;
    bool operator<(const Candidate& o) const { return rank != o.rank ? rank > o.rank : at > o.at; }
  };
  const size_t n = word.size();
  std::vector<int32_t> ids(n);  // -1: merged into the one before
  std::vector<size_t> next(n), before(n);
  for (size_t i = 0; i < n; ++i) ids[i] = byte_ids[uint8_t(word[i])], next[i] = i + 1, before[i] = i - 1;
  std::priority_queue<Candidate> heap;
  const auto consider = [&](size_t at) {
    if (next[at] >= n) return;
    const uint64_t pair = key_of(ids[at], ids[next[at]]);
    if (const auto found = merges.find(pair); found != merges.end()) heap.push({found->second.rank, found->second.id, at, pair});
  };
  for (size_t i = 0; i < n; ++i) consider(i);
  while (!heap.empty()) {
    const Candidate top = heap.top();
    heap.pop();
    if (ids[top.at] < 0 || next[top.at] >= n || key_of(ids[top.at], ids[next[top.at]]) != top.pair) continue;
    const size_t gone = next[top.at];
    ids[top.at] = top.id;
    ids[gone] = -1;
    next[top.at] = next[gone];
    if (next[gone] < n) before[next[gone]] = top.at;
    consider(top.at);
    if (top.at > 0) consider(before[top.at]);
  }
  std::erase(ids, -1);
  return ids;
}

void BpeTokenizer::Model::encode_word(std::string_view word, Scratch& scratch, std::vector<int64_t>& ids) const {
  if (const auto known = scratch.words.find(word); known != scratch.words.end()) {
    ids.insert(ids.end(), known->second.begin(), known->second.end());
    return;
  }
  auto word_ids = merge(word);
  ids.insert(ids.end(), word_ids.begin(), word_ids.end());
  if (word.size() > longest_cached) return;
  if (scratch.words.size() >= most_cached) scratch.words.clear();
  scratch.words.emplace(word, std::move(word_ids));
}

// Splits valid UTF-8 by the pattern, which matches at every character.
void BpeTokenizer::Model::encode_words(std::string_view text, Scratch& scratch, std::vector<int64_t>& ids) const {
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  for (size_t at = 0; at < text.size();) {
    const int matches = pcre2_match(pattern.get(), subject, text.size(), at, PCRE2_NO_UTF_CHECK, scratch.match, nullptr);
    const size_t end = matches > 0 ? pcre2_get_ovector_pointer(scratch.match)[1] : 0;
    if (end <= at) throw Error(fmt::format("encode: libpcre2 cannot split the text at byte {}: error {}", at, matches));
    encode_word(text.substr(at, end - at), scratch, ids);
    at = end;
  }
}

void BpeTokenizer::Model::encode(std::string_view text, Scratch& scratch, std::vector<int64_t>& ids) const {
  size_t begin = 0;  // of the run of valid, or of invalid, bytes
  bool valid = true;
  const auto flush = [&](size_t end) {
    if (end == begin) return;
    if (valid) encode_words(text.substr(begin, end - begin), scratch, ids);
    else encode_word(text.substr(begin, end - begin), scratch, ids);
    begin = end;
  };
  for (size_t at = 0; at < text.size();) {
    const size_t start = at;
    const bool good = uint8_t(text[at]) < 0x80 ? (++at, true) : utf8::next(text, at) != utf8::invalid;
    if (good == valid) continue;
    flush(start);
    valid = good;
  }
  flush(text.size());
}

std::vector<int64_t> BpeTokenizer::encode(std::string_view text) const { return encode(text, {}); }

std::vector<int64_t> BpeTokenizer::encode(std::string_view text, const std::set<std::string>& allowed_special) const {
  // Of special tokens that begin at the same place, the longest.
  std::vector<std::pair<std::string, int64_t>> allowed;
  for (auto& name : allowed_special) allowed.emplace_back(name, special_id(name));
  std::sort(allowed.begin(), allowed.end(), [](auto& a, auto& b) { return a.first.size() > b.first.size(); });

  std::vector<int64_t> ids;
  ids.reserve(text.size() / 4);
  auto scratch = model_->take();
  std::vector<size_t> places(allowed.size(), 0);  // where each is found next
  for (size_t i = 0; i < allowed.size(); ++i) places[i] = text.find(allowed[i].first);
  for (size_t at = 0; at < text.size();) {
    size_t first = text.size(), which = 0;
    for (size_t i = 0; i < allowed.size(); ++i) {
      if (places[i] < at) places[i] = text.find(allowed[i].first, at);
      if (places[i] < first) first = places[i], which = i;
    }
    model_->encode(text.substr(at, first - at), *scratch, ids);
    at = first;
    if (first == text.size()) break;
    ids.push_back(allowed[which].second);
    at += allowed[which].first.size();
  }
  model_->give(std::move(scratch));
  return ids;
}

std::string BpeTokenizer::decode(const std::vector<int64_t>& ids) const {
  std::string text;
  for (const int64_t id : ids) {
    if (id < 0 || id >= size()) throw Error(fmt::format("decode: there is no token {}; expected 0 <= id < {}", id, size()));
    text += model_->tokens[size_t(id)];
  }
  return text;
}

// No word reaches from another character into white space, so text can be cut before a white space that follows none.
size_t BpeTokenizer::safe_prefix(std::string_view text) const {
  const auto ascii_space = [](char c) { return c == ' ' || (c >= '\t' && c <= '\r'); };
  for (size_t cut = text.size(); cut-- > 1;) {
    if (!ascii_space(text[cut])) continue;
    size_t start = cut - 1;  // of the character before
    while (start > 0 && cut - start < 4 && (uint8_t(text[start]) & 0xc0) == 0x80) --start;
    const char32_t c = utf8::next(text.substr(0, cut), start);
    if (start != cut || !utf8::is_space(c)) return cut;
  }
  return 0;
}

}  // namespace retape
