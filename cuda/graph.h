// The kernel of cuda/graph.cpp.
#pragma once
#include <cstdint>

#include <retape/cuda/device.h>

namespace retape::cuda {

/// Numbers that travel with a launch, as many as fit among a kernel's arguments.
struct Words {
  static constexpr int capacity = 448;
  uint64_t at[capacity];
};
/// Writes the first n to memory of the device, on the current stream.
void store(const Words& words, int n, uint64_t* to);

}  // namespace retape::cuda
