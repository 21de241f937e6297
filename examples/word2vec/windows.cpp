#include "windows.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include <retape/retape.h>

namespace retape::word2vec {
namespace {

constexpr double all = 4294967296.0;  // 2^32

std::vector<double> noise_weights(const Vocabulary& vocabulary) {
  std::vector<double> weights;
  for (int64_t w = 0; w < vocabulary.size(); ++w) weights.push_back(std::pow(double(vocabulary.count(w)), 0.75));
  return weights;
}

// The random numbers of one word of the text, four at a time.
class Random {
 public:
  Random(uint64_t seed, uint64_t place) : seed_(seed), next_(place << 24), block_(seed, next_++) {}
  uint32_t operator()() {
    if (used_ == 4) block_ = Philox(seed_, next_++), used_ = 0;
    return block_.x[used_++];
  }

 private:
  uint64_t seed_, next_;
  Philox block_;
  int used_ = 0;
};

}  // namespace

AliasTable::AliasTable(const std::vector<double>& weights) {
  const double mean = std::accumulate(weights.begin(), weights.end(), 0.0) / double(weights.size());
  std::vector<double> left;
  std::vector<int32_t> small, large;
  for (const double w : weights) {
    (w < mean ? small : large).push_back(int32_t(left.size()));
    left.push_back(w / mean);
  }
  slots_.assign(weights.size(), {UINT32_MAX, 0});
  for (size_t i = 0; i < slots_.size(); ++i) slots_[i].other = int32_t(i);
  while (!small.empty() && !large.empty()) {
    const int32_t s = small.back(), l = large.back();
    small.pop_back();
    slots_[size_t(s)] = {uint32_t(std::min(left[size_t(s)] * all, all - 1)), l};
    left[size_t(l)] -= 1 - left[size_t(s)];
    if (left[size_t(l)] < 1) large.pop_back(), small.push_back(l);
  }
}

HuffmanCode::HuffmanCode(const Vocabulary& vocabulary) {
  // Words are sorted by count and nodes are made in the order of their counts, so that two queues do for a heap. Node i has number n + i.
  const int64_t n = vocabulary.size();
  std::vector<int64_t> count(size_t(2 * n - 1)), parent(size_t(2 * n - 1), -1);
  std::vector<uint8_t> bit(size_t(2 * n - 1));
  for (int64_t w = 0; w < n; ++w) count[size_t(w)] = vocabulary.count(w);
  int64_t word = n - 1, node = n;
  for (int64_t made = n; made < 2 * n - 1; ++made) {
    const auto smallest = [&] {
      if (word >= 0 && (node == made || count[size_t(word)] < count[size_t(node)])) return word--;
      return node++;
    };
    const int64_t a = smallest(), b = smallest();
    count[size_t(made)] = count[size_t(a)] + count[size_t(b)];
    parent[size_t(a)] = parent[size_t(b)] = made;
    bit[size_t(b)] = 1;
  }
  begin.push_back(0);
  for (int64_t w = 0; w < n; ++w) {
    const size_t first = nodes.size();
    for (int64_t at = w; parent[size_t(at)] >= 0; at = parent[size_t(at)])
      nodes.push_back(int32_t(parent[size_t(at)] - n)), bits.push_back(float(bit[size_t(at)]));
    std::reverse(nodes.begin() + int64_t(first), nodes.end());
    std::reverse(bits.begin() + int64_t(first), bits.end());
    begin.push_back(int32_t(nodes.size()));
  }
}

Windows::Windows(const Vocabulary& vocabulary, const TokenFile& ids, const WindowOptions& options)
    : vocabulary_(vocabulary), ids_(ids), options_(options), noise_(noise_weights(vocabulary)), huffman_(vocabulary) {
  for (int64_t w = 0; w < vocabulary.size(); ++w) {
    const double frequency = double(vocabulary.count(w)) / (options.sample * double(vocabulary.total()));
    const double keep = options.sample > 0 ? (std::sqrt(frequency) + 1) / frequency : 1;
    keep_.push_back(uint32_t(std::min(keep * all, all - 1)));
  }
}

int32_t Windows::id_at(int64_t i) const {
  return ids_.bytes_per_token() == 2 ? int32_t(reinterpret_cast<const uint16_t*>(ids_.data())[i])
                                     : int32_t(reinterpret_cast<const uint32_t*>(ids_.data())[i]);
}

Word2VecWindows Windows::make(int64_t epoch, int64_t begin, int64_t end) const {
  struct Word {
    int32_t id;
    int32_t radius;
    int64_t place;  // of its random numbers
  };
  // Lines end at `lines`, places in `words`.
  std::vector<Word> words;
  std::vector<int32_t> lines;
  for (int64_t i = begin; i < end; ++i) {
    const int32_t id = id_at(i);
    if (id == vocabulary_.size()) {
      lines.push_back(int32_t(words.size()));
      continue;
    }
    const int64_t place = epoch * ids_.size() + i;
    Random random(options_.seed, uint64_t(place));
    if (random() > keep_[size_t(id)]) continue;
    words.push_back({id, int32_t(1 + (uint64_t(random()) * uint64_t(options_.window) >> 32)), place});
  }
  const auto n = int64_t(words.size());
  lines.push_back(int32_t(n));

  Word2VecWindows out;
  out.context_begin = empty({n + 1}, {DType::i32}), out.target_begin = empty({n + 1}, {DType::i32});
  int32_t *context_begin = out.context_begin.mutable_data<int32_t>(), *target_begin = out.target_begin.mutable_data<int32_t>();
  std::vector<int32_t> first(static_cast<size_t>(n));  // word of the window
  context_begin[0] = target_begin[0] = 0;
  for (int32_t line = 0, i = 0; int64_t stop : lines) {
    for (line = i; i < stop; ++i) {
      const Word& w = words[size_t(i)];
      const int32_t low = std::max(line, i - w.radius), high = int32_t(std::min<int64_t>(stop - 1, i + w.radius));
      first[size_t(i)] = low;
      context_begin[i + 1] = context_begin[i] + high - low;
      target_begin[i + 1] = target_begin[i] + (options_.negative ? int32_t(options_.negative) + 1
                                                                 : huffman_.begin[size_t(w.id) + 1] - huffman_.begin[size_t(w.id)]);
    }
  }
  out.contexts = empty({context_begin[n]}, {DType::i32}), out.targets = empty({target_begin[n]}, {DType::i32});
  out.labels = empty({target_begin[n]}, {DType::f32});
  int32_t *contexts = out.contexts.mutable_data<int32_t>(), *targets = out.targets.mutable_data<int32_t>();
  float* labels = out.labels.mutable_data<float>();
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < n; ++i) {
    const Word& w = words[size_t(i)];
    int64_t at = first[size_t(i)];
    for (int32_t c = context_begin[i]; c < context_begin[i + 1]; ++c, ++at) {
      if (at == i) ++at;
      contexts[c] = words[size_t(at)].id;
    }
    int32_t t = target_begin[i];
    if (!options_.negative) {
      for (int32_t k = huffman_.begin[size_t(w.id)]; k < huffman_.begin[size_t(w.id) + 1]; ++k, ++t)
        targets[t] = huffman_.nodes[size_t(k)], labels[t] = 1 - huffman_.bits[size_t(k)];
      continue;
    }
    Random random(options_.seed, uint64_t(w.place));
    random(), random();  // those that dropped words and chose the radius
    targets[t] = w.id, labels[t] = 1;
    while (++t < target_begin[i + 1]) {
      do {
        const uint32_t a = random();
        targets[t] = noise_.draw(a, random());
      } while (targets[t] == w.id);
      labels[t] = 0;
    }
  }
  return out;
}

Word2VecWindows part(const Word2VecWindows& windows, int64_t first, int64_t count) {
  const auto offsets = [&](const Tensor& begin) {
    const int32_t* const from = begin.data<int32_t>();
    Tensor part = empty({count + 1}, {DType::i32});
    int32_t* const to = part.mutable_data<int32_t>();
    for (int64_t i = 0; i <= count; ++i) to[i] = from[first + i] - from[first];
    return part;
  };
  const auto entries = [&](const Tensor& all_entries, const Tensor& begin) {
    const int32_t* const from = begin.data<int32_t>();
    return contiguous(narrow(all_entries, 0, from[first], from[first + count] - from[first]));
  };
  return {entries(windows.contexts, windows.context_begin), offsets(windows.context_begin), entries(windows.targets, windows.target_begin),
          offsets(windows.target_begin), entries(windows.labels, windows.target_begin)};
}

}  // namespace retape::word2vec
