// RWKV's weighted average along time: a thread has a channel of a sequence. States between chunks are kept, and backward makes those inside
// one again.
#include <retape/cuda/parts.h>

#include <retape/core/wkv.h>

namespace retape::cuda {
namespace {

constexpr int64_t chunk = recurrence_chunk;

template <class C> struct State { C numerator, denominator, exponent; };
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
        decay(data<C>(in.decay)),
        first(data<C>(in.first)),
        k(data<T>(in.k)),
        v(data<T>(in.v)),
        numerator(data<C>(in.numerator)),
        denominator(data<C>(in.denominator)),
        exponent(data<C>(in.exponent)) {}
  RETAPE_HD int64_t lines() const { return batch * channels; }
  __device__ __forceinline__ State<C> begin(int64_t line) const {
    if (!numerator) return {C(0), C(0), wkv_nothing<C>};
    return {numerator[line], denominator[line], exponent[line]};
  }
  __device__ __forceinline__ int64_t place(int64_t line, int64_t t) const {
    return (line / channels * steps + t) * channels + line % channels;
  }
  __device__ __forceinline__ int64_t kept_place(int64_t line, int64_t i) const {
    return (line / channels * kept + i - 1) * 3 * channels + line % channels;
  }
};

template <class T>
__global__ void forward(Problem<T> p, T* y, compute_t<T>* numerator, compute_t<T>* denominator, compute_t<T>* exponent,
                        compute_t<T>* kept) {
  using C = compute_t<T>;
  for (int64_t line = thread_index(); line < p.lines(); line += thread_count()) {
    const C decay = p.decay[line % p.channels], first = p.first[line % p.channels];
    auto s = p.begin(line);
    for (int64_t t = 0; t < p.steps; ++t) {
      if (t > 0 && t % chunk == 0) {
        C* const to = kept + p.kept_place(line, t / chunk);
        to[0] = s.numerator, to[p.channels] = s.denominator, to[2 * p.channels] = s.exponent;
      }
      const int64_t at = p.place(line, t);
      const C k = C(p.k[at]), v = C(p.v[at]);
      y[at] = T(wkv_output(s.numerator, s.denominator, s.exponent, first, k, v));
      wkv_next(s.numerator, s.denominator, s.exponent, decay, k, v);
    }
    numerator[line] = s.numerator, denominator[line] = s.denominator, exponent[line] = s.exponent;
  }
}

// of_decay, of_first (batch, channels): the gradients of decay and first from each sequence
template <class T>
__global__ void backward(Problem<T> p, const compute_t<T>* kept, const T* dy, const compute_t<T>* dnumerator,
                         const compute_t<T>* ddenominator, T* dk, T* dv, compute_t<T>* of_numerator, compute_t<T>* of_denominator,
                         compute_t<T>* of_decay, compute_t<T>* of_first) {
  using C = compute_t<T>;
  for (int64_t line = thread_index(); line < p.lines(); line += thread_count()) {
    const int64_t channel = line % p.channels;
    const C decay = p.decay[channel], first = p.first[channel];
    C gn = dnumerator ? dnumerator[line] : C(0), gd = ddenominator ? ddenominator[line] : C(0), ddecay = 0, dfirst = 0;
    State<C> before[chunk];
    for (int64_t i = p.kept; i >= 0; --i) {
      const int64_t start = i * chunk, many = min_of(chunk, p.steps - start);
      if (i == 0) before[0] = p.begin(line);
      else {
        const C* const of = kept + p.kept_place(line, i);
        before[0] = {of[0], of[p.channels], of[2 * p.channels]};
      }
      for (int64_t t = 1; t < many; ++t) {
        const int64_t at = p.place(line, start + t - 1);
        before[t] = before[t - 1];
        wkv_next(before[t].numerator, before[t].denominator, before[t].exponent, decay, C(p.k[at]), C(p.v[at]));
      }
      for (int64_t t = many - 1; t >= 0; --t) {
        const int64_t at = p.place(line, start + t);
        C of_k, of_v;
        wkv_step_backward(before[t].numerator, before[t].denominator, before[t].exponent, decay, first, C(p.k[at]), C(p.v[at]), C(dy[at]),
                          gn, gd, ddecay, dfirst, of_k, of_v);
        dk[at] = T(of_k), dv[at] = T(of_v);
      }
    }
    of_decay[line] = ddecay, of_first[line] = dfirst;
    if (of_numerator) of_numerator[line] = gn, of_denominator[line] = gd;
  }
}

}  // namespace

void wkv(const WkvArgs& in, Tensor& y, Tensor& numerator, Tensor& denominator, Tensor& exponent, Tensor& kept) {
  with_floating("wkv", in.k.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    const Problem<T> p(in);
    launch(forward<T>, blocks_for(p.lines()), 256, 0, p, data<T>(y), data<C>(numerator), data<C>(denominator), data<C>(exponent),
           data<C>(kept));
  });
}

void wkv_backward(const WkvArgs& in, const Tensor& kept, const Tensor& dy, const Tensor& dnumerator, const Tensor& ddenominator,
                  WkvArgs& d) {
  with_floating("wkv_backward", in.k.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    const Problem<T> p(in);
    const Scratch<C> of_decay(p.lines()), of_first(p.lines());
    launch(backward<T>, blocks_for(p.lines()), 256, 0, p, data<C>(kept), data<T>(dy), data<C>(dnumerator), data<C>(ddenominator),
           data<T>(d.k), data<T>(d.v), data<C>(d.numerator), data<C>(d.denominator), static_cast<C*>(of_decay), static_cast<C*>(of_first));
    launch(add_parts<C, C>, blocks_for(p.channels), 256, 0, static_cast<C*>(of_decay), p.batch, p.channels, data<C>(d.decay));
    launch(add_parts<C, C>, blocks_for(p.channels), 256, 0, static_cast<C*>(of_first), p.batch, p.channels, data<C>(d.first));
  });
}

}  // namespace retape::cuda
