// Rotary position embedding (Su et al. 2021): pairs of features are rotated by an angle that grows with the position. The inverse
// rotation is its gradient.
#include <retape/cuda/rows.h>

namespace retape::cuda {
namespace {

// u and v become the pair rotated by the angle of this cosine and sine.
template <class C> __device__ __forceinline__ void rotate(C& u, C& v, C cosine, C sine) {
  const C first = u * cosine - v * sine;
  v = v * cosine + u * sine;
  u = first;
}

// Threads along x share a row. Where it is packed, each takes as many pairs as a pack has elements: neighbouring packs if pairs are
// interleaved, else packs half a row apart.
template <class T, class C>
__global__ void rope_rows(const T* x, const C* cos, const C* sin, int64_t rows, int64_t positions, int half, bool interleaved, bool packed,
                          C sign, T* y) {
  constexpr int width = pack_width<T>;
  using Raw = Pack<T, width>;
  using Angles = Pack<C, width>;
  for (int64_t r = first_row(); r < rows; r += row_step()) {
    const int64_t position = rows >> 31 ? r % positions : int64_t(uint32_t(r) % uint32_t(positions));
    const C *const c = cos + position * half, *const s = sin + position * half;
    const T* const from = x + r * 2 * half;
    T* const to = y + r * 2 * half;
    if (packed) {
      for (int i = int(threadIdx.x) * width; i < half; i += int(blockDim.x) * width) {
        const int a = interleaved ? 2 * i : i, b = interleaved ? 2 * i + width : i + half;
        const Raw first = *reinterpret_cast<const Raw*>(from + a), second = *reinterpret_cast<const Raw*>(from + b);
        const Angles cosines = *reinterpret_cast<const Angles*>(c + i), sines = *reinterpret_cast<const Angles*>(s + i);
        C v[2 * width];
#pragma unroll
        for (int j = 0; j < width; ++j) v[j] = C(first.at[j]), v[j + width] = C(second.at[j]);
#pragma unroll
        for (int j = 0; j < width; ++j) {
          if (interleaved) rotate(v[2 * j], v[2 * j + 1], cosines.at[j], sign * sines.at[j]);
          else rotate(v[j], v[j + width], cosines.at[j], sign * sines.at[j]);
        }
        Raw out[2];
#pragma unroll
        for (int j = 0; j < width; ++j) out[0].at[j] = T(v[j]), out[1].at[j] = T(v[j + width]);
        *reinterpret_cast<Raw*>(to + a) = out[0];
        *reinterpret_cast<Raw*>(to + b) = out[1];
      }
    } else {
      for (int i = int(threadIdx.x); i < half; i += int(blockDim.x)) {
        const int a = interleaved ? 2 * i : i, b = interleaved ? 2 * i + 1 : i + half;
        C u = C(from[a]), v = C(from[b]);
        rotate(u, v, c[i], sign * s[i]);
        to[a] = T(u);
        to[b] = T(v);
      }
    }
  }
}

}  // namespace

// x, y (..., T, D); cos, sin (T, D / 2), f32, or f64 if x is. Pairs are features (i, i + D / 2), or (2i, 2i + 1) if interleaved.
void rope(const Tensor& x, const Tensor& cos, const Tensor& sin, bool interleaved, bool inverse, Tensor& y) {
  if (x.numel() == 0) return;
  const int64_t positions = x.shape()[-2], d = x.shape()[-1], half = d / 2, rows = x.numel() / d;
  with_floating("rope", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    const T* const in = data<T>(x);
    const C *const cosines = data<C>(cos), *const sines = data<C>(sin);
    T* const out = data<T>(y);
    const bool packed =
        rows_are_packed<T>(half, {in, out}) && (uintptr_t(cosines) | uintptr_t(sines)) % alignof(Pack<C, pack_width<T>>) == 0;
    const int64_t wanted = packed ? half / pack_width<T> : half;
    unsigned threads = 1;
    while (threads < 256 && int64_t(threads) < wanted) threads *= 2;
    const dim3 block(threads, 256 / threads);
    launch(rope_rows<T, C>, blocks_for(rows, int64_t(block.y)), block, 0, in, cosines, sines, rows, positions, half, interleaved, packed,
           inverse ? C(-1) : C(1), out);
  });
}

}  // namespace retape::cuda
