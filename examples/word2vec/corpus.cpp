#include "corpus.h"

#include <algorithm>
#include <charconv>
#include <functional>
#include <unordered_set>

#include <fmt/format.h>

#include <retape/core/error.h>
#include <retape/data/utf8.h>
#include <retape/io/file.h>
#include <retape/io/gzip.h>

namespace retape::word2vec {
namespace fs = std::filesystem;
namespace {

constexpr size_t longest_word = 1000;  // bytes; what is longer is no word

struct StringHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
};
template <class T> using WordMap = std::unordered_map<std::string, T, StringHash, std::equal_to<>>;
using WordSet = std::unordered_set<std::string, StringHash, std::equal_to<>>;

// Gets the words of a text one after the other; an empty one is the end of a line.
using Sink = std::function<void(std::string_view word)>;

// Splits what lies between ASCII white space: other white space is rare, and only where bytes are not ASCII.
void emit(std::string_view piece, const Sink& sink, int64_t& invalid) {
  if (std::all_of(piece.begin(), piece.end(), [](char c) { return uint8_t(c) < 0x80; })) {
    if (piece.size() <= longest_word) sink(piece);
    else ++invalid;
    return;
  }
  size_t begin = 0;
  bool valid = true;
  const auto word = [&](size_t end) {
    if (end > begin) {
      if (valid && end - begin <= longest_word) sink(piece.substr(begin, end - begin));
      else ++invalid;
    }
    valid = true;
  };
  for (size_t at = 0; at < piece.size();) {
    const size_t start = at;
    const char32_t c = utf8::next(piece, at);
    if (c == utf8::invalid) valid = false;
    else if (utf8::is_space(c)) word(start), begin = at;
  }
  word(piece.size());
}

// Returns how many words are not UTF-8, or too long, and left out.
int64_t for_each_word(const fs::path& path, bool letters, const Sink& sink) {
  const Ref<MappedFile> file = MappedFile::open(path);
  GzipReader reader({reinterpret_cast<const char*>(file->data()), file->size()}, "word2vec", path.string());
  std::vector<char> buffer(size_t{1} << 20);
  std::string carried;  // the beginning of a word whose end is in the next piece
  bool too_long = false;
  int64_t invalid = 0;
  const auto end_word = [&](std::string_view rest) {
    if (too_long) ++invalid;
    else if (carried.empty()) {
      if (!rest.empty()) emit(rest, sink, invalid);
    } else {
      carried += rest;
      emit(carried, sink, invalid);
    }
    carried.clear(), too_long = false;
  };
  while (const size_t n = reader.read(buffer.data(), buffer.size())) {
    if (letters)
      for (size_t i = 0; i < n; ++i) {
        char& c = buffer[i];
        if (c >= 'A' && c <= 'Z') c = char(c - 'A' + 'a');
        if (c < 'a' || c > 'z') c = ' ';
      }
    size_t begin = 0;
    for (size_t i = 0; i < n; ++i) {
      const char c = buffer[i];
      if (c > ' ' || uint8_t(c) >= 0x80 || !(c == ' ' || (c >= '\t' && c <= '\r'))) continue;
      end_word({buffer.data() + begin, i - begin});
      if (c == '\n') sink({});
      begin = i + 1;
    }
    if (carried.size() + n - begin > 4 * longest_word) too_long = true, carried.clear();
    if (!too_long) carried.append(buffer.data() + begin, n - begin);
  }
  end_word({});
  sink({});
  return invalid;
}

// Forgets what was counted `least` times or fewer until there is room.
template <class Map> void make_room(Map& counts, int64_t max_vocab, int64_t& least) {
  while (int64_t(counts.size()) > max_vocab * 7 / 10) std::erase_if(counts, [&](auto& entry) { return entry.second <= least; }), ++least;
}

// Pairs that were found to be phrases, by their words with a space between; each pass sees what the passes before have joined.
class Phrases {
 public:
  explicit Phrases(const std::vector<WordSet>& passes) : passes_(passes), held_(passes.size()) {}
  void operator()(std::string_view word, const Sink& sink) { give(0, word, sink); }

 private:
  void give(size_t pass, std::string_view word, const Sink& sink) {
    if (pass == passes_.size()) return sink(word);
    std::string& held = held_[pass];
    if (!held.empty() && !word.empty()) {
      const std::string pair = fmt::format("{} {}", held, word);
      if (passes_[pass].contains(pair)) {
        held.clear();
        return give(pass + 1, fmt::format("{}_{}", pair.substr(0, pair.find(' ')), word), sink);
      }
    }
    if (!held.empty()) give(pass + 1, held, sink);
    held = word;
    if (word.empty()) give(pass + 1, word, sink);
  }
  const std::vector<WordSet>& passes_;
  std::vector<std::string> held_;
};

// Mikolov et al. 2013, with word2vec's factor: pairs that stand together `threshold` times as often as chance would have it.
WordSet find_phrases(const std::function<void(const Sink&)>& words, const CorpusOptions& o) {
  WordMap<int64_t> counts, pairs;
  int64_t total = 0, least = 1, least_pair = 1;
  std::string before;
  words([&](std::string_view word) {
    if (!word.empty()) {
      ++total;
      if (const auto known = counts.find(word); known != counts.end()) ++known->second;
      else counts.emplace(word, 1);
      if (!before.empty()) ++pairs[fmt::format("{} {}", before, word)];
      if (int64_t(counts.size()) > o.max_vocab) make_room(counts, o.max_vocab, least);
      if (int64_t(pairs.size()) > o.max_vocab) make_room(pairs, o.max_vocab, least_pair);
    }
    before = word;
  });
  WordSet phrases;
  for (auto& [pair, count] : pairs) {
    const size_t space = pair.find(' ');
    const auto a = counts.find(std::string_view(pair).substr(0, space)), b = counts.find(std::string_view(pair).substr(space + 1));
    if (a == counts.end() || b == counts.end() || a->second < o.min_count || b->second < o.min_count) continue;
    if (double(count - o.min_count) / double(a->second) / double(b->second) * double(total) > o.phrase_threshold) phrases.insert(pair);
  }
  return phrases;
}

}  // namespace

Vocabulary::Vocabulary(std::vector<std::pair<std::string, int64_t>> words) : words_(std::move(words)) {
  std::sort(words_.begin(), words_.end(), [](auto& a, auto& b) { return a.second != b.second ? a.second > b.second : a.first < b.first; });
  for (auto& [word, count] : words_) {
    if (!ids_.emplace(word, int64_t(ids_.size())).second) throw Error(fmt::format("word2vec: the word \"{}\" is there twice", word));
    total_ += count;
  }
}
int64_t Vocabulary::id(const std::string& word) const {
  const auto found = ids_.find(word);
  return found == ids_.end() ? -1 : found->second;
}

void Vocabulary::save(const fs::path& path) const {
  write_file_atomically(path, [&](FileWriter& writer) {
    for (auto& [word, count] : words_) writer.write(fmt::format("{} {}\n", word, count));
  });
}
Vocabulary Vocabulary::load(const fs::path& path) {
  const std::string content = read_file(path);
  std::vector<std::pair<std::string, int64_t>> words;
  size_t number = 1;
  for (std::string_view rest = content; !rest.empty(); ++number) {
    const size_t end = rest.find('\n');
    const std::string_view line = rest.substr(0, end);
    rest.remove_prefix(end == rest.npos ? rest.size() : end + 1);
    const size_t space = line.rfind(' ');
    int64_t count = 0;
    const char* const last = line.data() + line.size();
    if (space != line.npos && space > 0)
      if (const auto [stop, error] = std::from_chars(line.data() + space + 1, last, count);
          error == std::errc() && stop == last && count > 0) {
        words.emplace_back(line.substr(0, space), count);
        continue;
      }
    throw Error(fmt::format("{}: line {} is \"{}\"; expected a word, a space and its count", path.string(), number, line));
  }
  return Vocabulary(std::move(words));
}

Vocabulary read_corpus(const fs::path& text, const CorpusOptions& o, const fs::path& ids, CorpusReport* report) {
  std::vector<WordSet> passes;
  CorpusReport seen;
  const auto words = [&](const Sink& sink) {
    Phrases phrases(passes);
    seen.invalid = for_each_word(text, o.letters, [&](std::string_view word) { phrases(word, sink); });
  };
  for (int64_t pass = 0; pass < o.phrases; ++pass) {
    WordSet found = find_phrases(words, o);
    passes.push_back(std::move(found));
  }

  WordMap<int64_t> counts;
  int64_t least = 1;
  words([&](std::string_view word) {
    if (word.empty()) return;
    ++seen.words;
    if (const auto known = counts.find(word); known != counts.end()) ++known->second;
    else counts.emplace(word, 1);
    if (int64_t(counts.size()) > o.max_vocab) make_room(counts, o.max_vocab, least);
  });
  if (report) *report = seen;
  if (seen.words == 0) throw Error(fmt::format("{} has no word; there is nothing to train on", text.string()));
  std::vector<std::pair<std::string, int64_t>> frequent;
  for (auto& [word, count] : counts)
    if (count >= o.min_count) frequent.emplace_back(word, count);
  if (frequent.size() < 2)
    throw Error(fmt::format("{} has {} words, but {} of them at least {} times; give a longer text or a smaller --min-count", text.string(),
                            seen.words, frequent.size(), o.min_count));
  counts = {};
  Vocabulary vocabulary(std::move(frequent));

  const int64_t end_of_line = vocabulary.size();
  write_token_file(ids, vocabulary.size() + 1, [&](const AppendTokens& append) {
    std::vector<int64_t> piece;
    std::string key;
    bool in_line = false;  // an empty line ends nothing
    words([&](std::string_view word) {
      if (word.empty()) {
        if (std::exchange(in_line, false)) piece.push_back(end_of_line);
      } else {
        key = word;
        if (const int64_t id = vocabulary.id(key); id >= 0) piece.push_back(id), in_line = true;
      }
      if (piece.size() >= 65536) append(piece), piece.clear();
    });
    append(piece);
  });
  return vocabulary;
}

}  // namespace retape::word2vec
