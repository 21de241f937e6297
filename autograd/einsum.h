// Products of tensors, all written with matmul, mul, sum and views: einsum and its common special cases. Contractions of floating
// tensors go through batched matmul; integers are multiplied and summed. Dtypes promote. Everything throws Error, with both values,
// where sizes or numbers of dims do not fit.
#pragma once
#include <string>
#include <vector>

#include <retape/core/tensor.h>

namespace retape {

/// Sum of products over subscripts, such as einsum("bij,bjk->bik", {a, b}). A letter names a dim; equal letters run together (sizes
/// equal or 1; twice in one operand: the diagonal), letters that the output lacks are summed. "..." stands for any dims, broadcast
/// between operands. Without "->" the output has the dims of "...", then the letters that occur once, in ASCII order. Any number of
/// operands, contracted from left to right. torch: einsum.
Tensor einsum(const std::string& equation, const std::vector<Tensor>& operands);
/// Sums products over the last `dims` dims of a and the first `dims` of b. torch: tensordot.
Tensor tensordot(const Tensor& a, const Tensor& b, int64_t dims = 2);
/// Sums products over dims_a of a and dims_b of b, pair by pair: a's other dims, then b's. torch: tensordot.
Tensor tensordot(const Tensor& a, const Tensor& b, const Shape& dims_a, const Shape& dims_b);
/// a (n), b (m): (n, m). torch: outer.
Tensor outer(const Tensor& a, const Tensor& b);
/// Every element of a times b, as blocks: sizes multiply, missing leading dims count as 1. At most four dims. torch: kron.
Tensor kron(const Tensor& a, const Tensor& b);

/// a (B, M, K), b (B, K, N): (B, M, N), without broadcasting. torch: bmm.
Tensor bmm(const Tensor& a, const Tensor& b);
/// a (M, K), b (K, N): (M, N). torch: mm.
Tensor mm(const Tensor& a, const Tensor& b);
/// a (M, K), x (K): (M). torch: mv.
Tensor mv(const Tensor& a, const Tensor& x);
/// a (n), b (n): (). torch: dot, and vdot, which is the same for real numbers.
Tensor dot(const Tensor& a, const Tensor& b);
/// Sums products over the last dims: a (..., K), b (..., K): a's other dims, then b's; with a scalar, a * b. torch: inner.
Tensor inner(const Tensor& a, const Tensor& b);
/// Sum of the diagonal of x (M, N). torch: trace.
Tensor trace(const Tensor& x);
/// Cross product along a dim of size 3; other dims broadcast. torch: linalg.cross.
Tensor cross(const Tensor& a, const Tensor& b, int64_t dim = -1);
/// The product of two or more matrices in the order that needs the fewest multiplications; the first may be a row (n), the last a
/// column (n), whose dim is removed again. torch: linalg.multi_dot.
Tensor multi_dot(const std::vector<Tensor>& matrices);
/// The same for one or more matrices, all with two dims. torch: chain_matmul.
Tensor chain_matmul(const std::vector<Tensor>& matrices);

/// beta * input + alpha * a b; input broadcasts to the product and is not read if beta is 0.
/// a (M, K), b (K, N). torch: addmm.
Tensor addmm(const Tensor& input, const Tensor& a, const Tensor& b, double beta = 1, double alpha = 1);
/// a (M, K), x (K). torch: addmv.
Tensor addmv(const Tensor& input, const Tensor& a, const Tensor& x, double beta = 1, double alpha = 1);
/// a (B, M, K), b (B, K, N). torch: baddbmm.
Tensor baddbmm(const Tensor& input, const Tensor& a, const Tensor& b, double beta = 1, double alpha = 1);
/// a (B, M, K), b (B, K, N), the product summed over B. torch: addbmm.
Tensor addbmm(const Tensor& input, const Tensor& a, const Tensor& b, double beta = 1, double alpha = 1);

}  // namespace retape
