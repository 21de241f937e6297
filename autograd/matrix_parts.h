// Parts of matrices that other ops are written with: diagonals and triangles of the last two dims. Internal.
#pragma once
#include <retape/core/tensor.h>

namespace retape::detail {

/// The diagonal of dims a and b, which must have equal sizes, as a view; the dims are removed and the diagonal becomes the last one.
Tensor diagonal_of(const Tensor& x, int a, int b);
/// x (..., n) as the diagonal of (..., n, n), else 0.
Tensor diagonal_matrix(const Tensor& x);
/// Elements on and below diagonal k (above the main one for k > 0), else 0; the others need not be finite.
Tensor lower_part(const Tensor& x, int64_t k = 0);
/// Elements on and above diagonal k, else 0.
Tensor upper_part(const Tensor& x, int64_t k = 0);
/// The n x n identity.
Tensor identity_matrix(int64_t n, Options options);

}  // namespace retape::detail
