// exp, erf and gelu's functions for float, as polynomials that a loop can inline. For host and device code.
#pragma once
#include <cmath>

#include <retape/core/dtype.h>

namespace retape::m {

/// e^x for x <= 0 (in truth up to 80), -inf and nan; 0 below -87. The error is about 1 ulp. Unlike a call of libmvec it is inlined,
/// so that the loop around it keeps its registers.
RETAPE_HD float exp_nonpositive(float x) {
  const float t = x < -87.0f ? -87.0f : x;
  const float shifted = t * 0x1.715476p0f + (0x1.8p23f + 127.0f);  // its last bits are round(t / log 2) + 127
  const float n = shifted - (0x1.8p23f + 127.0f);
  const float r = (t - n * 0.693359375f) + n * 2.12194440e-4f;  // log 2 in two parts; the product with the first is exact
  float y = r * 0.0013814320554956794f + 0.00836885068565607f;  // minimax for the relative error on |r| <= log(2) / 2
  y = y * r + 0.041668400168418884f;
  y = y * r + 0.1666651964187622f;
  y = y * r + 0.4999999403953552f;
  y = y * r * r + r + 1.0f;
  const float scaled = y * detail::bits<float>(detail::bits<uint32_t>(shifted) << 23);
  return x < -87.0f ? 0.0f : scaled;
}
RETAPE_HD double exp_nonpositive(double x) { return ::exp(x); }

/// x P(x^2) / Q(x^2) for the odd functions below: rational minimax approximations with a relative error of 2e-8.
RETAPE_HD float erf(float x) {
  const float t = x > 3.92f ? 3.92f : x < -3.92f ? -3.92f : x, s = t * t;
  float p = s * 2.04942125e-06f + 0.000284915906f, q = s * 3.80865276e-05f + 0.00116305717f;
  p = p * s + 0.00376790692f, q = q * s + 0.0149737969f;
  p = p * s + 0.0527556837f, q = q * s + 0.11413195f;
  p = p * s + 0.190462738f, q = q * s + 0.502125919f;
  p = p * s + 1.12837911f, q = q * s + 1.0f;
  const float y = t * (p / q);
  return y > 1.0f ? 1.0f : y < -1.0f ? -1.0f : y;
}
// The polynomials below are added up as trees: a loop over long chains is bound by the processor's window, not by its units.

/// 2^x for |x| <= 126.
RETAPE_HD float exp2_small(float x) {
  const float shifted = x + (0x1.8p23f + 127.0f), r = x - (shifted - (0x1.8p23f + 127.0f)), r2 = r * r;
  const float low = r * 0.693147182f + 1.0f, middle = r * 0.0555033237f + 0.240226477f;
  const float high = r * 0.00133988739f + 0.00961843785f + r2 * 0.00015353343f;
  return (low + r2 * (middle + r2 * high)) * detail::bits<float>(detail::bits<uint32_t>(shifted) << 23);
}
/// The chance that a normal variable is above t, for t from 0 to 10: a minimax polynomial for its logarithm, weighted so that t times
/// the chance has an absolute error of 2e-8.
RETAPE_HD float normal_tail(float t) {
  const float t2 = t * t, t4 = t2 * t2;
  const float a = t * -1.15110755f - 1.0f, b = t * -0.0525534339f - 0.459189683f;
  const float c = t * -0.000204866941f + 0.00714905141f, d = t * 3.30666335e-05f - 0.000157097791f;
  return exp2_small((a + t2 * b) + t4 * ((c + t2 * d) + t4 * -2.2932702e-06f));
}
/// t times the density of a normal variable at t, for |t| <= 10.
RETAPE_HD float normal_moment(float t) { return t * 0.398942280f * exp2_small(t * t * -0.721347520f); }
RETAPE_HD double erf(double x) { return ::erf(x); }

}  // namespace retape::m
