// Counting what the tape keeps, in values of `width` doubles, and how often a forward runs.
#pragma once
#include "catch.h"

namespace retape::testing {

inline constexpr int64_t width = 1000;
inline int64_t live() { return memory_stats().live; }
inline int64_t one_value() {  // bytes of a tensor of `width` doubles, as the allocator rounds them
  const int64_t before = live();
  const Tensor t = empty({width}, {DType::f64});
  return live() - before;
}

inline int forwards = 0;
struct CountedSin {
  static constexpr auto name = "counted_sin";
  Saved x = {};
  Tensor forward(const Tensor& in) {
    ++forwards;
    x = save(in);
    return sin(in);
  }
  void backward(const Tensor& dy, Grads& dx) { dx.set(0, dy * cos(*x)); }
};
inline Tensor counted_sin(const Tensor& x) { return record(CountedSin{}, x); }

}  // namespace retape::testing
