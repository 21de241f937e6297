// Running results along a dim: element i of y comes from elements 0 .. i of x.
#pragma once
#include <retape/autograd/reduce.h>

namespace retape {

/// Integers and bools add up and multiply in i64. torch: cumsum, cumprod.
Tensor cumsum(const Tensor& x, int64_t dim);
Tensor cumprod(const Tensor& x, int64_t dim);
/// log(sum e^x) so far, without overflow; floating only. torch: logcumsumexp.
Tensor logcumsumexp(const Tensor& x, int64_t dim);
/// The extreme so far and where it stands, the last of equals; nan stays. torch: cummax, cummin.
WithIndices cummax(const Tensor& x, int64_t dim);
WithIndices cummin(const Tensor& x, int64_t dim);

}  // namespace retape
