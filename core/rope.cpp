// Rotary position embedding (Su et al. 2021): pairs of features are rotated by an angle that grows with the position. The inverse
// rotation is its gradient.
#include <retape/core/put.h>

namespace retape::RETAPE_LEVEL {

// x, y (..., T, D); cos, sin (T, D / 2), f32, or f64 if x is. Pairs are features (i, i + D / 2), or (2i, 2i + 1) if interleaved.
void rope(const Tensor& x, const Tensor& cos, const Tensor& sin, bool interleaved, bool inverse, Tensor& y) {
  const int64_t positions = x.shape()[-2], d = x.shape()[-1], half = d / 2;
  if (x.numel() == 0) return;
  with_floating("rope", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    const T* in = x.data<T>();
    T* out = y.mutable_data<T>();
    const C *cosines = cos.data<C>(), *sines = sin.data<C>(), sign = inverse ? C(-1) : C(1);
    parallel_for(x.numel() / d, row_grain(d), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const C *c = cosines + r % positions * half, *s = sines + r % positions * half;
        const T* a = in + r * d;
        T* to = out + r * d;
        if (interleaved) {
#pragma omp simd
          for (int64_t i = 0; i < half; ++i) {
            const C u = C(a[2 * i]), v = C(a[2 * i + 1]), sine = sign * s[i];
            put(to[2 * i], u * c[i] - v * sine);
            put(to[2 * i + 1], v * c[i] + u * sine);
          }
        } else {
#pragma omp simd
          for (int64_t i = 0; i < half; ++i) {
            const C u = C(a[i]), v = C(a[i + half]), sine = sign * s[i];
            put(to[i], u * c[i] - v * sine);
            put(to[i + half], v * c[i] + u * sine);
          }
        }
      }
    });
  });
}

}  // namespace retape::RETAPE_LEVEL
