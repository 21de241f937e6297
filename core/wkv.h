// The weighted average of RWKV, one step of one channel. For kernel files of every backend.
// A state is a numerator and a denominator, both times e^exponent, so that neither overflows whatever the keys are: after the first step the denominator
// is 1 or more.
#pragma once
#include <retape/core/kernel_args.h>
#include <retape/core/simd_math.h>

namespace retape::RETAPE_LEVEL {

template <class C> struct WkvState { C numerator, denominator, exponent; };
template <class C> constexpr C wkv_nothing = C(-1e38);  // the exponent of a state of no steps; infinity minus infinity would be nan

// e^old and e^key, both over the larger of them.
template <class C> struct WkvShares {
  C old, key, top;
  RETAPE_HD WkvShares(C old_exponent, C key_exponent) {
    const C difference = old_exponent - key_exponent, less = m::exp(difference > C(0) ? -difference : difference);
    old = difference > C(0) ? C(1) : less;
    key = difference > C(0) ? less : C(1);
    top = difference > C(0) ? old_exponent : key_exponent;
  }
};

template <class C> RETAPE_HD C wkv_output(const WkvState<C>& s, C first, C k, C v) {
  const WkvShares<C> w(s.exponent, first + k);
  return (w.old * s.numerator + w.key * v) / (w.old * s.denominator + w.key);
}
template <class C> RETAPE_HD WkvState<C> wkv_next(const WkvState<C>& s, C decay, C k, C v) {
  const WkvShares<C> w(s.exponent + decay, k);
  return {w.old * s.numerator + w.key * v, w.old * s.denominator + w.key, w.top};
}

// What the steps after one want of its state, and what has come together of decay and first.
template <class C> struct WkvGradient { C numerator, denominator, decay, first; };
template <class C> struct WkvInputGradient { C k, v; };
// `s` is the state before the step.
template <class C>
RETAPE_HD WkvInputGradient<C> wkv_step_backward(const WkvState<C>& s, C decay, C first, C k, C v, C dy, WkvGradient<C>& d) {
  const WkvShares<C> out(s.exponent, first + k), next(s.exponent + decay, k);
  const C g = dy / (out.old * s.denominator + out.key), y = (out.old * s.numerator + out.key * v) / (out.old * s.denominator + out.key);
  const C of_first = g * out.key * (v - y);
  const WkvInputGradient<C> of{of_first + next.key * (d.numerator * v + d.denominator), g * out.key + next.key * d.numerator};
  d.first += of_first;
  d.decay += next.old * (d.numerator * s.numerator + d.denominator * s.denominator);
  d.numerator = next.old * d.numerator + out.old * g;
  d.denominator = next.old * d.denominator - out.old * g * y;
  return of;
}

}  // namespace retape::RETAPE_LEVEL
