#include "map.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include <examples/common/plot.h>
#include <retape/core/error.h>
#include <retape/core/philox.h>

namespace retape::word2vec {
namespace {

struct Point {
  double x, y;
};

// The chances with which each point picks another, of which about `perplexity` matter: each row's width is found by bisection.
std::vector<double> neighbour_chances(const WordVectors& vectors, int64_t first, int64_t n, double perplexity) {
  std::vector<double> p(size_t(n * n));
  for (int64_t i = 0; i < n; ++i) {
    double* const row = p.data() + i * n;
    std::vector<double> distance(static_cast<size_t>(n));
    for (int64_t j = 0; j < n; ++j) distance[size_t(j)] = 2 - 2 * vectors.similarity(first + i, first + j);
    double low = 0, high = INFINITY, precision = 1;
    for (int step = 0; step < 60; ++step) {
      double total = 0, weighted = 0;
      for (int64_t j = 0; j < n; ++j) {
        row[j] = i == j ? 0 : std::exp(-precision * distance[size_t(j)]);
        total += row[j], weighted += row[j] * distance[size_t(j)];
      }
      for (int64_t j = 0; j < n; ++j) row[j] /= total;
      const double entropy = std::log(total) + precision * weighted / total;
      if (entropy > std::log(perplexity)) low = precision;
      else high = precision;
      precision = std::isinf(high) ? precision * 2 : (low + high) / 2;
    }
  }
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < i; ++j)
      p[size_t(i * n + j)] = p[size_t(j * n + i)] = (p[size_t(i * n + j)] + p[size_t(j * n + i)]) / double(2 * n);
  return p;
}

std::vector<Point> embed(const std::vector<double>& p, int64_t n) {
  std::vector<Point> at, velocity(static_cast<size_t>(n)), gradient(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) {
    const Philox random(0, uint64_t(i));
    at.push_back({1e-4 * (random.x[0] / 4294967296.0 - 0.5), 1e-4 * (random.x[1] / 4294967296.0 - 0.5)});
  }
  constexpr int steps = 600, early = 100;  // at first neighbours attract each other more
  const double rate = std::max(double(n) / 12, 20.0);
  std::vector<double> q(size_t(n * n));
  for (int step = 0; step < steps; ++step) {
    double total = 0;
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < n; ++j) {
        const double dx = at[size_t(i)].x - at[size_t(j)].x, dy = at[size_t(i)].y - at[size_t(j)].y;
        total += q[size_t(i * n + j)] = i == j ? 0 : 1 / (1 + dx * dx + dy * dy);
      }
    const double attraction = step < early ? 12 : 1, momentum = step < early ? 0.5 : 0.8;
    for (int64_t i = 0; i < n; ++i) {
      Point g{0, 0};
      for (int64_t j = 0; j < n; ++j) {
        const double weight = q[size_t(i * n + j)], force = (attraction * p[size_t(i * n + j)] - weight / total) * weight;
        g.x += force * (at[size_t(i)].x - at[size_t(j)].x), g.y += force * (at[size_t(i)].y - at[size_t(j)].y);
      }
      gradient[size_t(i)] = g;
    }
    for (int64_t i = 0; i < n; ++i) {
      Point& v = velocity[size_t(i)];
      v = {momentum * v.x - rate * 4 * gradient[size_t(i)].x, momentum * v.y - rate * 4 * gradient[size_t(i)].y};
      at[size_t(i)].x += v.x, at[size_t(i)].y += v.y;
    }
  }
  return at;
}

}  // namespace

std::string map_svg(const WordVectors& vectors, int64_t first, int64_t count, const std::string& title) {
  first = std::clamp<int64_t>(first, 0, std::max<int64_t>(0, vectors.size() - count));
  count = std::min(count, vectors.size() - first);
  if (count < 3) throw Error(fmt::format("a map of {} words is not possible; it takes at least 3", count));
  const auto at = embed(neighbour_chances(vectors, first, count, std::min(20.0, double(count) / 3)), count);
  Point low = at[0], high = at[0];
  for (auto& p : at) {
    low = {std::min(low.x, p.x), std::min(low.y, p.y)};
    high = {std::max(high.x, p.x), std::max(high.y, p.y)};
  }
  constexpr double width = 1200, height = 900, margin = 50;
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} {1}\" font-family=\"sans-serif\">\n"
      "<rect width=\"{0}\" height=\"{1}\" fill=\"white\"/>\n"
      "<text x=\"{2}\" y=\"28\" text-anchor=\"middle\" font-size=\"18\">{3}</text>\n",
      width, height, width / 2, examples::escape_xml(title));
  for (int64_t i = 0; i < count; ++i) {
    const double x = margin + (at[size_t(i)].x - low.x) / std::max(high.x - low.x, 1e-9) * (width - 2 * margin);
    const double y = margin + (at[size_t(i)].y - low.y) / std::max(high.y - low.y, 1e-9) * (height - 2 * margin);
    svg += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\" font-size=\"11\" fill=\"#333\">{}</text>\n", x, y,
                       examples::escape_xml(vectors.word(first + i)));
  }
  return svg + "</svg>\n";
}

}  // namespace retape::word2vec
