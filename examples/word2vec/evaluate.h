// How good word vectors are: analogies, and rank correlation with how similar people find pairs of words.
#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include "vectors.h"

namespace retape::word2vec {

/// What one file of questions gives.
struct Evaluation {
  std::string name;             // the file's, and an analogy file's section behind a colon
  bool analogies = false;       // else pairs of words
  int64_t used = 0, total = 0;  // questions whose words are all known; all
  double score = 0;             // the part of analogies that is answered right; Spearman's rank correlation; nan if too few are used
};

/// Spearman's rank correlation; ties have their mean rank. nan for fewer than two values, or where all of one side are equal.
double spearman(const std::vector<double>& a, const std::vector<double>& b);

/// All question files of a folder, in the order of their names. A file of analogies has lines `: section` and lines of four words; one of
/// pairs has lines of two words and a number. Questions with a word that is not there are left out. Files that are neither are named in
/// `skipped`. Throws Error if the folder cannot be read or has no questions.
std::vector<Evaluation> evaluate(const WordVectors& vectors, const std::filesystem::path& folder,
                                 std::vector<std::string>* skipped = nullptr);

}  // namespace retape::word2vec
