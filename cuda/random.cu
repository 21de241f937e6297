// Random numbers from Philox: element i of a tensor takes number i of the stretch, so that all devices draw the same ones. A thread
// computes all that one counter gives: four numbers, or two of f64 and of integers.
#include <retape/cuda/launch.h>

namespace retape::cuda {
namespace {

template <class T> constexpr int numbers_of_counter = sizeof(T) == 8 ? 2 : 4;

// Writes a counter's numbers to elements [first, first + N) of y as far as there are so many.
template <class T, int N, class V> __device__ __forceinline__ void write(const V (&v)[N], int64_t first, int64_t n, bool packed, T* y) {
  if (packed && first + N <= n) {
    Pack<T, N> out;
#pragma unroll
    for (int j = 0; j < N; ++j) out.at[j] = T(v[j]);
    *reinterpret_cast<Pack<T, N>*>(y + first) = out;
  } else {
#pragma unroll
    for (int j = 0; j < N; ++j)
      if (first + j < n) y[first + j] = T(v[j]);
  }
}

__device__ __forceinline__ float multiply_add(float a, float b, float c) { return ::fmaf(a, b, c); }
__device__ __forceinline__ double multiply_add(double a, double b, double c) { return ::fma(a, b, c); }

// In [0, 1): f64 uses two of a counter's four numbers, all others one.
template <class C, int N> __device__ __forceinline__ void uniforms(const Philox& r, C (&u)[N]) {
#pragma unroll
  for (int j = 0; j < N; ++j) {
    if constexpr (N == 2) u[j] = to_uniform(r.x[2 * j], r.x[2 * j + 1]);
    else u[j] = to_uniform(r.x[j]);
  }
}

// The product is rounded once, as a CPU does that has the instruction, whatever the compiler would choose.
template <class T, class C> __global__ void fill_uniform(RandomState state, C low, C high, int64_t n, bool packed, T* y) {
  state = state.now();
  constexpr int count = numbers_of_counter<C>;
  for (int64_t i = thread_index(); i * count < n; i += thread_count()) {
    C u[count];
    uniforms(Philox(state.seed, state.offset + uint64_t(i)), u);
#pragma unroll
    for (int j = 0; j < count; ++j) {
      const C v = multiply_add(u[j], high - low, low);
      u[j] = v < high ? v : low;  // rounding may reach high
    }
    write<T>(u, i * count, n, packed, y);
  }
}
// Box-Muller: the numbers are taken in pairs; element i is one of the pair i / 2.
template <class T, class C> __global__ void fill_normal(RandomState state, C mean, C std, int64_t n, bool packed, T* y) {
  state = state.now();
  constexpr int count = numbers_of_counter<C>;
  for (int64_t i = thread_index(); i * count < n; i += thread_count()) {
    C u[count];
    uniforms(Philox(state.seed, state.offset + uint64_t(i)), u);
#pragma unroll
    for (int j = 0; j < count; j += 2) {
      const C radius = std * m::sqrt(C(-2) * m::log(C(1) - u[j])), angle = C(6.283185307179586) * u[j + 1];
      u[j] = multiply_add(radius, m::cos(angle), mean);
      u[j + 1] = multiply_add(radius, m::sin(angle), mean);
    }
    write<T>(u, i * count, n, packed, y);
  }
}

template <class T> __device__ __forceinline__ T integer_as(int64_t v) {
  if constexpr (std::is_same_v<T, f16> || std::is_same_v<T, bf16>) return T(float(v));
  else return T(v);
}
template <class T> __global__ void fill_integers(RandomState state, int64_t low, uint64_t range, int64_t n, bool packed, T* y) {
  state = state.now();
  for (int64_t i = thread_index(); i * 2 < n; i += thread_count()) {
    const Philox r(state.seed, state.offset + uint64_t(i));
    T v[2];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const uint64_t bits = uint64_t(r.x[2 * j]) << 32 | r.x[2 * j + 1];
      v[j] = integer_as<T>(int64_t(uint64_t(low) + uint64_t((unsigned __int128)(bits)*range >> 64)));
    }
    write<T>(v, i * 2, n, packed, y);
  }
}

// Random tensors may be filled in place, which the tape must see.
template <class T> T* written(const Tensor& y) {
  ++y->storage->version;
  return data<T>(y);
}

}  // namespace

void random_uniform(RandomState state, double low, double high, Tensor& y) {
  with_floating("random", y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    constexpr int count = numbers_of_counter<C>;
    T* const out = written<T>(y);
    launch(fill_uniform<T, C>, blocks_for((y.numel() + count - 1) / count), 256, 0, for_launch(state), C(low), C(high), y.numel(),
           uintptr_t(out) % alignof(Pack<T, count>) == 0, out);
  });
}
void random_normal(RandomState state, double mean, double std, Tensor& y) {
  with_floating("random", y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    constexpr int count = numbers_of_counter<C>;
    T* const out = written<T>(y);
    launch(fill_normal<T, C>, blocks_for((y.numel() + count - 1) / count), 256, 0, for_launch(state), C(mean), C(std), y.numel(),
           uintptr_t(out) % alignof(Pack<T, count>) == 0, out);
  });
}
void random_integers(RandomState state, int64_t low, int64_t high, Tensor& y) {
  with_any(y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    T* const out = written<T>(y);
    launch(fill_integers<T>, blocks_for((y.numel() + 1) / 2), 256, 0, for_launch(state), low, uint64_t(high) - uint64_t(low), y.numel(),
           uintptr_t(out) % alignof(Pack<T, 2>) == 0, out);
  });
}

}  // namespace retape::cuda
