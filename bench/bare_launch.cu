#include "bare_launch.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <string>
#include <vector>

namespace retape::bench {
namespace {

__global__ void multiply(const float* x, const float* w, float* y, int n) {
  const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) y[i] = x[i] * w[i];
}
void check(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(std::string("bare launch: ") + cudaGetErrorString(error));
}

}  // namespace

double bare_launch_seconds(int device, int count) {
  using clock = std::chrono::steady_clock;
  check(cudaSetDevice(device));
  float* x = nullptr;
  cudaStream_t stream;
  check(cudaMalloc(&x, 12 * sizeof(float)));
  check(cudaMemset(x, 0, 12 * sizeof(float)));
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  std::vector<double> all;
  for (int i = 0; i < 22; ++i) {
    check(cudaDeviceSynchronize());
    const auto start = clock::now();
    for (int k = 0; k < count; ++k) multiply<<<1, 256, 0, stream>>>(x, x + 4, x + 8, 4);
    const double seconds = std::chrono::duration<double>(clock::now() - start).count();
    check(cudaGetLastError());
    if (i >= 2) all.push_back(seconds);
  }
  check(cudaDeviceSynchronize());
  check(cudaStreamDestroy(stream));
  check(cudaFree(x));
  std::nth_element(all.begin(), all.begin() + long(all.size() / 2), all.end());
  return all[all.size() / 2] / count;
}

}  // namespace retape::bench
