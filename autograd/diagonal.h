// Diagonals and triangles of matrices. A diagonal with offset k starts k columns to the right of the main one, or -k rows below it.
#pragma once
#include <retape/core/tensor.h>

namespace retape {

/// The diagonal of the matrices that dims dim1 and dim2 make, as a new last dim; a view. torch: diagonal.
Tensor diagonal(const Tensor& x, int64_t offset = 0, int64_t dim1 = 0, int64_t dim2 = 1);
/// Zeros with the last dim of x on a diagonal of the matrices that dim1 and dim2 of the result make. torch: diag_embed.
Tensor diag_embed(const Tensor& x, int64_t offset = 0, int64_t dim1 = -2, int64_t dim2 = -1);
/// Of a matrix its diagonal (a view), of a vector the matrix that has it as its diagonal. torch: diag.
Tensor diag(const Tensor& x, int64_t offset = 0);
/// The matrix that has all elements of x on its diagonal. torch: diagflat.
Tensor diagflat(const Tensor& x, int64_t offset = 0);

/// x (..., rows, columns) with zeros above (tril) or below (triu) a diagonal. torch: tril, triu.
Tensor tril(const Tensor& x, int64_t diagonal = 0);
Tensor triu(const Tensor& x, int64_t diagonal = 0);
/// Rows and columns, i64 (2, n), of the elements on and below (tril) or above (triu) a diagonal, in row-major order.
/// torch: tril_indices, triu_indices.
Tensor tril_indices(int64_t rows, int64_t columns, int64_t offset = 0);
Tensor triu_indices(int64_t rows, int64_t columns, int64_t offset = 0);

}  // namespace retape
