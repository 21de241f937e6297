// h_t = a_t h_(t-1) + b_t along time. A stretch of steps is a map h -> a h + b, and two such maps joined are another: scan.h cuts long
// sequences into pieces, finds the map of each, joins those before a piece, and runs through it from there.
#include <retape/cuda/parts.h>
#include <retape/cuda/scan.h>

namespace retape::cuda {
namespace {

template <class C> struct Complex { C re, im; };
template <class C> RETAPE_HD C times(C x, C y) { return x * y; }
template <class C> RETAPE_HD Complex<C> times(Complex<C> x, Complex<C> y) { return {x.re * y.re - x.im * y.im, x.re * y.im + x.im * y.re}; }
template <class C> RETAPE_HD C plus(C x, C y) { return x + y; }
template <class C> RETAPE_HD Complex<C> plus(Complex<C> x, Complex<C> y) { return {x.re + y.re, x.im + y.im}; }
RETAPE_HD float conjugate(float x) { return x; }
RETAPE_HD double conjugate(double x) { return x; }
template <class C> RETAPE_HD Complex<C> conjugate(Complex<C> x) { return {x.re, -x.im}; }

// Element i of a tensor of T, in what it is computed in; with `complex`, a pair of them.
template <class T, bool complex> struct Element {
  using C = compute_t<T>;
  using Value = std::conditional_t<complex, Complex<C>, C>;
  template <class From> static RETAPE_HD Value load(const From* x, int64_t i) {
    if constexpr (complex) return {C(x[2 * i]), C(x[2 * i + 1])};
    else return C(x[i]);
  }
  template <class To> static RETAPE_HD void store(To* x, int64_t i, Value v) {
    if constexpr (complex) x[2 * i] = To(v.re), x[2 * i + 1] = To(v.im);
    else x[i] = To(v);
  }
};

// Lines run from h's first dim on: the first element of line n, c is n * steps * channels + c, its places are steps * channels.
template <class T, bool complex> struct Affine {
  using Value = typename Element<T, complex>::Value;
  struct State {  // h -> a h + b
    Value a, b;
  };
  static __device__ __forceinline__ State join(State before, State next) {
    return {times(next.a, before.a), plus(times(next.a, before.b), next.b)};
  }
  const T* a;
  const compute_t<T>* h0;
  int64_t steps, channels;
  bool constant;

  __device__ __forceinline__ Value factor(int64_t line, int64_t place) const {
    return Element<T, complex>::load(a, constant ? line % channels : line + place);
  }
  __device__ __forceinline__ Value start(int64_t line) const {
    if (!h0) return Value{};
    return Element<T, complex>::load(h0, line / (steps * channels) * channels + line % channels);
  }
};
template <class T, bool complex> struct Forward : Affine<T, complex> {
  using State = typename Affine<T, complex>::State;
  const T* b;
  T* h;
  __device__ __forceinline__ State load(int64_t line, int64_t place, int64_t i) const {
    State s{this->factor(line, place), Element<T, complex>::load(b, line + place)};
    if (i == 0 && this->h0) s.b = plus(times(s.a, this->start(line)), s.b);
    return s;
  }
  __device__ __forceinline__ void store(int64_t line, int64_t place, State s) const { Element<T, complex>::store(h, line + place, s.b); }
};
// The gradients of the states, from the last step of the forward to its first: d_t = dh_t + conj(a_(t+1)) d_(t+1).
template <class T, bool complex> struct Backward : Affine<T, complex> {
  using State = typename Affine<T, complex>::State;
  using Value = typename Affine<T, complex>::Value;
  const T *dh, *h;
  T *da, *db;  // da null: added up by sum_over_steps
  compute_t<T>* dh0;
  int64_t before, first;  // from a place to that of the step before; the place of the first step
  __device__ __forceinline__ State load(int64_t line, int64_t place, int64_t i) const {
    return {i == 0 ? Value{} : conjugate(this->factor(line, place - before)), Element<T, complex>::load(dh, line + place)};
  }
  __device__ __forceinline__ void store(int64_t line, int64_t place, State s) const {
    Element<T, complex>::store(db, line + place, s.b);
    if (da) {
      const Value h_before = place == first ? this->start(line) : Element<T, complex>::load(h, line + place + before);
      Element<T, complex>::store(da, line + place, times(s.b, conjugate(h_before)));
    }
    if (dh0 && place == first)
      Element<T, complex>::store(dh0, line / (this->steps * this->channels) * this->channels + line % this->channels,
                                 times(conjugate(this->factor(line, place)), s.b));
  }
};

// The gradient of factors that are the same at every step: parts (pieces, channels) get the sums over pieces of all rows of all sequences.
template <class T, bool complex>
__global__ void sum_over_steps(Affine<T, complex> of, const T* db, const T* h, int64_t rows, int64_t piece, int64_t before,
                               int64_t first_step, compute_t<T>* parts) {
  using Value = typename Element<T, complex>::Value;
  const int64_t pieces = (rows + piece - 1) / piece;
  for (int64_t task = thread_index(); task < pieces * of.channels; task += thread_count()) {
    const int64_t c = task % of.channels, p = task / of.channels;
    Value sum{};
    for (int64_t r = p * piece; r < min_of(rows, (p + 1) * piece); ++r) {
      const int64_t at = r * of.channels + c;
      const Value h_before =
          r % of.steps == first_step ? of.start(r / of.steps * of.steps * of.channels + c) : Element<T, complex>::load(h, at + before);
      sum = plus(sum, times(Element<T, complex>::load(db, at), conjugate(h_before)));
    }
    Element<T, complex>::store(parts, task, sum);
  }
}
Shape without_parts(const Shape& s) { return {s[0], s[1], s[2]}; }

template <class F> void with_parts(bool complex, const F& f) {
  if (complex) f(std::true_type{});
  else f(std::false_type{});
}

}  // namespace

void linear_recurrence(const Tensor& a, const Tensor& b, const Tensor& h0, bool reverse, bool complex, Tensor& h) {
  const Shape s = without_parts(b.shape());
  with_floating("linear_recurrence", b.dtype(), [&](auto zero) {
    with_parts(complex, [&](auto pairs) {
      using T = decltype(zero);
      constexpr bool is_complex = decltype(pairs)::value;
      run(Forward<T, is_complex>{{data<T>(a), data<compute_t<T>>(h0), s[1], s[2], a.dim() < b.dim()}, data<T>(b), data<T>(h)},
          Lines(s, 1, reverse));
    });
  });
}

void linear_recurrence_backward(const Tensor& dh, const Tensor& a, const Tensor& h, const Tensor& h0, bool reverse, bool complex,
                                Tensor& da, Tensor& db, Tensor& dh0) {
  const Shape s = without_parts(h.shape());
  const bool constant = a.dim() < h.dim();
  const int64_t before = reverse ? s[2] : -s[2], first_step = reverse ? s[1] - 1 : 0;
  with_floating("linear_recurrence_backward", h.dtype(), [&](auto zero) {
    with_parts(complex, [&](auto pairs) {
      using T = decltype(zero);
      using C = compute_t<T>;
      constexpr bool is_complex = decltype(pairs)::value;
      const Affine<T, is_complex> of{data<T>(a), data<C>(h0), s[1], s[2], constant};
      run(Backward<T, is_complex>{of, data<T>(dh), data<T>(h), constant ? nullptr : data<T>(da), data<T>(db), data<C>(dh0), before,
                                  first_step * s[2]},
          Lines(s, 1, !reverse));
      if (!constant) return;
      const int64_t rows = s[0] * s[1], piece = max_of(int64_t{64}, (rows + 255) / 256), pieces = (rows + piece - 1) / piece;
      const int64_t numbers = a.numel();
      const Scratch<C> parts(pieces * numbers);
      launch(sum_over_steps<T, is_complex>, blocks_for(pieces * s[2]), 256, 0, of, data<T>(db), data<T>(h), rows, piece, before, first_step,
             static_cast<C*>(parts));
      launch(add_parts<C, C>, blocks_for(numbers), 256, 0, static_cast<C*>(parts), pieces, numbers, data<C>(da));
    });
  });
}

}  // namespace retape::cuda
