// Random numbers from Philox: element i of a tensor takes number i of the stretch, whatever the number of threads.
#include <retape/core/kernel.h>

namespace retape::RETAPE_LEVEL {
namespace {

constexpr int64_t grain = 4096;  // a multiple of 4, so that no counter is shared by two chunks

// One number in [0, 1) an element: f64 uses two of a counter's four numbers, all others one.
template <class T> RETAPE_INLINE void uniforms(RandomState state, T low, T high, int64_t begin, int64_t end, T* out) {
  constexpr int64_t lanes = sizeof(T) == 8 ? 2 : 4;
  for (int64_t i = begin / lanes; i * lanes < end; ++i) {
    const Philox r(state.seed, state.offset + uint64_t(i));
    for (int64_t j = 0; j < lanes && i * lanes + j < end; ++j) {
      T u;
      if constexpr (sizeof(T) == 8) u = to_uniform(r.x[2 * j], r.x[2 * j + 1]);
      else u = to_uniform(r.x[j]);
      const T v = low + u * (high - low);
      out[i * lanes + j - begin] = v < high ? v : low;  // rounding may reach high
    }
  }
}
// Box-Muller: a counter's four numbers give two pairs; element i is one of the pair i / 2. In f64 a counter gives one pair.
template <class T> RETAPE_INLINE void normals(RandomState state, T mean, T std, int64_t begin, int64_t end, T* out) {
  constexpr int64_t lanes = sizeof(T) == 8 ? 2 : 4;
  for (int64_t i = begin / lanes; i * lanes < end; ++i) {
    const Philox r(state.seed, state.offset + uint64_t(i));
    for (int64_t pair = 0; pair < lanes / 2; ++pair) {
      T u, v;
      if constexpr (sizeof(T) == 8) u = to_uniform(r.x[0], r.x[1]), v = to_uniform(r.x[2], r.x[3]);
      else u = to_uniform(r.x[2 * pair]), v = to_uniform(r.x[2 * pair + 1]);
      const T radius = std * m::sqrt(T(-2) * m::log(T(1) - u)), angle = T(6.283185307179586) * v;
      const int64_t at = i * lanes + pair * 2;
      if (at < end) out[at - begin] = mean + radius * m::cos(angle);
      if (at + 1 < end) out[at + 1 - begin] = mean + radius * m::sin(angle);
    }
  }
}
// Half types are computed in float and converted.
template <class F> RETAPE_INLINE void fill_with(Tensor& y, const F& f) {
  with_floating("random", y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    T* out = y.mutable_data<T>();
    parallel_for(y.numel(), grain, [&](int64_t begin, int64_t end) {
      if constexpr (std::is_same_v<T, compute_t<T>>) {
        f(begin, end, out + begin);
      } else {
        float block[grain];
        f(begin, end, block);
        for (int64_t i = begin; i < end; ++i) out[i] = T(block[i - begin]);
      }
    });
  });
}

}  // namespace

void random_uniform(RandomState state, double low, double high, Tensor& y) {
  fill_with(y, [&]<class C>(int64_t begin, int64_t end, C* out) { uniforms<C>(state, C(low), C(high), begin, end, out); });
}
void random_normal(RandomState state, double mean, double std, Tensor& y) {
  fill_with(y, [&]<class C>(int64_t begin, int64_t end, C* out) { normals<C>(state, C(mean), C(std), begin, end, out); });
}
void random_integers(RandomState state, int64_t low, int64_t high, Tensor& y) {
  const uint64_t range = uint64_t(high) - uint64_t(low);
  with_any(y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    T* out = y.mutable_data<T>();
    parallel_for(y.numel(), grain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const Philox r(state.seed, state.offset + uint64_t(i) / 2);
        const uint64_t bits = uint64_t(i % 2 ? r.x[2] : r.x[0]) << 32 | (i % 2 ? r.x[3] : r.x[1]);
        const int64_t v = int64_t(uint64_t(low) + uint64_t((unsigned __int128)(bits)*range >> 64));
        if constexpr (std::is_same_v<T, f16> || std::is_same_v<T, bf16>) out[i] = T(float(v));
        else out[i] = T(v);
      }
    });
  });
}

}  // namespace retape::RETAPE_LEVEL
