// Many Philox counters at once: the numbers of core/philox.h, several counters a vector. For kernel files only.
#pragma once
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <retape/core/kernel.h>

namespace retape::RETAPE_LEVEL {

// `product`: of the lanes' lower halves, in one instruction where a compiler makes three or more of a 64-bit product.
// `upper`: the lanes' upper halves in the lower ones, and anything above. A shuffle, since products keep the unit for shifts busy.
// `lower_pairs` and `upper_pairs`: a[0] b[0] a[1] b[1] ...
#if defined(__AVX512F__)
constexpr int philox_lanes = 8;
typedef uint64_t PhiloxLanes __attribute__((vector_size(64), may_alias));
RETAPE_INLINE PhiloxLanes upper(PhiloxLanes a) { return (PhiloxLanes)_mm512_maskz_shuffle_epi32(0xffff, (__m512i)a, _MM_PERM_DDBB); }
RETAPE_INLINE PhiloxLanes product(PhiloxLanes a, uint32_t b) {  // the form without a mask makes GCC 12 warn about its own header
  return (PhiloxLanes)_mm512_maskz_mul_epu32(0xff, (__m512i)a, _mm512_set1_epi64(b));
}
RETAPE_INLINE PhiloxLanes lower_pairs(PhiloxLanes a, PhiloxLanes b) { return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11); }
RETAPE_INLINE PhiloxLanes upper_pairs(PhiloxLanes a, PhiloxLanes b) { return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15); }
#elif defined(__AVX2__)
constexpr int philox_lanes = 4;
typedef uint64_t PhiloxLanes __attribute__((vector_size(32), may_alias));
RETAPE_INLINE PhiloxLanes upper(PhiloxLanes a) { return (PhiloxLanes)_mm256_shuffle_epi32((__m256i)a, 0xf5); }
RETAPE_INLINE PhiloxLanes product(PhiloxLanes a, uint32_t b) { return (PhiloxLanes)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(b)); }
RETAPE_INLINE PhiloxLanes lower_pairs(PhiloxLanes a, PhiloxLanes b) { return __builtin_shufflevector(a, b, 0, 4, 1, 5); }
RETAPE_INLINE PhiloxLanes upper_pairs(PhiloxLanes a, PhiloxLanes b) { return __builtin_shufflevector(a, b, 2, 6, 3, 7); }
#else
constexpr int philox_lanes = 2;
typedef uint64_t PhiloxLanes __attribute__((vector_size(16), may_alias));
RETAPE_INLINE PhiloxLanes upper(PhiloxLanes a) { return a >> 32; }
RETAPE_INLINE PhiloxLanes product(PhiloxLanes a, uint32_t b) {
#if defined(__SSE2__)
  return (PhiloxLanes)_mm_mul_epu32((__m128i)a, _mm_set1_epi64x(b));
#else
  return (a & 0xffffffffu) * uint64_t(b);
#endif
}
RETAPE_INLINE PhiloxLanes lower_pairs(PhiloxLanes a, PhiloxLanes b) { return __builtin_shufflevector(a, b, 0, 2); }
RETAPE_INLINE PhiloxLanes upper_pairs(PhiloxLanes a, PhiloxLanes b) { return __builtin_shufflevector(a, b, 1, 3); }
#endif

/// bits[4 i + j] = Philox(seed, first + i).x[j] for i < counters, which is a multiple of 16. bits is 64-byte aligned.
/// Calls between(i), i = 0, 1, ..., once for every 16 counters: room for loads that can wait.
template <class F> RETAPE_INLINE void philox_block(uint64_t seed, uint64_t first, int64_t counters, uint32_t* bits, const F& between) {
  constexpr int lanes = philox_lanes, streams = 2;  // a round waits for the one before, so that two chains keep the units busy
  static_assert(16 % (lanes * streams) == 0);
  PhiloxLanes counter;
  for (int i = 0; i < lanes; ++i) counter[i] = first + uint64_t(i);
  for (int64_t at = 0; at < counters; at += lanes * streams) {
    if (at % 16 == 0) between(at / 16);
    // A number is the lower half of its lane; what is in the upper half does not matter until the end.
    PhiloxLanes x0[streams], x1[streams], x2[streams], x3[streams];
    for (int s = 0; s < streams; ++s) {
      x0[s] = counter, x1[s] = counter >> 32, x2[s] = x3[s] = PhiloxLanes{};
      counter += uint64_t(lanes);
    }
    uint32_t key0 = uint32_t(seed), key1 = uint32_t(seed >> 32);
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {
#pragma GCC unroll 2
      for (int s = 0; s < streams; ++s) {
        const PhiloxLanes p0 = product(x0[s], 0xD2511F53u), p1 = product(x2[s], 0xCD9E8D57u);
        x0[s] = upper(p1) ^ x1[s] ^ uint64_t(key0), x1[s] = p1;
        x2[s] = upper(p0) ^ x3[s] ^ uint64_t(key1), x3[s] = p0;
      }
      key0 += 0x9E3779B9u, key1 += 0xBB67AE85u;
    }
    for (int s = 0; s < streams; ++s) {
      const PhiloxLanes a = (x0[s] & 0xffffffffu) | x1[s] << 32, b = (x2[s] & 0xffffffffu) | x3[s] << 32;
      PhiloxLanes* to = reinterpret_cast<PhiloxLanes*>(bits + 4 * (at + s * lanes));
      to[0] = lower_pairs(a, b);
      to[1] = upper_pairs(a, b);
    }
  }
}

}  // namespace retape::RETAPE_LEVEL
