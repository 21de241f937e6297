// Dropout: element i is kept if number i of the random stretch is at least p. Nothing is stored: backward draws the same numbers.
#include <retape/core/philox_block.h>
#include <retape/core/put.h>

namespace retape::RETAPE_LEVEL {
namespace {

template <class T, class C> void dropout_block(const T* x, const uint32_t* bits, uint32_t threshold, C scale, int64_t n, T* y) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) put(y[i], (bits[i] >> 8) >= threshold ? C(x[i]) * scale : C(0));
}

}  // namespace

// x, y contiguous
void dropout(const Tensor& x, double p, RandomState state, Tensor& y) {
  constexpr int64_t counters = 128, block = 4 * counters;
  const double scaled = p * 0x1p24;
  const uint32_t whole = uint32_t(scaled), threshold = whole + (double(whole) < scaled);  // philox_uniform() >= p, in integers
  with_floating("dropout", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    const C scale = p < 1 ? C(1 / (1 - p)) : C(0);
    const T* in = x.data<T>();
    T* out = y.mutable_data<T>();
    const int64_t n = x.numel();
    parallel_for((n + block - 1) / block, 16, [&](int64_t begin, int64_t end) {
      alignas(64) uint32_t bits[block];
      for (int64_t b = begin; b < end; ++b) {
        // 16 counters make 64 numbers; while they are computed, memory fetches what the next block of them needs.
        const auto fetch_next = [&](int64_t i) {
          const uintptr_t first = uintptr_t(((b + 1) * block + i * 64) * int64_t(sizeof(T)));
          for (uintptr_t at = first; at < first + 64 * sizeof(T); at += 64)
            __builtin_prefetch((const void*)(uintptr_t(in) + at)), __builtin_prefetch((const void*)(uintptr_t(out) + at), 1);
        };
        philox_block(state.seed, state.offset + uint64_t(b * counters), counters, bits, fetch_next);
        dropout_block(in + b * block, bits, threshold, scale, min_of(block, n - b * block), out + b * block);
      }
    });
  });
}

}  // namespace retape::RETAPE_LEVEL
