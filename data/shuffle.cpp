#include <retape/data/shuffle.h>

#include <algorithm>
#include <bit>

#include <retape/core/philox.h>

namespace retape {

uint64_t shuffled(uint64_t i, uint64_t n, uint64_t key) {
  const int half = std::max(1, (int(std::bit_width(n - 1)) + 1) / 2);
  const uint64_t mask = (uint64_t{1} << half) - 1;
  do {
    uint64_t left = i >> half, right = i & mask;
    for (uint64_t round = 0; round < 6; ++round) {
      const uint64_t mixed = left ^ (Philox(key, right << 3 | round).x[0] & mask);
      left = right, right = mixed;
    }
    i = left << half | right;
  } while (i >= n);
  return i;
}

}  // namespace retape
