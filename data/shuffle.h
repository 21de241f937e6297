// A random permutation without storing it: what samplers walk through.
#pragma once
#include <cstdint>

namespace retape {

/// Where the random permutation `key` of [0, n) puts i: a Feistel network over the next power of four, walked until it is inside [0, n)
/// (Black & Rogaway 2002). Nothing is stored, however large n is. 0 <= i < n.
uint64_t shuffled(uint64_t i, uint64_t n, uint64_t key);

}  // namespace retape
