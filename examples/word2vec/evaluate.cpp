#include "evaluate.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>
#include <optional>

#include <fmt/format.h>

#include <retape/io/file.h>
#include <retape/retape.h>

namespace retape::word2vec {
namespace fs = std::filesystem;
namespace {

std::vector<std::string> fields(std::string_view line) {
  std::vector<std::string> found;
  for (size_t at = 0; at < line.size();) {
    const size_t begin = line.find_first_not_of(" \t\r", at);
    if (begin == line.npos) break;
    at = std::min(line.find_first_of(" \t\r", begin), line.size());
    found.emplace_back(line.substr(begin, at - begin));
  }
  return found;
}

struct Pair {
  std::string a, b;
  double similarity;
};
struct Section {
  std::string name;
  std::vector<std::vector<std::string>> questions;
};
struct Questions {
  std::vector<Pair> pairs;
  std::vector<Section> sections;
};

std::optional<Questions> parse(const std::string& content) {
  Questions questions;
  for (std::string_view rest = content; !rest.empty();) {
    const size_t end = rest.find('\n');
    auto words = fields(rest.substr(0, end));
    rest.remove_prefix(end == rest.npos ? rest.size() : end + 1);
    if (words.empty()) continue;
    if (words[0] == ":") {
      questions.sections.push_back({words.size() > 1 ? words[1] : "", {}});
    } else if (!questions.sections.empty() && words.size() == 4) {
      questions.sections.back().questions.push_back(std::move(words));
    } else if (questions.sections.empty() && words.size() == 3) {
      double value = 0;
      const char* const last = words[2].data() + words[2].size();
      if (const auto [stop, error] = std::from_chars(words[2].data(), last, value); error != std::errc() || stop != last) return {};
      questions.pairs.push_back({words[0], words[1], value});
    } else {
      return {};
    }
  }
  if (questions.pairs.empty() == questions.sections.empty()) return {};
  return questions;
}

Evaluation evaluate_pairs(const WordVectors& vectors, const std::string& name, const std::vector<Pair>& pairs) {
  std::vector<double> wanted, found;
  for (auto& [a, b, similarity] : pairs) {
    const int64_t x = vectors.find(a), y = vectors.find(b);
    if (x < 0 || y < 0) continue;
    wanted.push_back(similarity);
    found.push_back(vectors.similarity(x, y));
  }
  return {name, false, int64_t(wanted.size()), int64_t(pairs.size()), spearman(wanted, found)};
}

Evaluation evaluate_section(const WordVectors& vectors, const std::string& file, const Section& section) {
  std::vector<std::array<int64_t, 4>> known;
  for (auto& q : section.questions) {
    const std::array<int64_t, 4> ids{vectors.find(q[0]), vectors.find(q[1]), vectors.find(q[2]), vectors.find(q[3])};
    if (std::all_of(ids.begin(), ids.end(), [](int64_t id) { return id >= 0; })) known.push_back(ids);
  }
  const int64_t words = vectors.size(), together = 256;
  int64_t right = 0;
  for (size_t first = 0; first < known.size(); first += together) {
    const size_t count = std::min<size_t>(together, known.size() - first);
    std::vector<int64_t> a, b, c;
    for (size_t i = first; i < first + count; ++i) a.push_back(known[i][0]), b.push_back(known[i][1]), c.push_back(known[i][2]);
    const Tensor& v = vectors.unit_vectors();
    const Tensor wanted = index_select(v, 0, tensor(b)) - index_select(v, 0, tensor(a)) + index_select(v, 0, tensor(c));
    const Tensor similarities = matmul(wanted, transpose(v, 0, 1));
    const float* const all = similarities.data<float>();
#pragma omp parallel for reduction(+ : right)
    for (size_t i = 0; i < count; ++i) {
      const auto& q = known[first + i];
      const float* const row = all + int64_t(i) * words;
      int64_t best = -1;
      for (int64_t w = 0; w < words; ++w)
        if ((best < 0 || row[w] > row[best]) && w != q[0] && w != q[1] && w != q[2]) best = w;
      right += best == q[3];
    }
  }
  return {fmt::format("{}: {}", file, section.name), true, int64_t(known.size()), int64_t(section.questions.size()),
          known.empty() ? NAN : double(right) / double(known.size())};
}

}  // namespace

double spearman(const std::vector<double>& a, const std::vector<double>& b) {
  const auto ranks = [](const std::vector<double>& x) {
    std::vector<size_t> order(x.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::sort(order.begin(), order.end(), [&](size_t i, size_t j) { return x[i] < x[j]; });
    std::vector<double> rank(x.size());
    for (size_t i = 0, j = 0; i < order.size(); i = j) {
      for (j = i; j < order.size() && x[order[j]] == x[order[i]]; ++j) {}
      for (size_t k = i; k < j; ++k) rank[order[k]] = double(i + j - 1) / 2;
    }
    return rank;
  };
  const auto x = ranks(a), y = ranks(b);
  const double n = double(x.size()), mean = (n - 1) / 2;
  double xy = 0, xx = 0, yy = 0;
  for (size_t i = 0; i < x.size(); ++i)
    xy += (x[i] - mean) * (y[i] - mean), xx += (x[i] - mean) * (x[i] - mean), yy += (y[i] - mean) * (y[i] - mean);
  return xy / std::sqrt(xx * yy);
}

std::vector<Evaluation> evaluate(const WordVectors& vectors, const fs::path& folder, std::vector<std::string>* skipped) {
  if (!fs::is_directory(folder)) throw Error(fmt::format("there is no folder \"{}\" with questions", folder.string()));
  std::vector<fs::path> files;
  for (auto& entry : fs::directory_iterator(folder))
    if (entry.is_regular_file()) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  std::vector<Evaluation> results;
  for (auto& file : files) {
    const std::string name = file.filename().string();
    const auto questions = parse(read_file(file));
    if (!questions) {
      if (skipped) skipped->push_back(name);
      continue;
    }
    if (!questions->pairs.empty()) results.push_back(evaluate_pairs(vectors, name, questions->pairs));
    for (auto& section : questions->sections) results.push_back(evaluate_section(vectors, name, section));
  }
  if (results.empty()) throw Error(fmt::format("{} has no file of analogies or of pairs with their similarity", folder.string()));
  return results;
}

}  // namespace retape::word2vec
