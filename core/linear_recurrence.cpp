// h_t = a_t h_(t-1) + b_t along time. Channels lie side by side, so a block of them goes through time at once: one task for each block of
// each sequence, and nothing depends on the number of threads.
#include <retape/core/flush_denormals.h>
#include <retape/core/put.h>

namespace retape::RETAPE_LEVEL {
namespace {

constexpr int64_t block = 64;  // channels

// b (batch, steps, channels) or, complex, (batch, steps, channels, 2); a like b, or (channels): the same at every step.
struct Extent {
  int64_t batch, steps, channels, parts;  // parts: numbers of a value, 2 if it is complex
  bool reverse, constant;
  RETAPE_INLINE Extent(const Tensor& a, const Tensor& b, bool reverse, bool complex)
      : batch(b.shape()[0]),
        steps(b.shape()[1]),
        channels(b.shape()[2]),
        parts(complex ? 2 : 1),
        reverse(reverse),
        constant(a.dim() < b.dim()) {}
  RETAPE_INLINE int64_t row() const { return channels * parts; }
  RETAPE_INLINE int64_t place(int64_t i) const { return reverse ? steps - 1 - i : i; }  // where step i lies
};

struct WholeBlock {
  RETAPE_INLINE constexpr operator int64_t() const { return block; }
};
// Calls f(sequence, first channel, how many) for blocks of channels; the number is a constant of the type for whole ones.
template <class F> RETAPE_INLINE void for_blocks(const Extent& e, const F& f) {
  const int64_t blocks = (e.channels + block - 1) / block, work = e.steps * min_of(block, e.channels) * e.parts;
  parallel_for(e.batch * blocks, row_grain(work), [&](int64_t begin, int64_t end) {
    const FlushDenormals no_denormals;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t from = task % blocks * block;
      if (from + block <= e.channels) f(task / blocks, from, WholeBlock{});
      else f(task / blocks, from, e.channels - from);
    }
  });
}

// The values of a block, their real parts first; a real block has no others.
template <class C> struct Values {
  C re[block], im[block];
  template <class From> RETAPE_INLINE void load(const From* x, int64_t width, int64_t parts) {
    for (int64_t c = 0; c < width; ++c) re[c] = x ? C(x[c * parts]) : C(0), im[c] = x && parts == 2 ? C(x[c * parts + 1]) : C(0);
  }
  RETAPE_INLINE void store(C* x, int64_t width, int64_t parts) const {
    for (int64_t c = 0; c < width; ++c) {
      x[c * parts] = re[c];
      if (parts == 2) x[c * parts + 1] = im[c];
    }
  }
};

// The processor does not guess where the next row is.
template <class T> RETAPE_INLINE void prefetch(const T* row, int64_t count) {
  for (int64_t i = 0; i < count; i += 64 / int64_t(sizeof(T))) __builtin_prefetch(row + i);
}

template <bool complex, class T, class C, class N> RETAPE_INLINE void step(N width, const T* a, const T* b, Values<C>& h, T* out) {
#pragma omp simd
  for (int64_t c = 0; c < width; ++c) {
    if constexpr (complex) {
      const C ar = C(a[2 * c]), ai = C(a[2 * c + 1]), re = h.re[c], im = h.im[c];
      h.re[c] = ar * re - ai * im + C(b[2 * c]);
      h.im[c] = ar * im + ai * re + C(b[2 * c + 1]);
      put(out[2 * c], h.re[c]), put(out[2 * c + 1], h.im[c]);
    } else {
      h.re[c] = C(a[c]) * h.re[c] + C(b[c]);
      put(out[c], h.re[c]);
    }
  }
}

// `carry` is what the steps after this one want of its result. d = dh + carry is the gradient of b, d conj(before) that of a, and
// conj(a) d goes on to the step before. With `sum`, da is added up there.
template <bool complex, bool sum, class T, class C, class N, class Before>
RETAPE_INLINE void step_backward(N width, const T* dh, const T* a, const Before* before, Values<C>& carry, T* db, T* da, Values<C>& total) {
#pragma omp simd
  for (int64_t c = 0; c < width; ++c) {
    if constexpr (complex) {
      const C re = C(dh[2 * c]) + carry.re[c], im = C(dh[2 * c + 1]) + carry.im[c];
      const C ar = C(a[2 * c]), ai = C(a[2 * c + 1]), hr = C(before[2 * c]), hi = C(before[2 * c + 1]);
      carry.re[c] = ar * re + ai * im, carry.im[c] = ar * im - ai * re;
      put(db[2 * c], re), put(db[2 * c + 1], im);
      const C dr = re * hr + im * hi, di = im * hr - re * hi;
      if constexpr (sum) total.re[c] += dr, total.im[c] += di;
      else put(da[2 * c], dr), put(da[2 * c + 1], di);
    } else {
      const C d = C(dh[c]) + carry.re[c];
      carry.re[c] = C(a[c]) * d;
      put(db[c], d);
      if constexpr (sum) total.re[c] += d * C(before[c]);
      else put(da[c], d * C(before[c]));
    }
  }
}

template <bool complex, class T> void forward(const Extent& e, const T* a, const T* b, const compute_t<T>* h0, T* h) {
  using C = compute_t<T>;
  for_blocks(e, [&](int64_t n, int64_t from, auto width) {
    const int64_t row = e.row(), first = from * e.parts, count = width * e.parts, ahead = e.reverse ? -4 * row : 4 * row;
    Values<C> state;
    state.load(h0 ? h0 + n * row + first : nullptr, width, e.parts);
    for (int64_t i = 0; i < e.steps; ++i) {
      const int64_t at = (n * e.steps + e.place(i)) * row + first;
      const T* const factor = e.constant ? a + first : a + at;
      if (i + 4 < e.steps) {
        prefetch(b + at + ahead, count), prefetch(h + at + ahead, count);
        if (!e.constant) prefetch(factor + ahead, count);
      }
      step<complex>(width, factor, b + at, state, h + at);
    }
  });
}

template <bool complex, bool sum, class T>
void backward(const Extent& e, const T* dh, const T* a, const T* h, const compute_t<T>* h0, T* da, compute_t<T>* totals, T* db,
              compute_t<T>* dh0) {
  using C = compute_t<T>;
  for_blocks(e, [&](int64_t n, int64_t from, auto width) {
    const int64_t row = e.row(), first = from * e.parts, count = width * e.parts, back = e.reverse ? row : -row;
    Values<C> carry, total;
    carry.load(static_cast<const C*>(nullptr), width, e.parts), total.load(static_cast<const C*>(nullptr), width, e.parts);
    C nothing[2 * block] = {};
    for (int64_t i = e.steps; i-- > 0;) {
      const int64_t at = (n * e.steps + e.place(i)) * row + first;
      const T* const factor = e.constant ? a + first : a + at;
      T* const gradient = sum ? nullptr : da + at;
      if (i >= 5) {
        const int64_t ahead = at + 4 * back;
        prefetch(dh + ahead, count), prefetch(h + ahead + back, count), prefetch(db + ahead, count);
        if (!e.constant) prefetch(factor + 4 * back, count), prefetch(gradient + 4 * back, count);
      }
      if (i > 0) step_backward<complex, sum>(width, dh + at, factor, h + at + back, carry, db + at, gradient, total);
      else step_backward<complex, sum>(width, dh + at, factor, h0 ? h0 + n * row + first : nothing, carry, db + at, gradient, total);
    }
    if (dh0) carry.store(dh0 + n * row + first, width, e.parts);
    if constexpr (sum) total.store(totals + n * row + first, width, e.parts);
  });
}

template <class F> RETAPE_INLINE void with_parts(bool complex, const F& f) {
  if (complex) f(std::true_type{});
  else f(std::false_type{});
}
template <class C> RETAPE_INLINE const C* pointer(const Tensor& t) { return t ? t.data<C>() : nullptr; }
template <class C> RETAPE_INLINE C* target(Tensor& t) { return t ? t.mutable_data<C>() : nullptr; }

}  // namespace

void linear_recurrence(const Tensor& a, const Tensor& b, const Tensor& h0, bool reverse, bool complex, Tensor& h) {
  const Extent e(a, b, reverse, complex);
  with_floating("linear_recurrence", b.dtype(), [&](auto zero) {
    using T = decltype(zero);
    with_parts(complex, [&](auto pairs) {
      forward<decltype(pairs)::value>(e, a.data<T>(), b.data<T>(), pointer<compute_t<T>>(h0), h.mutable_data<T>());
    });
  });
}

void linear_recurrence_backward(const Tensor& dh, const Tensor& a, const Tensor& h, const Tensor& h0, bool reverse, bool complex,
                                Tensor& da, Tensor& db, Tensor& dh0) {
  const Extent e(a, h, reverse, complex);
  with_floating("linear_recurrence_backward", h.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    with_parts(complex, [&](auto pairs) {
      constexpr bool is_complex = decltype(pairs)::value;
      if (!e.constant)
        return backward<is_complex, false>(e, dh.data<T>(), a.data<T>(), h.data<T>(), pointer<C>(h0), target<T>(da),
                                           static_cast<C*>(nullptr), db.mutable_data<T>(), target<C>(dh0));
      const Scratch<C> totals(e.batch * e.row());  // of each sequence
      backward<is_complex, true>(e, dh.data<T>(), a.data<T>(), h.data<T>(), pointer<C>(h0), static_cast<T*>(nullptr),
                                 static_cast<C*>(totals), db.mutable_data<T>(), target<C>(dh0));
      C* const sums = da.mutable_data<C>();
      for (int64_t c = 0; c < e.row(); ++c) {
        C sum = 0;
        for (int64_t n = 0; n < e.batch; ++n) sum += totals[n * e.row() + c];
        sums[c] = sum;
      }
    });
  });
}

}  // namespace retape::RETAPE_LEVEL
