// The corpus: words of a text, which may be larger than memory, counted and turned into a file of ids.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <unordered_map>
#include <vector>

#include <retape/data/token_file.h>

namespace retape::word2vec {

struct CorpusOptions {
  int64_t min_count = 5;           // rarer words are left out
  bool letters = false;            // lower-case A to Z; all that is then not a to z is a space
  int64_t max_vocab = 20'000'000;  // when there are more different words, the rarest are forgotten, as in word2vec
  int64_t phrases = 0;             // passes that join pairs of words which stand together often
  double phrase_threshold = 100;   // how much more often than by chance
};

/// Words with how often they occur: the most frequent first, words of one count in the order of their bytes.
class Vocabulary {
 public:
  Vocabulary() = default;
  /// Throws Error for a word that is there twice.
  explicit Vocabulary(std::vector<std::pair<std::string, int64_t>> words);
  int64_t size() const { return int64_t(words_.size()); }
  const std::string& word(int64_t id) const { return words_[size_t(id)].first; }
  int64_t count(int64_t id) const { return words_[size_t(id)].second; }
  int64_t total() const { return total_; }
  /// -1 for a word that is not there.
  int64_t id(const std::string& word) const;

  bool operator==(const Vocabulary& o) const { return words_ == o.words_; }

  /// A line a word: the word, a space, its count. As word2vec's -save-vocab.
  void save(const std::filesystem::path& path) const;
  /// Throws Error, naming the line.
  static Vocabulary load(const std::filesystem::path& path);

 private:
  std::vector<std::pair<std::string, int64_t>> words_;
  std::unordered_map<std::string, int64_t> ids_;
  int64_t total_ = 0;
};

struct CorpusReport {
  int64_t words = 0;    // in the text
  int64_t invalid = 0;  // words left out since they are not UTF-8
};

/// Reads the text twice: counts its words, which white space separates, and writes the ids of those that are frequent enough to `ids`, with
/// vocabulary.size() as the end of a line. Throws Error if the text cannot be read, is empty, or has no word that is frequent enough.
Vocabulary read_corpus(const std::filesystem::path& text, const CorpusOptions& options, const std::filesystem::path& ids,
                       CorpusReport* report = nullptr);

}  // namespace retape::word2vec
