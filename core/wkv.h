// The weighted average of RWKV, one step of one channel. For kernel files of every backend. A state is a numerator and a denominator, both
// times e^exponent, so that neither overflows whatever the keys are: after the first step the denominator is 1 or more.
#pragma once
#include <retape/core/kernel_args.h>
#include <retape/core/simd_math.h>

namespace retape::RETAPE_LEVEL {

template <class C> constexpr C wkv_nothing = C(-1e38);  // the exponent of a state of no steps; infinity minus infinity would be nan

// The output of a step, and the state after it. Numbers are passed apart from each other: a loop over channels with structs would not
// become one over vectors.
template <class C> RETAPE_HD C wkv_output(C numerator, C denominator, C exponent, C first, C k, C v) {
  const C present = first + k, top = exponent > present ? exponent : present;
  const C old = m::exp_nonpositive(exponent - top), now = m::exp_nonpositive(present - top);
  return (old * numerator + now * v) / (old * denominator + now);
}
template <class C> RETAPE_HD void wkv_next(C& numerator, C& denominator, C& exponent, C decay, C k, C v) {
  const C faded = exponent + decay, top = faded > k ? faded : k;
  const C old = m::exp_nonpositive(faded - top), now = m::exp_nonpositive(k - top);
  numerator = old * numerator + now * v, denominator = old * denominator + now, exponent = top;
}

// The gradients of a step. The state is that before it; dnumerator and ddenominator are what the steps after it want of the state, and
// become what it and they want of the state before; ddecay and dfirst are sums.
template <class C>
RETAPE_HD void wkv_step_backward(C numerator, C denominator, C exponent, C decay, C first, C k, C v, C dy, C& dnumerator, C& ddenominator,
                                 C& ddecay, C& dfirst, C& dk, C& dv) {
  const C present = first + k, top = exponent > present ? exponent : present;
  const C old = m::exp_nonpositive(exponent - top), now = m::exp_nonpositive(present - top);
  const C share = C(1) / (old * denominator + now), y = (old * numerator + now * v) * share, g = dy * share, of_first = g * now * (v - y);
  const C faded = exponent + decay, next_top = faded > k ? faded : k;
  const C stays = m::exp_nonpositive(faded - next_top), enters = m::exp_nonpositive(k - next_top);
  dk = of_first + enters * (dnumerator * v + ddenominator);
  dv = g * now + enters * dnumerator;
  dfirst += of_first;
  ddecay += stays * (dnumerator * numerator + ddenominator * denominator);
  dnumerator = stays * dnumerator + old * g;
  ddenominator = stays * ddenominator - old * g * y;
}

}  // namespace retape::RETAPE_LEVEL
