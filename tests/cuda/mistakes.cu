// Kernels with one mistake each, and the same without it: what shows that the emulation finds them.
#include "mistakes.h"

#include <retape/cuda/launch.h>

namespace {

using retape::cuda::all_lanes;

constexpr int threads = 64;

// y = x backwards, in place in shared memory
template <bool right> __global__ void missing_barrier(const unsigned* x, unsigned* y) {
  __shared__ unsigned tile[threads];
  const int t = int(threadIdx.x);
  tile[t] = x[t];
  __syncthreads();
  const unsigned other = tile[threads - 1 - t];
  if (right) __syncthreads();
  tile[t] = other;
  y[t] = tile[t];
}
template <bool right> __global__ void shared_out_of_bounds(const unsigned* x, unsigned* y) {
  __shared__ unsigned tile[threads - 1];
  unsigned* const p = tile;
  const int t = int(threadIdx.x);
  if (t < threads - right) p[t] = x[t];
  __syncthreads();
  y[t] = tile[0];
}
template <bool right> __global__ void dynamic_shared_out_of_bounds(const unsigned* x, unsigned* y) {
  RETAPE_DYNAMIC_SHARED(unsigned, tile);  // threads - 1
  const int t = int(threadIdx.x);
  if (t < threads - right) tile[t] = x[t];
  __syncthreads();
  y[t] = tile[0];
}
template <bool right> __global__ void global_out_of_bounds(const unsigned* x, unsigned* y) {
  const int t = int(threadIdx.x);
  y[t] = x[right ? t : t + 1];
}
// With 48 threads the last warp is half a warp.
template <bool right> __global__ void wrong_lane_mask(const unsigned* x, unsigned* y) {
  const int t = int(threadIdx.x);
  const unsigned mask = right && t >= 32 ? all_lanes >> 16 : all_lanes;
  y[t] = __shfl_xor_sync(mask, x[t], 1);
}
template <bool right> __global__ void divergent_barrier(const unsigned* x, unsigned* y) {
  const int t = int(threadIdx.x);
  if (right) {
    __syncthreads();
  } else {
    if (t % 2) __syncthreads();
    else __syncthreads();
  }
  y[t] = x[t];
}
// By several blocks
template <bool right> __global__ void non_atomic_update(const unsigned* x, unsigned* y) {
  if (right) atomicAdd(y, x[threadIdx.x]);
  else *y += x[threadIdx.x];
}
template <bool right> __global__ void uninitialised_shared(const unsigned* x, unsigned* y) {
  __shared__ unsigned tile[threads];
  const int t = int(threadIdx.x);
  if (right || t < threads / 2) tile[t] = x[t];
  __syncthreads();
  y[t] = tile[threads - 1 - t];
}
// Halves of a warp exchange through shared memory; a shuffle in between is no fence.
template <bool right> __global__ void missing_warp_fence(const unsigned* x, unsigned* y) {
  __shared__ unsigned tile[threads];
  const int t = int(threadIdx.x);
  tile[t] = x[t];
  if (right) __syncwarp();
  else __shfl_sync(all_lanes, 0, 0);
  y[t] = tile[t ^ 1];
}

struct Case {
  const char* name;
  void (*wrong)(const unsigned*, unsigned*);
  void (*right)(const unsigned*, unsigned*);
  unsigned blocks = 1, threads = ::threads;
};
// clang-format off
#define RETAPE_CASE(name, ...) {#name, &name<false>, &name<true> __VA_OPT__(,) __VA_ARGS__}
// clang-format on
const Case cases[] = {
    RETAPE_CASE(missing_barrier),      RETAPE_CASE(shared_out_of_bounds),   RETAPE_CASE(dynamic_shared_out_of_bounds),
    RETAPE_CASE(global_out_of_bounds), RETAPE_CASE(wrong_lane_mask, 1, 48), RETAPE_CASE(divergent_barrier),
    RETAPE_CASE(non_atomic_update, 3), RETAPE_CASE(uninitialised_shared),   RETAPE_CASE(missing_warp_fence),
};
#undef RETAPE_CASE

void run(const Case& c, void (*kernel)(const unsigned*, unsigned*)) {
  constexpr size_t bytes = threads * sizeof(unsigned);
  void *x = nullptr, *y = nullptr;
  cudaMallocAsync(&x, bytes, nullptr);
  cudaMallocAsync(&y, bytes, nullptr);
  cudaMemsetAsync(x, 1, bytes, nullptr);
  cudaMemsetAsync(y, 0, bytes, nullptr);
  emulation::launch(kernel, c.blocks, c.threads, bytes - sizeof(unsigned), nullptr, static_cast<const unsigned*>(x),
                    static_cast<unsigned*>(y));
  cudaFreeAsync(x, nullptr);
  cudaFreeAsync(y, nullptr);
}

}  // namespace

bool run_mistake(const std::string& name) {
  bool found = false;
  for (const Case& c : cases) {
    if (name == "none") run(c, c.right);
    if (name == c.name) run(c, c.wrong);
    found = found || name == "none" || name == c.name;
  }
  return found;
}
