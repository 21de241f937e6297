#include "data.h"

#include <fmt/format.h>

#include <algorithm>

#include <retape/core/error.h>
#include <retape/core/philox.h>
#include <retape/data/shuffle.h>
#include <retape/data/utf8.h>
#include <retape/io/file.h>
#include <retape/io/gzip.h>

namespace retape::translate {
namespace fs = std::filesystem;
namespace {

constexpr int64_t batches_in_pool = 20;  // that are sorted together

}  // namespace

std::vector<std::string> read_lines(const fs::path& path) {
  const std::string file = read_file(path);
  GzipReader reader(file, "translate", path.string());
  std::string content;
  for (size_t more = 1; more;) {
    const size_t before = content.size();
    content.resize(before + (size_t{1} << 20));
    more = reader.read(content.data() + before, size_t{1} << 20);
    content.resize(before + more);
  }
  std::vector<std::string> lines;
  for (std::string_view rest = content; !rest.empty();) {
    const size_t end = rest.find('\n');
    std::string_view line = rest.substr(0, end);
    if (line.ends_with('\r')) line.remove_suffix(1);
    for (size_t at = 0; at < line.size();) {
      const size_t byte = at;
      if (utf8::next(line, at) == utf8::invalid)
        throw Error(fmt::format("{}: line {} is not UTF-8: byte {:#04x} at position {}; convert the file, for example with iconv",
                                path.string(), lines.size() + 1, static_cast<unsigned char>(line[byte]), byte));
    }
    lines.emplace_back(line);
    rest.remove_prefix(end == rest.npos ? rest.size() : end + 1);
  }
  return lines;
}

Sentences read_sentences(const fs::path& source, const fs::path& target) {
  Sentences sentences{read_lines(source), read_lines(target)};
  if (sentences.source.size() != sentences.target.size())
    throw Error(fmt::format("{} has {} lines, {} has {}; line by line they must be translations of each other", source.string(),
                            sentences.source.size(), target.string(), sentences.target.size()));
  if (sentences.size() == 0) throw Error(fmt::format("{} and {} are empty; give sentences, one a line", source.string(), target.string()));
  return sentences;
}

Sentences take_validation(Sentences& sentences) {
  if (sentences.size() < 20)
    throw Error(fmt::format("{} pairs of sentences are too few to leave some out of training; give --source-valid and --target-valid",
                            sentences.size()));
  Sentences train, valid;
  for (int64_t i = 0; i < sentences.size(); ++i) {
    Sentences& to = i % 20 == 19 ? valid : train;
    to.source.push_back(std::move(sentences.source[size_t(i)]));
    to.target.push_back(std::move(sentences.target[size_t(i)]));
  }
  sentences = std::move(train);
  return valid;
}

Pairs encode(const Sentences& sentences, const BpeTokenizer& tokenizer, int64_t max_length, const std::string& what) {
  const int64_t begin = tokenizer.special_id("<s>"), end = tokenizer.special_id("</s>");
  Pairs pairs;
  for (size_t i = 0; i < sentences.source.size(); ++i) {
    auto x = tokenizer.encode(sentences.source[i]), y = tokenizer.encode(sentences.target[i]);
    if (x.empty() || y.empty() || int64_t(x.size()) > max_length || int64_t(y.size()) > max_length) {
      ++pairs.left_out;
      continue;
    }
    x.push_back(end);
    y.insert(y.begin(), begin);
    y.push_back(end);
    pairs.source.push_back(std::move(x)), pairs.target.push_back(std::move(y));
  }
  if (pairs.size() == 0)
    throw Error(fmt::format("of {} {} pairs of sentences none has 1 to {} tokens in both languages; give a larger --max-length",
                            sentences.size(), what, max_length));
  return pairs;
}

PairBatch make_batch(const Pairs& pairs, const std::vector<int64_t>& rows, int64_t pad) {
  PairBatch batch;
  const auto fill = [&](const std::vector<std::vector<int64_t>>& sentences) {
    size_t longest = 0;
    for (const int64_t r : rows) longest = std::max(longest, sentences[size_t(r)].size());
    Tensor ids = empty({int64_t(rows.size()), int64_t(longest)}, {DType::i64});
    int64_t* to = ids.mutable_data<int64_t>();
    for (const int64_t r : rows) {
      const auto& sentence = sentences[size_t(r)];
      std::fill(std::copy(sentence.begin(), sentence.end(), to), to + longest, pad);
      batch.tokens += int64_t(sentence.size());
      to += longest;
    }
    return ids;
  };
  batch.source = fill(pairs.source);
  batch.target = fill(pairs.target);
  return batch;
}

TokenBatches::TokenBatches(const Pairs& pairs, int64_t max_tokens, uint64_t seed) : pairs_(pairs), max_tokens_(max_tokens), seed_(seed) {
  for (int64_t i = 0; i < pairs.size(); ++i)
    if (const size_t n = std::max(pairs.source[size_t(i)].size(), pairs.target[size_t(i)].size()); int64_t(n) > max_tokens)
      throw Error(
          fmt::format("a sentence of {} tokens does not fit a batch of {}; give more --tokens or a smaller --max-length", n, max_tokens));
}

std::vector<std::vector<int64_t>> TokenBatches::cut(int64_t epoch) const {
  const auto n = uint64_t(pairs_.size());
  const Philox random(seed_, uint64_t(epoch));
  const auto key = [&](int lane) { return uint64_t(random.x[lane]) << 32 | random.x[lane + 1]; };
  std::vector<int64_t> order;
  int64_t tokens = 0;
  for (uint64_t i = 0; i < n; ++i) {
    order.push_back(int64_t(shuffled(i, n, key(0))));
    tokens += int64_t(pairs_.target[size_t(order.back())].size());
  }
  const int64_t pool = std::max<int64_t>(1, pairs_.size() * batches_in_pool * max_tokens_ / std::max<int64_t>(tokens, 1));
  std::vector<std::vector<int64_t>> batches;
  for (int64_t first = 0; first < pairs_.size(); first += pool) {
    const auto begin = order.begin() + first, end = order.begin() + std::min(first + pool, pairs_.size());
    std::stable_sort(begin, end, [&](int64_t a, int64_t b) {
      const auto length = [&](int64_t i) { return std::pair(pairs_.target[size_t(i)].size(), pairs_.source[size_t(i)].size()); };
      return length(a) < length(b);
    });
    std::vector<int64_t> batch;
    size_t longest = 0;
    for (auto row = begin; row != end; ++row) {
      const size_t here = std::max(pairs_.source[size_t(*row)].size(), pairs_.target[size_t(*row)].size());
      if (int64_t(std::max(longest, here) * (batch.size() + 1)) > max_tokens_) batches.push_back(std::exchange(batch, {})), longest = 0;
      longest = std::max(longest, here);
      batch.push_back(*row);
    }
    batches.push_back(std::move(batch));
  }
  std::vector<std::vector<int64_t>> mixed(batches.size());
  for (size_t i = 0; i < batches.size(); ++i) mixed[shuffled(i, batches.size(), key(2))] = std::move(batches[i]);
  return mixed;
}

std::shared_ptr<const TokenBatches::Epoch> TokenBatches::epoch_of(int64_t i) const {
  const std::lock_guard lock(mutex_);
  while (firsts_.back() <= i) {  // epochs whose size is not known yet
    const auto epoch = int64_t(firsts_.size()) - 1;
    recent_.push_back(std::make_shared<const Epoch>(Epoch{epoch, firsts_.back(), cut(epoch)}));
    firsts_.push_back(firsts_.back() + int64_t(recent_.back()->batches.size()));
    if (recent_.size() > 2) recent_.erase(recent_.begin());
  }
  const int64_t wanted = std::upper_bound(firsts_.begin(), firsts_.end(), i) - firsts_.begin() - 1;
  for (auto& epoch : recent_)
    if (epoch->number == wanted) return epoch;
  recent_.push_back(std::make_shared<const Epoch>(Epoch{wanted, firsts_[size_t(wanted)], cut(wanted)}));
  if (recent_.size() > 2) recent_.erase(recent_.begin());
  return recent_.back();
}

std::vector<int64_t> TokenBatches::batch(int64_t i) const {
  const auto epoch = epoch_of(i);
  return epoch->batches[size_t(i - epoch->first)];
}
int64_t TokenBatches::epoch(int64_t i) const { return epoch_of(i)->number; }

}  // namespace retape::translate
