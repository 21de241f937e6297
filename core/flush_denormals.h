// Denormal numbers in loops that run along time. For kernel files only.
#pragma once
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include <retape/core/kernel.h>

namespace retape::RETAPE_LEVEL {

/// While it lives, this thread's vector arithmetic takes and gives 0 for denormal numbers. A state that decays without new input would
/// otherwise stay among them for good, since the smallest one times 0.9 rounds back to itself, and every step would take a hundred
/// cycles. To be made inside the chunk of a parallel_for: each thread has a control word of its own.
class FlushDenormals {
 public:
#if defined(__SSE2__)
  RETAPE_INLINE FlushDenormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040u); }  // flush to zero, denormals are zeros
  RETAPE_INLINE ~FlushDenormals() { _mm_setcsr(before_); }

 private:
  unsigned before_;
#else
  RETAPE_INLINE FlushDenormals() {}
  RETAPE_INLINE ~FlushDenormals() {}
#endif

 public:
  FlushDenormals(const FlushDenormals&) = delete;
};

}  // namespace retape::RETAPE_LEVEL
