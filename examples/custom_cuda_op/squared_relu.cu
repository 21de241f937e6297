// The kernels. <retape/cuda/launch.h> has what the library's own are written with: launch(), data(), dtypes as template arguments.
#include <retape/cuda/launch.h>

#include "squared_relu.h"

namespace {

using retape::compute_t, retape::cuda::thread_count, retape::cuda::thread_index;

// Half types are computed in float.
template <class T> __global__ void forward(const T* x, const T* bias, int64_t features, int64_t n, T* y) {
  for (int64_t i = thread_index(); i < n; i += thread_count()) {
    const auto v = compute_t<T>(x[i]) + compute_t<T>(bias[i % features]);
    y[i] = T(v > 0 ? v * v : compute_t<T>(0));
  }
}
template <class T> __global__ void backward(const T* dy, const T* x, const T* bias, int64_t features, int64_t n, T* dx) {
  for (int64_t i = thread_index(); i < n; i += thread_count()) {
    const auto v = compute_t<T>(x[i]) + compute_t<T>(bias[i % features]);
    dx[i] = T(v > 0 ? 2 * v * compute_t<T>(dy[i]) : compute_t<T>(0));
  }
}

}  // namespace

namespace kernels {
using namespace retape::cuda;

void squared_relu(const retape::Tensor& x, const retape::Tensor& bias, retape::Tensor& y) {
  use(x.device());  // launch() takes the thread's current device, and its current stream there
  with_floating("squared_relu", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    launch(forward<T>, blocks_for(x.numel()), 256, 0, data<T>(x), data<T>(bias), bias.numel(), x.numel(), data<T>(y));
  });
}
void squared_relu_backward(const retape::Tensor& dy, const retape::Tensor& x, const retape::Tensor& bias, retape::Tensor& dx) {
  use(x.device());
  with_floating("squared_relu_backward", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    launch(backward<T>, blocks_for(x.numel()), 256, 0, data<T>(dy), data<T>(x), data<T>(bias), bias.numel(), x.numel(), data<T>(dx));
  });
}

}  // namespace kernels
