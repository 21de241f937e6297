// The kernel of a state space that is diagonal less rank one: a warp goes through the positions of a channel, each lane with every 32nd of its states.
#include <retape/cuda/launch.h>

#include <cmath>

namespace retape::cuda {
namespace {

constexpr int block = 128;  // threads

// factor, p, q, b, c (H, N, 2). States are kept every `interval` positions.
template <class T> struct Problem {
  int64_t channels, pairs, length, interval, kept;
  const T *factor, *p, *q, *b, *c;
  Problem(const Tensor& factor, const Tensor& p, const Tensor& q, const Tensor& b, const Tensor& c, int64_t length)
      : channels(factor.shape()[0]),
        pairs(factor.shape()[1]),
        length(length),
        interval(max_of(int64_t{1}, int64_t(std::sqrt(double(length))))),
        kept((length + interval - 1) / interval),
        factor(data<T>(factor)),
        p(data<T>(p)),
        q(data<T>(q)),
        b(data<T>(b)),
        c(data<T>(c)) {}
  dim3 blocks() const { return blocks_for(channels * 32, block); }
  RETAPE_HD int64_t state() const { return 2 * pairs; }  // numbers
};

template <class T> __device__ __forceinline__ T sum_of_lanes(T x) {
  return warp_reduce(x, [](T a, T b) { return a + b; });
}
// 2 Re(u x)
template <class T> __device__ __forceinline__ T twice_real(const Problem<T>& in, const T* u, const T* x) {
  T sum = 0;
  for (int64_t i = 2 * int64_t(threadIdx.x % 32); i < in.state(); i += 64) sum += u[i] * x[i] - u[i + 1] * x[i + 1];
  return 2 * sum_of_lanes(sum);
}
// to = factor x - p s; may be x's place
template <class T> __device__ __forceinline__ void next(const Problem<T>& in, const T* factor, const T* p, const T* x, T s, T* to) {
  for (int64_t i = 2 * int64_t(threadIdx.x % 32); i < in.state(); i += 64) {
    const T re = x[i], im = x[i + 1];
    to[i] = factor[i] * re - factor[i + 1] * im - p[i] * s;
    to[i + 1] = factor[i] * im + factor[i + 1] * re - p[i + 1] * s;
  }
}
template <class T> __device__ __forceinline__ void copy_state(const Problem<T>& in, const T* from, T* to) {
  for (int64_t i = 2 * int64_t(threadIdx.x % 32); i < in.state(); i += 64) to[i] = from[i], to[i + 1] = from[i + 1];
}

// states (H, N, 2)
template <class T> __global__ void forward(Problem<T> in, T* states, T* y) {
  for (int64_t h = thread_index() / 32; h < in.channels; h += thread_count() / 32) {
    const int64_t first = h * in.state();
    T* const x = states + first;
    copy_state(in, in.b + first, x);
    for (int64_t l = 0; l < in.length; ++l) {
      const T k = twice_real(in, in.c + first, x), s = twice_real(in, in.q + first, x);
      if (threadIdx.x % 32 == 0) y[h * in.length + l] = k;
      next(in, in.factor + first, in.p + first, x, s, x);
    }
  }
}

// kept (H, kept, N, 2), states (H, interval, N, 2). db is the gradient of the state behind a position on the way.
template <class T> __global__ void backward(Problem<T> in, const T* dy, T* kept, T* states, T* dfactor, T* dp, T* dq, T* db, T* dc) {
  for (int64_t h = thread_index() / 32; h < in.channels; h += thread_count() / 32) {
    const int64_t n = in.state(), first = h * n;
    const T *const factor = in.factor + first, *const p = in.p + first, *const q = in.q + first, *const c = in.c + first;
    T *const before = kept + h * in.kept * n, *const own = states + h * in.interval * n;
    for (int64_t i = int64_t(threadIdx.x % 32) * 2; i < n; i += 64)
      for (T* const d : {dfactor, dp, dq, db, dc}) d[first + i] = d[first + i + 1] = 0;
    copy_state(in, in.b + first, own);
    for (int64_t at = 0; at < in.kept; ++at) {
      copy_state(in, own, before + at * n);
      for (int64_t l = 0; l < in.interval && at + 1 < in.kept; ++l) next(in, factor, p, own, twice_real(in, q, own), own);
    }
    T of_sum = 0;  // twice the gradient of the sum at a position
    for (int64_t at = in.kept; at-- > 0;) {
      const int64_t begin = at * in.interval, many = min_of(in.interval, in.length - begin);
      copy_state(in, before + at * n, own);
      for (int64_t l = 0; l + 1 < many; ++l) next(in, factor, p, own + l * n, twice_real(in, q, own + l * n), own + (l + 1) * n);
      for (int64_t l = many; l-- > 0;) {
        const T* const x = own + l * n;
        const T s = twice_real(in, q, x), of_output = 2 * dy[h * in.length + begin + l];
        T sum = 0;
        for (int64_t i = int64_t(threadIdx.x % 32) * 2; i < n; i += 64) {
          T *const g = db + first + i, re = g[0], im = g[1];
          dfactor[first + i] += re * x[i] + im * x[i + 1], dfactor[first + i + 1] += im * x[i] - re * x[i + 1];
          dp[first + i] -= re * s, dp[first + i + 1] -= im * s;
          dq[first + i] += x[i] * of_sum, dq[first + i + 1] -= x[i + 1] * of_sum;
          dc[first + i] += x[i] * of_output, dc[first + i + 1] -= x[i + 1] * of_output;
          g[0] = factor[i] * re + factor[i + 1] * im + q[i] * of_sum + c[i] * of_output;
          g[1] = factor[i] * im - factor[i + 1] * re - q[i + 1] * of_sum - c[i + 1] * of_output;
          sum += p[i] * g[0] + p[i + 1] * g[1];
        }
        of_sum = -2 * sum_of_lanes(sum);
      }
    }
  }
}

template <class F> void with_wide(DType d, const F& f) {
  if (d == DType::f64) f(double{});
  else f(float{});
}

}  // namespace

void dplr_kernel(const Tensor& factor, const Tensor& p, const Tensor& q, const Tensor& b, const Tensor& c, Tensor& y) {
  with_wide(factor.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const Problem<T> in(factor, p, q, b, c, y.shape()[1]);
    const Scratch<T> states(factor.numel());
    launch(forward<T>, in.blocks(), block, 0, in, static_cast<T*>(states), data<T>(y));
  });
}

void dplr_kernel_backward(const Tensor& dy, const Tensor& factor, const Tensor& p, const Tensor& q, const Tensor& b, const Tensor& c,
                          Tensor& dfactor, Tensor& dp, Tensor& dq, Tensor& db, Tensor& dc) {
  with_wide(factor.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const Problem<T> in(factor, p, q, b, c, dy.shape()[1]);
    const Scratch<T> kept(in.kept * factor.numel()), states(in.interval * factor.numel());
    launch(backward<T>, in.blocks(), block, 0, in, data<T>(dy), static_cast<T*>(kept), static_cast<T*>(states), data<T>(dfactor),
           data<T>(dp), data<T>(dq), data<T>(db), data<T>(dc));
  });
}

}  // namespace retape::cuda
