// Word vectors as files and as something to ask.
#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include <retape/core/tensor.h>

#include "corpus.h"

namespace retape::word2vec {

/// word2vec's formats: a line with the number of words and dims, then a line a word: the word and its numbers, in decimal (%.6g, .txt) or as
/// little-endian f32 followed by a line break (.bin). Throws Error if the file cannot be written.
void save_text(const std::filesystem::path& path, const std::vector<std::string>& words, const Tensor& vectors);
void save_binary(const std::filesystem::path& path, const std::vector<std::string>& words, const Tensor& vectors);

struct Neighbour {
  std::string word;
  double similarity;  // cosine
};

/// Vectors of unit length, and their words.
class WordVectors {
 public:
  /// `vectors` f32 (words, dim).
  WordVectors(std::vector<std::string> words, const Tensor& vectors);
  /// From the folder of a run or one of its checkpoints, or from a .txt or .bin file in word2vec's format. Throws Error.
  static WordVectors load(const std::filesystem::path& path);

  int64_t size() const { return int64_t(words_.size()); }
  int64_t dim() const { return vectors_.size(1); }
  const std::string& word(int64_t id) const { return words_[size_t(id)]; }
  /// f32 (words, dim), of unit length; a vector of zeros stays one.
  const Tensor& unit_vectors() const { return vectors_; }
  /// -1 if the word is not there, as it stands or in lower case (ASCII).
  int64_t find(const std::string& word) const;
  /// The same; throws Error.
  int64_t id(const std::string& word) const;
  double similarity(int64_t a, int64_t b) const;

  /// The `count` words most similar to a sum of unit vectors, without those of `without`.
  std::vector<Neighbour> nearest(const std::vector<std::pair<int64_t, double>>& weighted, int64_t count,
                                 const std::vector<int64_t>& without) const;
  std::vector<Neighbour> nearest(const std::string& word, int64_t count) const;
  /// a is to b as c is to ...: b - a + c (3CosAdd).
  std::vector<Neighbour> analogy(const std::string& a, const std::string& b, const std::string& c, int64_t count) const;

 private:
  std::vector<std::string> words_;
  std::unordered_map<std::string, int64_t> ids_;
  Tensor vectors_;
};

}  // namespace retape::word2vec
