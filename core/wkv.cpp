// RWKV's weighted average along time. Channels lie side by side, so a block of them goes through time at once: one task for each block of
// each sequence. Only states between chunks are kept; backward makes those inside a chunk again.
#include <retape/core/flush_denormals.h>
#include <retape/core/put.h>
#include <retape/core/wkv.h>

namespace retape::RETAPE_LEVEL {
namespace {

constexpr int64_t block = 64, chunk = recurrence_chunk;  // channels; steps

template <class C> struct States {
  C numerator[block], denominator[block], exponent[block];
  RETAPE_INLINE void load(const C* n, const C* d, const C* e, int64_t width) {
    for (int64_t c = 0; c < width; ++c) numerator[c] = n[c], denominator[c] = d[c], exponent[c] = e[c];
  }
  RETAPE_INLINE void store(C* n, C* d, C* e, int64_t width) const {
    for (int64_t c = 0; c < width; ++c) n[c] = numerator[c], d[c] = denominator[c], e[c] = exponent[c];
  }
  RETAPE_INLINE void advance(int64_t width, const C* decay, const C* k, const C* v) {
#pragma omp simd
    for (int64_t c = 0; c < width; ++c) wkv_next(numerator[c], denominator[c], exponent[c], decay[c], k[c], v[c]);
  }
};
// A row of a block of channels in what it is computed in.
template <class C> struct Row {
  C at[block];
  template <class T> RETAPE_INLINE void load(const T* x, int64_t width) {
#pragma omp simd
    for (int64_t c = 0; c < width; ++c) at[c] = C(x[c]);
  }
  template <class T> RETAPE_INLINE void store(T* x, int64_t width) const {
#pragma omp simd
    for (int64_t c = 0; c < width; ++c) put(x[c], at[c]);
  }
};
template <class C> RETAPE_INLINE const C* pointer(const Tensor& t) { return t ? t.data<C>() : nullptr; }
template <class C> RETAPE_INLINE C* target(Tensor& t) { return t ? t.mutable_data<C>() : nullptr; }

template <class T> struct Problem {
  using C = compute_t<T>;
  int64_t batch, steps, channels, kept;
  const C *decay, *first;
  const T *k, *v;
  const C *numerator, *denominator, *exponent;  // before the first step, or null
  explicit Problem(const WkvArgs& in)
      : batch(in.k.shape()[0]),
        steps(in.k.shape()[1]),
        channels(in.k.shape()[2]),
        kept((steps - 1) / chunk),
        decay(pointer<C>(in.decay)),
        first(pointer<C>(in.first)),
        k(pointer<T>(in.k)),
        v(pointer<T>(in.v)),
        numerator(pointer<C>(in.numerator)),
        denominator(pointer<C>(in.denominator)),
        exponent(pointer<C>(in.exponent)) {}
  RETAPE_INLINE void begin(States<C>& s, int64_t n, int64_t from, int64_t width) const {
    const int64_t at = n * channels + from;
    if (numerator) return s.load(numerator + at, denominator + at, exponent + at, width);
    for (int64_t c = 0; c < width; ++c) s.numerator[c] = 0, s.denominator[c] = 0, s.exponent[c] = wkv_nothing<C>;
  }
  RETAPE_INLINE int64_t place(int64_t n, int64_t t) const { return (n * steps + t) * channels; }
  // Of the state before chunk i > 0: the first of three rows of channels.
  RETAPE_INLINE int64_t kept_place(int64_t n, int64_t i) const { return (n * kept + i - 1) * 3 * channels; }
};
// Calls f(sequence, first channel, how many) for blocks of channels.
template <class T, class F> RETAPE_INLINE void for_blocks(const Problem<T>& p, const F& f) {
  const int64_t blocks = (p.channels + block - 1) / block, work = 16 * p.steps * min_of(block, p.channels);
  parallel_for(p.batch * blocks, row_grain(work), [&](int64_t begin, int64_t end) {
    const FlushDenormals no_denormals;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t from = task % blocks * block;
      f(task / blocks, from, min_of(block, p.channels - from));
    }
  });
}

template <class T>
void forward(const Problem<T>& p, T* y, compute_t<T>* numerator, compute_t<T>* denominator, compute_t<T>* exponent, compute_t<T>* kept) {
  using C = compute_t<T>;
  for_blocks(p, [&](int64_t n, int64_t from, int64_t width) {
    States<C> s;
    Row<C> k, v, out;
    p.begin(s, n, from, width);
    const C *const decay = p.decay + from, *const first = p.first + from;
    for (int64_t t = 0; t < p.steps; ++t) {
      if (t > 0 && t % chunk == 0) {
        C* const to = kept + p.kept_place(n, t / chunk) + from;
        s.store(to, to + p.channels, to + 2 * p.channels, width);
      }
      const int64_t row = p.place(n, t) + from;
      k.load(p.k + row, width), v.load(p.v + row, width);
#pragma omp simd
      for (int64_t c = 0; c < width; ++c)
        out.at[c] = wkv_output(s.numerator[c], s.denominator[c], s.exponent[c], first[c], k.at[c], v.at[c]);
      out.store(y + row, width);
      s.advance(width, decay, k.at, v.at);
    }
    const int64_t at = n * p.channels + from;
    s.store(numerator + at, denominator + at, exponent + at, width);
  });
}

// of_decay, of_first (batch, channels): the gradients of decay and first from each sequence
template <class T>
void backward(const Problem<T>& p, const compute_t<T>* kept, const T* dy, const compute_t<T>* dnumerator, const compute_t<T>* ddenominator,
              T* dk, T* dv, compute_t<T>* of_numerator, compute_t<T>* of_denominator, compute_t<T>* of_decay, compute_t<T>* of_first) {
  using C = compute_t<T>;
  for_blocks(p, [&](int64_t n, int64_t from, int64_t width) {
    States<C> before[chunk];
    Row<C> k, v, g, to_k, to_v, gn, gd, ddecay, dfirst;
    const int64_t at = n * p.channels + from;
    const C *const decay = p.decay + from, *const first = p.first + from;
    for (int64_t c = 0; c < width; ++c)
      gn.at[c] = dnumerator ? dnumerator[at + c] : C(0), gd.at[c] = ddenominator ? ddenominator[at + c] : C(0), ddecay.at[c] = 0,
      dfirst.at[c] = 0;
    for (int64_t i = p.kept; i >= 0; --i) {
      const int64_t start = i * chunk, many = min_of(chunk, p.steps - start);
      if (i == 0) p.begin(before[0], n, from, width);
      else {
        const C* const of = kept + p.kept_place(n, i) + from;
        before[0].load(of, of + p.channels, of + 2 * p.channels, width);
      }
      for (int64_t t = 1; t < many; ++t) {
        const int64_t row = p.place(n, start + t - 1) + from;
        before[t].load(before[t - 1].numerator, before[t - 1].denominator, before[t - 1].exponent, width);
        k.load(p.k + row, width), v.load(p.v + row, width);
        before[t].advance(width, decay, k.at, v.at);
      }
      for (int64_t t = many - 1; t >= 0; --t) {
        const int64_t row = p.place(n, start + t) + from;
        const States<C>& s = before[t];
        k.load(p.k + row, width), v.load(p.v + row, width), g.load(dy + row, width);
#pragma omp simd
        for (int64_t c = 0; c < width; ++c)
          wkv_step_backward(s.numerator[c], s.denominator[c], s.exponent[c], decay[c], first[c], k.at[c], v.at[c], g.at[c], gn.at[c],
                            gd.at[c], ddecay.at[c], dfirst.at[c], to_k.at[c], to_v.at[c]);
        to_k.store(dk + row, width), to_v.store(dv + row, width);
      }
    }
    ddecay.store(of_decay + at, width), dfirst.store(of_first + at, width);
    if (of_numerator) gn.store(of_numerator + at, width), gd.store(of_denominator + at, width);
  });
}

}  // namespace

void wkv(const WkvArgs& in, Tensor& y, Tensor& numerator, Tensor& denominator, Tensor& exponent, Tensor& kept) {
  with_floating("wkv", in.k.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    forward(Problem<T>(in), y.mutable_data<T>(), numerator.mutable_data<C>(), denominator.mutable_data<C>(), exponent.mutable_data<C>(),
            kept.mutable_data<C>());
  });
}

void wkv_backward(const WkvArgs& in, const Tensor& kept, const Tensor& dy, const Tensor& dnumerator, const Tensor& ddenominator,
                  WkvArgs& d) {
  with_floating("wkv_backward", in.k.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    const Problem<T> p(in);
    const Scratch<C> of_decay(p.batch * p.channels), of_first(p.batch * p.channels);
    backward(p, kept.data<C>(), dy.data<T>(), pointer<C>(dnumerator), pointer<C>(ddenominator), d.k.mutable_data<T>(),
             d.v.mutable_data<T>(), target<C>(d.numerator), target<C>(d.denominator), static_cast<C*>(of_decay), static_cast<C*>(of_first));
    C *const decay = d.decay.mutable_data<C>(), *const first = d.first.mutable_data<C>();
    for (int64_t c = 0; c < p.channels; ++c) {
      decay[c] = 0, first[c] = 0;
      for (int64_t n = 0; n < p.batch; ++n) decay[c] += of_decay[n * p.channels + c], first[c] += of_first[n * p.channels + c];
    }
  });
}

}  // namespace retape::RETAPE_LEVEL
