// Sorting on the device by a library: CUB, or in the emulated build what stands in tests/cuda/libraries/sort.cpp.
#pragma once
#include <cstdint>

namespace retape::cuda::library {

/// n keys with a value each, and as much space again.
template <class K> struct Pairs {
  K *keys, *spare_keys;
  uint32_t *values, *spare_values;
};
/// Sorts by the lowest `bits` bits of the keys, stable, on the current stream. Afterwards `keys` and `values` are the sorted ones, which
/// may be what was the space before. n < 2^31.
void sort(Pairs<uint32_t>& pairs, int64_t n, int bits);
void sort(Pairs<uint64_t>& pairs, int64_t n, int bits);

}  // namespace retape::cuda::library
