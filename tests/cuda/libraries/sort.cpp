// The host's version of cuda/libraries/sort.cu. What was the space gets the result, so that a caller who does not look is found out.
#include <retape/cuda/libraries/sort.h>

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include <retape/cuda/launch.h>

namespace retape::cuda::library {
namespace {

template <class K> void sort_pairs(Pairs<K>& pairs, int64_t n, int bits) {
  const Pairs<K> from = pairs;
  emulation::enqueue(current_stream(), [=] {
    const K mask = bits >= int(8 * sizeof(K)) ? K(~K(0)) : K((K(1) << bits) - 1);
    std::vector<int64_t> order(size_t(n), 0);
    std::iota(order.begin(), order.end(), int64_t{0});
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return (from.keys[a] & mask) < (from.keys[b] & mask); });
    for (int64_t i = 0; i < n; ++i) {
      from.spare_keys[i] = from.keys[order[size_t(i)]];
      from.spare_values[i] = from.values[order[size_t(i)]];
    }
    for (int64_t i = 0; i < n; ++i) from.keys[i] = K(~K(0)), from.values[i] = ~0u;
  });
  std::swap(pairs.keys, pairs.spare_keys);
  std::swap(pairs.values, pairs.spare_values);
}

}  // namespace

void sort(Pairs<uint32_t>& pairs, int64_t n, int bits) { sort_pairs(pairs, n, bits); }
void sort(Pairs<uint64_t>& pairs, int64_t n, int bits) { sort_pairs(pairs, n, bits); }

}  // namespace retape::cuda::library
