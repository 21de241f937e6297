// What the machine itself can do, by plain loops: kernels are judged as fractions of these, timed in the same run.
#pragma once
#include <cstdint>

namespace retape::bench {

/// Fused multiply-adds between registers on all threads, in FLOP/s (two a lane), with the widest vectors of the processor.
double fma_peak();
/// Copying `bytes` from one array to another, in bytes/s, read and written bytes counted.
double copy_bandwidth(int64_t bytes);
/// Multiplying an array of `bytes` by a number in place, in bytes/s, read and written bytes counted.
double in_place_bandwidth(int64_t bytes);
/// The C library's vectorised expf over numbers in the first cache, in results/s.
double exp_rate();

}  // namespace retape::bench
