// y = f(x, ...) for operands of one shape and any strides: packs of 16 bytes where all lie flat, else offsets by division.
#pragma once
#include <utility>

#include <retape/cuda/launch.h>

#include <retape/core/loops.h>

namespace retape::cuda {

/// n / d for n below 2^31 by a multiplication (Granlund & Montgomery 1994).
struct Divider {
  uint32_t divisor, factor, shift;
  explicit Divider(uint32_t d = 1) : divisor(d), factor(0), shift(0) {
    while (shift < 32 && (uint64_t{1} << shift) < d) ++shift;
    factor = uint32_t(((uint64_t{1} << 32) * ((uint64_t{1} << shift) - d)) / d + 1);
  }
  __device__ __forceinline__ uint32_t quotient(uint32_t n) const { return (__umulhi(n, factor) + n) >> shift; }
};
/// Where element i of a row-major order lies in each of N operands, in bytes.
template <int N> struct Offsets {
  int rank;
  Divider size[Shape::max_rank];
  int64_t stride[Shape::max_rank][N];
  explicit Offsets(const Loops<N>& loops) : rank(loops.rank) {
    for (int d = 0; d < rank; ++d) {
      size[d] = Divider(uint32_t(loops.size[d] > 0 ? loops.size[d] : 1));
      for (int k = 0; k < N; ++k) stride[d][k] = loops.stride[d][k];
    }
  }
  __device__ __forceinline__ void at(uint32_t i, int64_t (&offset)[N]) const {
    for (int k = 0; k < N; ++k) offset[k] = 0;
    for (int d = rank - 1; d > 0; --d) {
      const uint32_t next = size[d].quotient(i), here = i - next * size[d].divisor;
      for (int k = 0; k < N; ++k) offset[k] += int64_t(here) * stride[d][k];
      i = next;
    }
    for (int k = 0; k < N; ++k) offset[k] += int64_t(i) * stride[0][k];
  }
};

/// Calls f(loops, n) with parts of less than 2^31 elements, since offsets count in 32 bits: more are cut along the largest dim.
template <int N, class F> void in_halves(const Loops<N>& loops, const F& f) {
  int64_t n = 1;
  int largest = 0;
  for (int d = 0; d < loops.rank; ++d) {
    n *= loops.size[d];
    if (loops.size[d] > loops.size[largest]) largest = d;
  }
  if (n < int64_t{1} << 31) return f(loops, uint32_t(n));
  Loops<N> first = loops, rest = loops;
  first.size[largest] = loops.size[largest] / 2;
  rest.size[largest] -= first.size[largest];
  for (int k = 0; k < N; ++k) rest.base[k] += first.size[largest] * rest.stride[largest][k];
  in_halves(first, f);
  in_halves(rest, f);
}

template <size_t... sizes> constexpr size_t max_size() {
  size_t largest = 1;
  for (const size_t s : {size_t{1}, sizes...}) largest = s > largest ? s : largest;
  return largest;
}

namespace {

// Pack i of x, or its one element V times.
template <int V, class T> __device__ __forceinline__ Pack<T, V> pack_of(const T* x, int64_t i, bool one) {
  if (!one) return reinterpret_cast<const Pack<T, V>*>(x)[i];
  Pack<T, V> pack;
  const T v = x[0];
  for (int j = 0; j < V; ++j) pack.at[j] = v;
  return pack;
}
template <class F, int V, class Out, class... In, size_t... K>
__device__ __forceinline__ void apply_packs(std::index_sequence<K...>, int64_t n, uint32_t ones, Out* y, const In*... x) {
  const int64_t packs = n / V;
  for (int64_t i = thread_index(); i < packs; i += thread_count()) {
    Pack<Out, V> out;
    const auto all = [&](const Pack<In, V>&... in) {
      for (int j = 0; j < V; ++j) out.at[j] = F{}(in.at[j]...);
    };
    all(pack_of<V>(x, i, ones >> K & 1)...);
    reinterpret_cast<Pack<Out, V>*>(y)[i] = out;
  }
  if (const int64_t i = packs * V + thread_index(); i < n) y[i] = F{}(x[ones >> K & 1 ? 0 : i]...);
}
// All flat and aligned to packs of V, but those with a bit in `ones`, which have one element; the last n % V elements go one by one.
template <class F, int V, class Out, class... In> __global__ void elementwise_packs(int64_t n, uint32_t ones, Out* y, const In*... x) {
  apply_packs<F, V>(std::index_sequence_for<In...>{}, n, ones, y, x...);
}
template <class T> __device__ __forceinline__ T* moved(T* p, int64_t bytes) {
  return reinterpret_cast<T*>(reinterpret_cast<uintptr_t>(p) + uintptr_t(bytes));
}
template <class F, class Out, class... In, size_t... K>
__device__ __forceinline__ void apply_at(std::index_sequence<K...>, const int64_t* at, Out* y, const In*... x) {
  *moved(y, at[sizeof...(In)]) = F{}(*moved(x, at[K])...);
}
template <class F, class Out, class... In>
__global__ void elementwise_strided(uint32_t n, Offsets<1 + int(sizeof...(In))> offsets, Out* y, const In*... x) {
  for (int64_t i = thread_index(); i < n; i += thread_count()) {
    int64_t at[1 + sizeof...(In)];
    offsets.at(uint32_t(i), at);
    apply_at<F>(std::index_sequence_for<In...>{}, at, y, x...);
  }
}

}  // namespace

// The two kernels of a functor, a struct with `__device__ Out operator()(In...) const` and no state: it is made inside them, so that all
// functors of one signature share what is built around a launch. With 50 functions and 4 dtypes that is most of the compile time.
template <class Out, class... In> struct Elementwise {
  static constexpr int operands = 1 + int(sizeof...(In)), pack = 16 / int(max_size<sizeof(Out), sizeof(In)...>());
  void (*packs)(int64_t n, uint32_t ones, Out* y, const In*... x);  // null: built for any strides only, since it is seldom called
  void (*strided)(uint32_t n, Offsets<operands> offsets, Out* y, const In*... x);

  template <class F> static Elementwise of() { return {elementwise_packs<F, pack, Out, In...>, elementwise_strided<F, Out, In...>}; }
  template <class F> static Elementwise of_any_strides() { return {nullptr, elementwise_strided<F, Out, In...>}; }

  /// y = f(x...) for every element. All have y's shape, broadcast dims by stride 0.
  template <class... X> void operator()(const Tensor& y, const X&... x) const {
    static_assert(sizeof...(X) == sizeof...(In));
    const int64_t n = y.numel();
    if (n == 0) return;
    const Tensor* const all[operands] = {&x..., &y};
    const Loops<operands> loops = make_loops<operands>(y.shape(), all);
    bool flat = packs && loops.rank == 1 && loops.stride[0][operands - 1] == loops.bytes[operands - 1];
    uint32_t ones = 0;
    auto address = uintptr_t(loops.base[operands - 1]);
    for (int k = 0; k + 1 < operands; ++k) {
      if (loops.stride[0][k] == 0) {
        ones |= 1u << k;
      } else {
        flat = flat && loops.stride[0][k] == loops.bytes[k];
        address |= uintptr_t(loops.base[k]);
      }
    }
    if (flat && address % 16 == 0) launch(packs, blocks_for((n + pack - 1) / pack), 256, 0, n, ones, data<Out>(y), data<In>(x)...);
    else launch_strided(loops, std::index_sequence_for<In...>{});
  }

 private:
  template <size_t... K> void launch_strided(const Loops<operands>& loops, std::index_sequence<K...>) const {
    in_halves(loops, [&](const Loops<operands>& part, uint32_t n) {
      launch(strided, blocks_for(n), 256, 0, n, Offsets<operands>(part), reinterpret_cast<Out*>(part.base[operands - 1]),
             reinterpret_cast<const In*>(part.base[K])...);
    });
  }
};

}  // namespace retape::cuda
