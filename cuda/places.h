// Which place and channel of images (N, space, C) a thread has. For kernel files, after cuda/launch.h.
#pragma once
#include <retape/cuda/launch.h>

namespace retape::cuda {

struct Place {
  int64_t n, at[3], channel;
};
__device__ __forceinline__ Place place_of(int64_t t, const int64_t (&size)[3], int64_t channels) {
  const int64_t r = t / channels;
  return {r / (size[0] * size[1] * size[2]), {r / (size[1] * size[2]) % size[0], r / size[2] % size[1], r % size[2]}, t % channels};
}

}  // namespace retape::cuda
