// Philox4x32-10 (Salmon et al. 2011): a counter-based generator. The number at (seed, offset, index) can be computed again at
// any time, in any order, on host and device: this is why masks need not be stored.
#pragma once
#include <retape/core/dtype.h>

namespace retape {

/// The four 32-bit numbers of one counter value.
struct Philox {
  uint32_t x[4];
  RETAPE_HD Philox(uint64_t seed, uint64_t counter) : x{uint32_t(counter), uint32_t(counter >> 32), 0, 0} {
    uint32_t key0 = uint32_t(seed), key1 = uint32_t(seed >> 32);
    for (int round = 0; round < 10; ++round) {
      const uint64_t p0 = uint64_t(x[0]) * 0xD2511F53u, p1 = uint64_t(x[2]) * 0xCD9E8D57u;
      const uint32_t y0 = uint32_t(p1 >> 32) ^ x[1] ^ key0, y2 = uint32_t(p0 >> 32) ^ x[3] ^ key1;
      x[0] = y0, x[1] = uint32_t(p1), x[2] = y2, x[3] = uint32_t(p0);
      key0 += 0x9E3779B9u, key1 += 0xBB67AE85u;
    }
  }
};

/// Where a stretch of random numbers begins: drawn from a Generator, handed to ops as an argument.
struct RandomState {
  uint64_t seed = 0, offset = 0;
  /// Null, or, in a captured CUDA graph, where on the device the state is read from at each launch.
  const RandomState* later = nullptr;
  /// What a CUDA kernel begins with.
  RETAPE_HD RandomState now() const { return later ? RandomState{later->seed, later->offset, nullptr} : *this; }
};

/// In [0, 1), a multiple of 2^-24.
RETAPE_HD float to_uniform(uint32_t bits) { return float(bits >> 8) * 0x1p-24f; }
/// In [0, 1), a multiple of 2^-53.
RETAPE_HD double to_uniform(uint32_t high, uint32_t low) { return double((uint64_t(high) << 32 | low) >> 11) * 0x1p-53; }
/// The uniform number of element `index` in a stretch: element i uses lane i % 4 of counter offset + i / 4.
RETAPE_HD float philox_uniform(RandomState state, uint64_t index) {
  return to_uniform(Philox(state.seed, state.offset + index / 4).x[index % 4]);
}

}  // namespace retape
