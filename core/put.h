// Storing a computed value in an element. For kernel files only.
#pragma once
#include <retape/core/kernel.h>

namespace retape::RETAPE_LEVEL {

/// y = v, rounded to y's type. In a loop marked `omp simd`, `y[i] = bf16(v)` would make GCC keep an array of temporaries, one a
/// lane, and give up vectorising; here the temporary appears only after that decision.
template <class T, class C> RETAPE_INLINE void put(T& y, C v) { y = T(v); }

}  // namespace retape::RETAPE_LEVEL
