#include "vectors.h"

#include <algorithm>
#include <charconv>
#include <cstring>

#include <fmt/format.h>

#include <examples/common/run_folder.h>
#include <retape/io/file.h>
#include <retape/retape.h>

namespace retape::word2vec {
namespace fs = std::filesystem;
namespace {

void save(const fs::path& path, const std::vector<std::string>& words, const Tensor& vectors,
          void (*row)(FileWriter& writer, const float* values, int64_t dim)) {
  const Tensor v = contiguous(to(vectors, Device::cpu()));
  const int64_t dim = v.size(1);
  write_file_atomically(path, [&](FileWriter& writer) {
    writer.write(fmt::format("{} {}\n", words.size(), dim));
    for (size_t w = 0; w < words.size(); ++w) {
      writer.write(words[w] + ' ');
      row(writer, v.data<float>() + int64_t(w) * dim, dim);
      writer.write("\n");
    }
  });
}

[[noreturn]] void malformed(const fs::path& path, const std::string& what) {
  throw Error(
      fmt::format("{}: {}; expected word2vec's format: the number of words and dims, then each word and its numbers", path.string(), what));
}

class Reader {
 public:
  explicit Reader(const fs::path& path) : path_(path), file_(MappedFile::open(path)) {
    rest_ = {reinterpret_cast<const char*>(file_->data()), file_->size()};
  }
  std::string_view until(char end, const char* what) {
    const size_t at = rest_.find(end);
    if (at == rest_.npos) malformed(path_, fmt::format("it ends in {}", what));
    const std::string_view text = rest_.substr(0, at);
    rest_.remove_prefix(at + 1);
    return text;
  }
  std::string_view bytes(size_t n, const char* what) {
    if (rest_.size() < n) malformed(path_, fmt::format("it ends in {}", what));
    const std::string_view text = rest_.substr(0, n);
    rest_.remove_prefix(n);
    return text;
  }
  template <class T> T number(std::string_view text) const {
    T value{};
    const char* const end = text.data() + text.size();
    if (const auto [stop, error] = std::from_chars(text.data(), end, value); error != std::errc() || stop != end)
      malformed(path_, fmt::format("\"{}\" is no number", text.substr(0, 40)));
    return value;
  }
  void skip(char c) {
    if (rest_.starts_with(c)) rest_.remove_prefix(1);
  }
  size_t left() const { return rest_.size(); }

 private:
  const fs::path& path_;
  Ref<MappedFile> file_;
  std::string_view rest_;
};

WordVectors load_file(const fs::path& path) {
  const bool binary = path.extension() == ".bin";
  Reader reader(path);
  const auto count = reader.number<int64_t>(reader.until(' ', "its first line")),
             dim = reader.number<int64_t>(reader.until('\n', "its first line"));
  if (count < 1 || dim < 1 || count > int64_t(reader.left()) || dim > int64_t(reader.left()) / count)
    malformed(path, fmt::format("{} words of {} dims do not fit its {} bytes", count, dim, reader.left()));
  std::vector<std::string> words;
  Tensor vectors = empty({count, dim});
  float* to = vectors.mutable_data<float>();
  for (int64_t w = 0; w < count; ++w, to += dim) {
    words.emplace_back(reader.until(' ', "a word"));
    if (binary) {
      std::memcpy(to, reader.bytes(size_t(dim) * sizeof(float), "a vector").data(), size_t(dim) * sizeof(float));
      reader.skip('\n');
    } else {
      std::string_view line = reader.until('\n', "a vector");
      if (line.ends_with(' ')) line.remove_suffix(1);
      for (int64_t k = 0; k < dim; ++k) {
        const size_t space = line.find(' ');
        if ((space == line.npos) != (k + 1 == dim))
          malformed(path, fmt::format("the vector of \"{}\" has not {} numbers", words.back(), dim));
        to[k] = reader.number<float>(line.substr(0, space));
        line.remove_prefix(space == line.npos ? line.size() : space + 1);
      }
    }
  }
  return WordVectors(std::move(words), vectors);
}

std::string lower(std::string text) {
  for (char& c : text)
    if (c >= 'A' && c <= 'Z') c = char(c - 'A' + 'a');
  return text;
}

}  // namespace

void save_text(const fs::path& path, const std::vector<std::string>& words, const Tensor& vectors) {
  save(path, words, vectors, [](FileWriter& writer, const float* values, int64_t dim) {
    std::string line;
    for (int64_t k = 0; k < dim; ++k) line += fmt::format("{}{:.6g}", k ? " " : "", values[k]);
    writer.write(line);
  });
}
void save_binary(const fs::path& path, const std::vector<std::string>& words, const Tensor& vectors) {
  save(path, words, vectors,
       [](FileWriter& writer, const float* values, int64_t dim) { writer.write(values, size_t(dim) * sizeof(float)); });
}

WordVectors::WordVectors(std::vector<std::string> words, const Tensor& vectors) : words_(std::move(words)) {
  if (vectors.dim() != 2 || vectors.size(0) != int64_t(words_.size()))
    throw Error(
        fmt::format("word vectors: {} words, but vectors of shape {}; expected a row for each word", words_.size(), vectors.shape().str()));
  for (size_t w = 0; w < words_.size(); ++w) ids_.emplace(words_[w], int64_t(w));
  const Tensor length = sqrt(sum(vectors * vectors, {1}, true));
  vectors_ = contiguous(vectors / masked_fill(length, eq(length, 0), 1));
}

WordVectors WordVectors::load(const fs::path& path) {
  if (fs::is_regular_file(path)) return load_file(path);
  const fs::path checkpoint = fs::absolute(examples::find_checkpoint(path).path);
  const Vocabulary vocabulary = Vocabulary::load(checkpoint.parent_path() / "vocab.txt");
  std::vector<std::string> words;
  for (int64_t w = 0; w < vocabulary.size(); ++w) words.push_back(vocabulary.word(w));
  const fs::path file = checkpoint / "model.safetensors";
  const Tensor vectors = SafeTensors::open(file).tensor("in_embeddings.weight");
  if (vectors.dim() != 2 || vectors.size(0) != vocabulary.size())
    throw Error(fmt::format("{}: vectors of shape {}, but vocab.txt has {} words; the run folder is damaged", file.string(),
                            vectors.shape().str(), vocabulary.size()));
  return WordVectors(std::move(words), vectors);
}

int64_t WordVectors::find(const std::string& word) const {
  auto found = ids_.find(word);
  if (found == ids_.end()) found = ids_.find(lower(word));
  return found == ids_.end() ? -1 : found->second;
}
int64_t WordVectors::id(const std::string& word) const {
  const int64_t found = find(word);
  if (found < 0) throw Error(fmt::format("\"{}\" is not among the {} words", word, size()));
  return found;
}
double WordVectors::similarity(int64_t a, int64_t b) const {
  const float *x = vectors_.data<float>() + a * dim(), *y = vectors_.data<float>() + b * dim();
  double dot = 0;
  for (int64_t k = 0; k < dim(); ++k) dot += double(x[k]) * double(y[k]);
  return dot;
}

std::vector<Neighbour> WordVectors::nearest(const std::vector<std::pair<int64_t, double>>& weighted, int64_t count,
                                            const std::vector<int64_t>& without) const {
  Tensor wanted = zeros({dim()});
  for (auto& [id, weight] : weighted) wanted = wanted + select(vectors_, 0, id) * weight;
  const double length = std::sqrt(sum(wanted * wanted).item());
  const auto similarities = matmul(vectors_, wanted).to_vector<double>();
  std::vector<int64_t> order;
  for (int64_t w = 0; w < size(); ++w)
    if (std::find(without.begin(), without.end(), w) == without.end()) order.push_back(w);
  count = std::min(count, int64_t(order.size()));
  std::partial_sort(order.begin(), order.begin() + count, order.end(), [&](int64_t a, int64_t b) {
    const double x = similarities[size_t(a)], y = similarities[size_t(b)];
    return x != y ? x > y : a < b;
  });
  std::vector<Neighbour> found;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t w = order[size_t(i)];
    found.push_back({words_[size_t(w)], length > 0 ? similarities[size_t(w)] / length : 0});
  }
  return found;
}
std::vector<Neighbour> WordVectors::nearest(const std::string& word, int64_t count) const {
  return nearest({{id(word), 1}}, count, {id(word)});
}
std::vector<Neighbour> WordVectors::analogy(const std::string& a, const std::string& b, const std::string& c, int64_t count) const {
  return nearest({{id(a), -1}, {id(b), 1}, {id(c), 1}}, count, {id(a), id(b), id(c)});
}

}  // namespace retape::word2vec
