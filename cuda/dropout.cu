// Dropout: element i is kept if number i of the random stretch is at least p. Nothing is stored: backward draws the same numbers.
#include <retape/cuda/launch.h>

namespace retape::cuda {
namespace {

// A thread takes the four elements of a counter, or those of two where they fit into a pack of 16 bytes.
template <class T, class C>
__global__ void dropout_packs(const T* x, int64_t n, uint32_t threshold, C scale, RandomState state, bool packed, T* y) {
  state = state.now();
  constexpr int width = 16 / int(sizeof(T)), group = width < 4 ? 4 : width;
  using Raw = Pack<T, width>;
  for (int64_t i = thread_index(); i * group < n; i += thread_count()) {
    const int64_t first = i * group;
    uint32_t bits[group];
#pragma unroll
    for (int c = 0; c < group / 4; ++c) {
      const Philox r(state.seed, state.offset + uint64_t(i * (group / 4) + c));
#pragma unroll
      for (int j = 0; j < 4; ++j) bits[4 * c + j] = r.x[j];
    }
    if (packed && first + group <= n) {
#pragma unroll
      for (int p = 0; p < group; p += width) {
        Raw v = *reinterpret_cast<const Raw*>(x + first + p);
#pragma unroll
        for (int j = 0; j < width; ++j) v.at[j] = T((bits[p + j] >> 8) >= threshold ? C(v.at[j]) * scale : C(0));
        *reinterpret_cast<Raw*>(y + first + p) = v;
      }
    } else {
#pragma unroll
      for (int j = 0; j < group; ++j)
        if (first + j < n) y[first + j] = T((bits[j] >> 8) >= threshold ? C(x[first + j]) * scale : C(0));
    }
  }
}

}  // namespace

// x, y contiguous
void dropout(const Tensor& x, double p, RandomState state, Tensor& y) {
  const double scaled = p * 0x1p24;
  const uint32_t whole = uint32_t(scaled), threshold = whole + (double(whole) < scaled);  // philox_uniform() >= p, in integers
  with_floating("dropout", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    const T* const in = data<T>(x);
    T* const out = data<T>(y);
    const int64_t n = x.numel(), group = max_of<int64_t>(4, 16 / int64_t(sizeof(T)));
    launch(dropout_packs<T, C>, blocks_for((n + group - 1) / group), 256, 0, in, n, threshold, p < 1 ? C(1 / (1 - p)) : C(0),
           for_launch(state), (uintptr_t(in) | uintptr_t(out)) % 16 == 0, out);
  });
}

}  // namespace retape::cuda
