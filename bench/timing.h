// The clock, and what keeps the compiler from leaving out work whose result nobody reads.
#pragma once
#include <algorithm>
#include <chrono>
#include <vector>

namespace retape::bench {

template <class F> double seconds_of(F&& f) {
  const auto start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

template <class T> void do_not_optimize(const T& value) { asm volatile("" : : "g"(&value) : "memory"); }

inline double median(std::vector<double> values) {
  const auto middle = values.begin() + long(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// Median seconds of a call of f, which is repeated for at least this long.
template <class F> double median_seconds(F&& f, double at_least) {
  std::vector<double> all;
  for (double total = 0; total < at_least;) total += all.emplace_back(seconds_of(f));
  return median(std::move(all));
}

}  // namespace retape::bench
