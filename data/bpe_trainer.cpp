#include <retape/data/bpe_trainer.h>

#include <fmt/format.h>

#include <algorithm>
#include <queue>

#include <retape/core/error.h>
#include <retape/data/pieces.h>
#include <retape/data/utf8.h>
#include <retape/io/file.h>
#include <retape/io/quote.h>

namespace retape {
namespace {

constexpr PrependScheme scheme_of(BpeKind kind) { return kind == BpeKind::byte_level ? PrependScheme::never : PrependScheme::always; }

size_t characters_of(std::string_view text) {  // 0 if it is not UTF-8
  size_t n = 0;
  for (size_t at = 0; at < text.size(); ++n)
    if (utf8::next(text, at) == utf8::invalid) return 0;
  return n;
}

// All different words, one after the other, as tokens. A token that has been merged into the one before is -1.
class Words {
 public:
  static constexpr uint32_t none = UINT32_MAX;
  struct Pair {
    int64_t count = 0;
    std::vector<uint32_t> places;  // of its left token; of pairs that are gone, too
  };

  void add(int32_t token, int64_t count, bool after_previous) {
    if (tokens_.size() >= none) throw Error("bpe_trainer: different words have more than 4294967294 symbols; train on less text");
    const auto at = uint32_t(tokens_.size());
    tokens_.push_back(token), before_.push_back(after_previous ? at - 1 : none), next_.push_back(none), counts_.push_back(count);
    if (!after_previous) return;
    next_[at - 1] = at;
    change(at - 1, 1);
  }
  int64_t count(uint64_t pair) const {
    const auto found = pairs_.find(pair);
    return found == pairs_.end() ? 0 : found->second.count;
  }
  // Every pair with its count, in any order.
  template <class F> void each(F&& f) const {
    for (auto& [pair, entry] : pairs_) f(pair, entry.count);
  }
  // Replaces a pair by a token from left to right, and returns the pairs that there are more of now.
  std::vector<uint64_t> merge(uint64_t pair, int32_t token) {
    std::vector<uint32_t> places = std::move(pairs_[pair].places);
    pairs_[pair].places.clear();
    std::sort(places.begin(), places.end());
    std::vector<uint64_t> more;
    for (const uint32_t at : places) {
      if (next_[at] == none || tokens_[at] < 0 || pair_at(at) != pair) continue;
      const uint32_t gone = next_[at], before = before_[at], after = next_[gone];
      change(at, -1);
      if (before != none) change(before, -1);
      if (after != none) change(gone, -1);
      tokens_[at] = token, tokens_[gone] = -1;
      next_[at] = after, next_[gone] = none;
      if (after != none) before_[after] = at;
      if (before != none) more.push_back(change(before, 1));
      if (after != none) more.push_back(change(at, 1));
    }
    pairs_.erase(pair);
    std::sort(more.begin(), more.end());
    more.erase(std::unique(more.begin(), more.end()), more.end());
    return more;
  }
  static uint64_t key(int32_t left, int32_t right) { return uint64_t(uint32_t(left)) << 32 | uint32_t(right); }

 private:
  uint64_t pair_at(uint32_t at) const { return key(tokens_[at], tokens_[next_[at]]); }
  uint64_t change(uint32_t at, int times) {
    const uint64_t key = pair_at(at);
    Pair& pair = pairs_[key];
    pair.count += times * counts_[at];
    if (times > 0) pair.places.push_back(at);
    return key;
  }
  std::vector<int32_t> tokens_;
  std::vector<uint32_t> before_, next_;
  std::vector<int64_t> counts_;  // of the word
  std::unordered_map<uint64_t, Pair> pairs_;
};

}  // namespace

BpeTrainer::BpeTrainer(BpeTrainerOptions options) : options_(std::move(options)), words_(options_.kind, scheme_of(options_.kind)) {
  const auto fail = [](const std::string& what) { throw Error("bpe_trainer: " + what); };
  const bool bytes = options_.kind == BpeKind::byte_level;
  if (options_.vocab_size < 1 || options_.vocab_size > INT32_MAX)
    fail(fmt::format("a vocab_size of {} is not possible; expected 1 to {}", options_.vocab_size, INT32_MAX));
  if (options_.min_frequency < 0) fail(fmt::format("a min_frequency of {} is not possible; expected 0 or more", options_.min_frequency));
  if (options_.limit_alphabet && bytes) fail("limit_alphabet is for kind metaspace; kind byte_level has all 256 bytes");
  if (options_.limit_alphabet && *options_.limit_alphabet < 1)
    fail(fmt::format("a limit_alphabet of {} is not possible; expected 1 or more", *options_.limit_alphabet));
  auto& special = options_.special_tokens;
  if (!bytes && std::find(special.begin(), special.end(), "<unk>") == special.end()) special.push_back("<unk>");
  std::set<std::string> known;
  for (auto& name : special) {
    const size_t n = characters_of(name);
    if (n == 0) fail(fmt::format("the special token {} is empty or not UTF-8", in_quotes(name)));
    if (n == 1) fail(fmt::format("the special token {} is a single character, which is a symbol; expected two or more", in_quotes(name)));
    if (!known.insert(name).second) fail(fmt::format("the special token {} is there twice", in_quotes(name)));
  }
}

void BpeTrainer::count(std::string_view text) {
  words_.split(text, true, scratch_, [&](std::string_view word) {
    if (const auto found = counts_.find(word); found != counts_.end()) ++found->second;
    else counts_.emplace(word, 1);
  });
}

void BpeTrainer::add_text(std::string_view text) {
  if (options_.kind == BpeKind::byte_level) return count(text);
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    std::string_view line = text.substr(at, end - at);
    if (end < text.size() && line.ends_with('\r')) line.remove_suffix(1);
    try {
      count(line);
    } catch (const Error& e) {
      throw Error(fmt::format("{}, in the line that begins at byte {}", e.what(), at));
    }
    at = end + 1;
  }
}

void BpeTrainer::add_file(const std::filesystem::path& path, size_t piece) {
  if (piece == 0) throw Error("bpe_trainer: a piece of 0 bytes is not possible; it must be at least 1");
  const Ref<MappedFile> file = MappedFile::open(path);
  const std::string_view text(reinterpret_cast<const char*>(file->data()), file->size());
  const auto safe_prefix = [&](std::string_view part) {
    return options_.kind == BpeKind::byte_level ? words_.safe_prefix(part) : part.rfind('\n') + 1;
  };
  for (size_t at = 0; at < text.size();) {
    const std::string_view part = next_piece(text.substr(at), piece, safe_prefix);
    try {
      add_text(part);
    } catch (const Error& e) {
      throw Error(fmt::format("bpe_trainer: {}, in the piece that begins at byte {}: {}", path.string(), at, e.what()));
    }
    at += part.size();
  }
}

BpeTokenizer BpeTrainer::train() const {
  const bool bytes = options_.kind == BpeKind::byte_level;
  std::vector<std::pair<std::string_view, int64_t>> counted(counts_.begin(), counts_.end());
  std::sort(counted.begin(), counted.end());  // what a hash table's order would leave open

  BpeVocabulary vocabulary{.kind = options_.kind, .prepend_scheme = scheme_of(options_.kind), .tokens = options_.special_tokens};
  if (!bytes) vocabulary.unk_token = "<unk>";
  const std::set<std::string> special(vocabulary.tokens.begin(), vocabulary.tokens.end());
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id)
    vocabulary.special_tokens.emplace(vocabulary.tokens[id], BpeVocabulary::Special{int64_t(id)});

  // Symbols
  std::unordered_map<char32_t, int32_t> ids;
  if (bytes) {
    for (const uint8_t b : byte_alphabet::in_order()) {
      ids.emplace(b, int32_t(vocabulary.tokens.size()));
      vocabulary.tokens.push_back(byte_alphabet::name_of(b));
    }
  } else {
    std::map<char32_t, int64_t> frequency;
    for (auto& [word, n] : counted)
      for (size_t at = 0; at < word.size();) frequency[utf8::next(word, at)] += n;
    size_t at = 0;
    frequency[utf8::next(metaspace_character, at)] = INT64_MAX;
    std::vector<std::pair<int64_t, char32_t>> order;
    for (auto& [c, n] : frequency) order.emplace_back(-n, c);
    std::sort(order.begin(), order.end());
    if (options_.limit_alphabet && order.size() > size_t(*options_.limit_alphabet)) order.resize(size_t(*options_.limit_alphabet));
    std::sort(order.begin(), order.end(), [](auto& a, auto& b) { return a.second < b.second; });
    for (auto& [n, c] : order) {
      ids.emplace(c, int32_t(vocabulary.tokens.size()));
      utf8::append(vocabulary.tokens.emplace_back(), c);
    }
  }
  if (int64_t(vocabulary.tokens.size()) > options_.vocab_size)
    throw Error(fmt::format("bpe_trainer: a vocab_size of {} does not hold {} special tokens and {} {}; expected {} or more{}",
                            options_.vocab_size, special.size(), ids.size(), bytes ? "bytes" : "characters", vocabulary.tokens.size(),
                            bytes ? "" : ", or a limit_alphabet"));
  Words words;
  for (auto& [word, n] : counted) {
    bool joined = false;
    for (size_t at = 0; at < word.size();) {
      const auto found = ids.find(bytes ? char32_t(uint8_t(word[at++])) : utf8::next(word, at));
      if (found != ids.end()) words.add(found->second, n, joined);
      joined = found != ids.end();
    }
  }

  // The most frequent pair is on top; where its count has fallen meanwhile, it goes back with the count that it has now.
  struct Candidate {
    int64_t count;
    uint64_t pair;
    bool operator<(const Candidate& o) const { return count != o.count ? count < o.count : pair > o.pair; }
  };
  std::priority_queue<Candidate> heap;
  const int64_t least = std::max<int64_t>(options_.min_frequency, 1);
  const auto consider = [&](uint64_t pair, int64_t count) {
    if (count >= least) heap.push({count, pair});
  };
  words.each(consider);
  std::unordered_map<std::string, int32_t> known;
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) known.emplace(vocabulary.tokens[id], int32_t(id));
  std::unordered_map<uint64_t, bool> learned;
  while (!heap.empty() && int64_t(vocabulary.tokens.size()) < options_.vocab_size) {
    const auto [count, pair] = heap.top();
    heap.pop();
    const int64_t now = words.count(pair);
    if (now != count) {
      if (now < count) consider(pair, now);
      continue;
    }
    const std::string left = vocabulary.tokens[pair >> 32], right = vocabulary.tokens[pair & UINT32_MAX];
    if (special.contains(left + right)) continue;
    // Two merges may make the same token, after which a pair that has been learned before can come up again.
    const auto [token, is_new] = known.emplace(left + right, int32_t(vocabulary.tokens.size()));
    if (is_new) vocabulary.tokens.push_back(left + right);
    if (learned.emplace(pair, true).second) vocabulary.merges.emplace_back(left, right);
    for (const uint64_t more : words.merge(pair, token->second)) consider(more, words.count(more));
  }
  return BpeTokenizer(std::move(vocabulary));
}

}  // namespace retape
