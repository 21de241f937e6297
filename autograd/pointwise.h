// The functions of core/pointwise_ops.h as one op: for activations with numbers and for losses. Private to sources.
#pragma once
#include <retape/autograd/autocast.h>
#include <retape/core/pointwise_ops.h>

namespace retape::detail {

/// `kind` of a, and of b (broadcast to a) where it has two values, with the numbers p and q; both have gradients, to the second order.
/// `name` is for errors. Integers become f32.
Tensor pointwise(const char* name, PointwiseKind kind, double p, double q, const Tensor& a, const Tensor& b = {},
                 Precision precision = Precision::any);

}  // namespace retape::detail
