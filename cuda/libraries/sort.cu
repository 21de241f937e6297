// Sorting by CUB: a radix sort that reads and writes everything once for 8 bits.
#include <retape/cuda/libraries/sort.h>

#include <cub/device/device_radix_sort.cuh>

#include <retape/cuda/launch.h>

namespace retape::cuda::library {
namespace {

template <class K> void sort_pairs(Pairs<K>& pairs, int64_t n, int bits) {
  if (n == 0) return;
  cub::DoubleBuffer<K> keys(pairs.keys, pairs.spare_keys);
  cub::DoubleBuffer<uint32_t> values(pairs.values, pairs.spare_values);
  size_t bytes = 0;
  check(cub::DeviceRadixSort::SortPairs(nullptr, bytes, keys, values, uint32_t(n), 0, bits, current_stream()), "sort");
  const Scratch<char> space{int64_t(bytes)};
  check(cub::DeviceRadixSort::SortPairs(static_cast<char*>(space), bytes, keys, values, uint32_t(n), 0, bits, current_stream()), "sort");
  pairs = {keys.Current(), keys.Alternate(), values.Current(), values.Alternate()};
}

}  // namespace

void sort(Pairs<uint32_t>& pairs, int64_t n, int bits) { sort_pairs(pairs, n, bits); }
void sort(Pairs<uint64_t>& pairs, int64_t n, int bits) { sort_pairs(pairs, n, bits); }

}  // namespace retape::cuda::library
