#include <retape/data/bpe_tokenizer.h>

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <mutex>
#include <queue>
#include <unordered_map>

#include <retape/core/error.h>
#include <retape/data/utf8.h>
#include <retape/io/quote.h>

namespace retape {
namespace {

constexpr size_t longest_cached = 64, most_cached = size_t{1} << 17;

struct Hash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
};
template <class T> using StringMap = std::unordered_map<std::string, T, Hash, std::equal_to<>>;

// What one call of encode() works with: words that it has seen, and what splitting needs.
struct Scratch {
  StringMap<std::vector<int32_t>> words;
  BpeWords::Scratch split;
};

uint64_t key_of(int32_t left, int32_t right) { return uint64_t(uint32_t(left)) << 32 | uint32_t(right); }

std::string without_metaspaces(const std::string& name, std::string_view instead) {
  std::string text;
  for (size_t at = 0; at < name.size();) {
    const size_t end = std::min(name.find(metaspace_character, at), name.size());
    text.append(name, at, end - at);
    if (end == name.size()) break;
    text += instead;
    at = end + metaspace_character.size();
  }
  return text;
}

}  // namespace

struct BpeTokenizer::Model {
  struct Merge {
    int32_t rank, id;
  };
  BpeVocabulary vocabulary;
  BpeWords words;
  std::vector<std::string> texts;  // by id: what a token stands for
  std::vector<bool> is_special;    // by id: what decode() can leave out
  std::unordered_map<uint64_t, Merge> merges;
  std::array<int32_t, 256> byte_ids{};  // -1: no token
  std::unordered_map<char32_t, int32_t> character_ids;
  int32_t unk = -1;
  std::set<std::string> special_names;

  Model(BpeVocabulary vocabulary, const std::string& file);
  Model(const Model&) = delete;
  void encode_word(std::string_view word, Scratch& scratch, std::vector<int64_t>& ids) const;
  std::vector<int32_t> symbols_of(std::string_view word) const;
  std::vector<int32_t> merge(std::vector<int32_t> ids) const;

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

BpeTokenizer::Model::Model(BpeVocabulary given, const std::string& file)
    : vocabulary(std::move(given)), words(vocabulary.kind, vocabulary.prepend_scheme) {
  const auto fail = [&](const std::string& what) { throw Error(fmt::format("bpe_tokenizer: {}: {}", file, what)); };
  const bool bytes = vocabulary.kind == BpeKind::byte_level;
  if (bytes && vocabulary.prepend_scheme == PrependScheme::first)
    fail("a prefix space for the first part only is not possible byte-level; expected always or never");
  StringMap<int32_t> ids;
  for (auto& name : vocabulary.tokens) {
    if (name.empty()) fail(fmt::format("token {} is empty", ids.size()));
    if (!ids.emplace(name, int32_t(ids.size())).second) fail(fmt::format("the token {} is there twice", in_quotes(name)));
    texts.push_back(bytes ? byte_alphabet::bytes_of(name) : without_metaspaces(name, " "));
    size_t end = 0;
    const char32_t c = utf8::next(name, end);
    if (!bytes && end == name.size() && c != utf8::invalid) character_ids.emplace(c, ids.size() - 1);
  }
  is_special.resize(texts.size());
  for (auto& [name, special] : vocabulary.special_tokens) {
    if (special.id < 0 || special.id >= int64_t(texts.size()) || vocabulary.tokens[size_t(special.id)] != name)
      fail(fmt::format("the special token {} is not the token {}", in_quotes(name), special.id));
    texts[size_t(special.id)] = name;
    is_special[size_t(special.id)] = special.special;
    special_names.insert(name);
  }
  if (vocabulary.unk_token) {
    const auto found = ids.find(*vocabulary.unk_token);
    if (found == ids.end()) fail(fmt::format("the unk_token {} is no token of the vocabulary", in_quotes(*vocabulary.unk_token)));
    unk = found->second;
  }
  for (int b = 0; b < 256 && bytes; ++b) {
    const std::string& name = byte_alphabet::name_of(uint8_t(b));
    const auto found = ids.find(name);
    if (found == ids.end() && unk < 0)
      fail(fmt::format("the vocabulary has no token {} for the byte 0x{:02x}, and no unk_token", in_quotes(name), b));
    byte_ids[size_t(b)] = found == ids.end() ? -1 : found->second;
  }
  merges.reserve(vocabulary.merges.size());
  for (size_t rank = 0; rank < vocabulary.merges.size(); ++rank) {
    const auto& [left_name, right_name] = vocabulary.merges[rank];
    const auto what = [&, &left = left_name, &right = right_name] {
      return fmt::format("merge {} {}", rank + 1, in_quotes(left + ' ' + right));
    };
    const auto id_of = [&](const std::string& name) {
      const auto found = ids.find(name);
      if (found == ids.end()) fail(fmt::format("{}: {} is no token of the vocabulary", what(), in_quotes(name)));
      return found->second;
    };
    const int32_t left = id_of(left_name), right = id_of(right_name), id = id_of(left_name + right_name);
    if (!merges.emplace(key_of(left, right), Merge{int32_t(rank), id}).second) fail(fmt::format("{} is there twice", what()));
  }
}

std::shared_ptr<const BpeTokenizer::Model> BpeTokenizer::checked(BpeVocabulary vocabulary, const std::string& file) {
  return std::make_shared<const Model>(std::move(vocabulary), file);
}
BpeTokenizer::BpeTokenizer(std::shared_ptr<const Model> model) : model_(std::move(model)) {}
BpeTokenizer::BpeTokenizer(BpeVocabulary vocabulary) : BpeTokenizer(checked(std::move(vocabulary), "vocabulary")) {}

const BpeVocabulary& BpeTokenizer::vocabulary() const { return model_->vocabulary; }
const char* BpeTokenizer::type() const { return vocabulary().kind == BpeKind::byte_level ? "gpt2" : "metaspace"; }
int64_t BpeTokenizer::size() const { return int64_t(vocabulary().tokens.size()); }
std::optional<int64_t> BpeTokenizer::unk_id() const { return model_->unk < 0 ? std::nullopt : std::optional<int64_t>(model_->unk); }
const std::set<std::string>& BpeTokenizer::special_tokens() const { return model_->special_names; }
int64_t BpeTokenizer::special_id(const std::string& name) const {
  const auto found = vocabulary().special_tokens.find(name);
  if (found == vocabulary().special_tokens.end()) {
    std::string known;
    for (auto& special : model_->special_names) known += (known.empty() ? "" : ", ") + in_quotes(special);
    throw Error(
        fmt::format("bpe_tokenizer: {} is no special token; the vocabulary has {}", in_quotes(name), known.empty() ? "none" : known));
  }
  return found->second.id;
}

// ---- encoding -------------------------------------------------------------------------------------------------------

std::vector<int32_t> BpeTokenizer::Model::symbols_of(std::string_view word) const {
  std::vector<int32_t> ids;
  bool unknown = false;  // the symbol before
  for (size_t at = 0; at < word.size();) {
    const size_t start = at;
    int32_t id = -1;
    if (vocabulary.kind == BpeKind::byte_level) {
      id = byte_ids[uint8_t(word[at++])];
    } else if (const auto found = character_ids.find(utf8::next(word, at)); found != character_ids.end()) {
      id = found->second;
    }
    if (id < 0 && unk < 0)
      throw Error(fmt::format("encode: the character {} is none of the vocabulary, which has no token for unknown ones",
                              in_quotes(word.substr(start, at - start))));
    if (id >= 0) ids.push_back(id);
    else if (!unknown || !vocabulary.fuse_unk) ids.push_back(unk);
    unknown = id < 0;
  }
  return ids;
}

// The pairs of neighbours wait in a heap, the one learned first (of equals, the leftmost) on top; a pair of which a part has been
// merged meanwhile is recognised when it comes up. n log n, also for a word of a million bytes.
std::vector<int32_t> BpeTokenizer::Model::merge(std::vector<int32_t> ids) const {
  struct Candidate {
    int32_t rank, id;
    size_t at;
    uint64_t pair;
    bool operator<(const Candidate& o) const { return rank != o.rank ? rank > o.rank : at > o.at; }
  };
  const size_t n = ids.size();
  std::vector<size_t> next(n), before(n);  // an id that has been merged into the one before becomes -1
  for (size_t i = 0; i < n; ++i) next[i] = i + 1, before[i] = i - 1;
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
  auto word_ids = merge(symbols_of(word));
  ids.insert(ids.end(), word_ids.begin(), word_ids.end());
  if (word.size() > longest_cached) return;
  if (scratch.words.size() >= most_cached) scratch.words.clear();
  scratch.words.emplace(word, std::move(word_ids));
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
  const BpeWords::Take take = [&](std::string_view word) { model_->encode_word(word, *scratch, ids); };
  std::vector<size_t> places(allowed.size(), 0);  // where each is found next
  for (size_t i = 0; i < allowed.size(); ++i) places[i] = text.find(allowed[i].first);
  for (size_t at = 0; at < text.size();) {
    size_t first = text.size(), which = 0;
    for (size_t i = 0; i < allowed.size(); ++i) {
      if (places[i] < at) places[i] = text.find(allowed[i].first, at);
      if (places[i] < first) first = places[i], which = i;
    }
    model_->words.split(text.substr(at, first - at), at == 0, scratch->split, take);
    at = first;
    if (first == text.size()) break;
    ids.push_back(allowed[which].second);
    at += allowed[which].first.size();
  }
  model_->give(std::move(scratch));
  return ids;
}

std::string BpeTokenizer::decode(const std::vector<int64_t>& ids) const { return decode(ids, false); }

std::string BpeTokenizer::decode(const std::vector<int64_t>& ids, bool skip_special_tokens) const {
  std::string text;
  bool first = vocabulary().kind == BpeKind::metaspace && vocabulary().prepend_scheme != PrependScheme::never;
  for (const int64_t id : ids) {
    if (id < 0 || id >= size()) throw Error(fmt::format("decode: there is no token {}; expected 0 <= id < {}", id, size()));
    if (skip_special_tokens && model_->is_special[size_t(id)]) continue;
    const std::string& name = vocabulary().tokens[size_t(id)];
    // The space in front of the text is one that encode() has put there.
    text += first && !model_->special_names.contains(name) ? without_metaspaces(name, "") : model_->texts[size_t(id)];
    first = false;
  }
  return text;
}

size_t BpeTokenizer::safe_prefix(std::string_view text) const { return model_->words.safe_prefix(text); }

}  // namespace retape
