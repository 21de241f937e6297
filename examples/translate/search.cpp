#include "search.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

namespace retape::translate {
namespace {

constexpr double never = -std::numeric_limits<double>::infinity();

struct Candidate {
  double log_probability;
  int64_t beam, token;
};

// One source: hypotheses that go on, as many for each source, and those that have ended.
struct Search {
  int64_t source;   // which one
  int64_t longest;  // tokens
  std::vector<Hypothesis> open, ended;
};

double score(double log_probability, size_t tokens, double penalty) {
  return log_probability / std::pow((5 + double(tokens)) / 6, penalty);
}

// The `count` largest of rows * vocab sums of a row's number and a log probability, but for those of two tokens that no translation has.
std::vector<Candidate> best(const float* log_probabilities, int64_t vocab, const std::vector<Hypothesis>& open, int64_t count, int64_t pad,
                            int64_t begin) {
  constexpr int64_t block = 128;  // tokens that are passed over together where none is good enough
  std::vector<Candidate> top;
  const auto better = [](const Candidate& a, const Candidate& b) { return a.log_probability > b.log_probability; };
  const auto enters = [&](double p) { return int64_t(top.size()) < count || p > top.back().log_probability; };
  for (size_t beam = 0; beam < open.size(); ++beam) {
    const float* const row = log_probabilities + int64_t(beam) * vocab;
    const double before = open[beam].log_probability;
    for (int64_t first = 0; first < vocab; first += block) {
      const int64_t end = std::min(vocab, first + block);
      float largest = -std::numeric_limits<float>::infinity();
#pragma omp simd reduction(max : largest)
      for (int64_t token = first; token < end; ++token) largest = std::max(largest, row[token]);
      if (!enters(before + double(largest))) continue;
      for (int64_t token = first; token < end; ++token) {
        const double p = before + double(row[token]);
        if (!enters(p) || token == pad || token == begin || !(p > never)) continue;
        const Candidate c{p, int64_t(beam), token};
        top.insert(std::upper_bound(top.begin(), top.end(), c, better), c);
        if (int64_t(top.size()) > count) top.pop_back();
      }
    }
  }
  return top;
}

}  // namespace

std::vector<std::vector<Hypothesis>> beam_search(Translator& model, const Tensor& source, const SearchOptions& o) {
  const NoGrad off;
  const int64_t sources = source.size(0), vocab = model.config.vocab;
  const Tensor all_padding = model.padding(source), memory = model.encode(source);
  const auto pads = sum(cast(all_padding, DType::i64), {1}).to_vector<int64_t>();
  int64_t longest = 0;
  std::vector<Search> running;
  for (int64_t i = 0; i < sources; ++i) {
    const int64_t most = o.max_length ? o.max_length : source.size(1) - pads[size_t(i)] + 50;
    running.push_back({i, most, {Hypothesis{}}, {}});
    longest = std::max(longest, most);
  }
  auto caches = model.decoder.caches(memory, longest + 1);
  Tensor padding = all_padding;
  std::vector<int64_t> last(size_t(sources), o.begin);  // a row's last token
  int64_t width = 1;                                    // rows of a source, one after the other
  std::vector<std::vector<Hypothesis>> results(static_cast<size_t>(sources));

  for (int64_t position = 0; !running.empty(); ++position) {
    const auto rows = int64_t(last.size());
    const Tensor x = model.embed(to(tensor(last, {rows, 1}), source.device()), position);
    const Tensor hidden = model.decoder.step(x, caches, padding);
    const Tensor scores = to(cast(log_softmax(model.logits(select(hidden, 1, 0)), -1), DType::f32), Device::cpu());
    const float* const log_probabilities = scores.data<float>();
    std::vector<std::vector<int64_t>> parents(running.size());
#pragma omp parallel for schedule(dynamic)
    for (size_t i = 0; i < running.size(); ++i) {
      Search& search = running[i];
      const int64_t first_row = int64_t(i) * width;
      std::vector<Hypothesis> open;
      for (auto& c : best(log_probabilities + first_row * vocab, vocab, search.open, 2 * o.beam, model.config.pad, o.begin)) {
        Hypothesis next = search.open[size_t(c.beam)];
        next.log_probability = c.log_probability;
        const bool ends = c.token == o.end;
        if (!ends) next.ids.push_back(c.token);
        next.score = score(c.log_probability, next.ids.size() + (ends ? 1 : 0), o.length_penalty);
        if (ends || int64_t(next.ids.size()) == search.longest) {
          search.ended.push_back(std::move(next));
        } else if (int64_t(open.size()) < o.beam) {
          open.push_back(std::move(next));
          parents[i].push_back(first_row + c.beam);
        }
      }
      search.open = std::move(open);
      std::stable_sort(search.ended.begin(), search.ended.end(), [](auto& a, auto& b) { return a.score > b.score; });
      if (int64_t(search.ended.size()) > o.beam) search.ended.resize(size_t(o.beam));
      // The best that goes on could at most keep its probability while it grows.
      const double hope =
          search.open.empty() ? never : score(search.open.front().log_probability, size_t(search.longest), o.length_penalty);
      if (int64_t(search.ended.size()) == o.beam && search.ended.back().score >= hope) search.open.clear();
    }

    std::vector<int64_t> kept, sources_kept;  // rows and searches that go on, as they were
    last.clear();
    std::vector<Search> still;
    for (size_t i = 0; i < running.size(); ++i) {
      Search& search = running[i];
      if (search.open.empty()) {
        if (search.ended.empty())
          throw Error(
              "beam_search: the model gives probabilities that are not numbers (nan), so that no translation is better than another");
        results[size_t(search.source)] = std::move(search.ended);
        continue;
      }
      // Where the vocabulary is too small for a whole beam, hypotheses without any probability fill it up: nothing comes of them.
      while (int64_t(search.open.size()) < o.beam) {
        search.open.push_back({.ids = {o.begin}, .score = never, .log_probability = never});
        parents[i].push_back(parents[i].front());
      }
      for (size_t k = 0; k < search.open.size(); ++k) {
        kept.push_back(parents[i][k]);
        last.push_back(search.open[k].ids.back());
      }
      sources_kept.push_back(int64_t(i));
      still.push_back(std::move(search));
    }
    const size_t before = running.size();
    running = std::move(still);
    if (running.empty()) break;
    width = o.beam;
    std::vector<int64_t> same(static_cast<size_t>(rows));
    std::iota(same.begin(), same.end(), 0);
    if (kept != same)
      for (const Tensor chosen = to(tensor(kept), source.device()); auto& cache : caches) cache.self.select(chosen);
    if (running.size() == before) continue;
    const Tensor chosen = to(tensor(sources_kept), source.device());
    for (auto& cache : caches) cache.memory = {index_select(cache.memory.k, 0, chosen), index_select(cache.memory.v, 0, chosen)};
    padding = index_select(padding, 0, chosen);
  }
  return results;
}

}  // namespace retape::translate
