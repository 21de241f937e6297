// Linear algebra through LAPACK, for matrices in the last two dims and batches in the dims before, f64 and f32 (half types are an Error:
// cast() them). Batches of two operands broadcast. A matrix for which there is no result (singular, not positive definite, an iteration
// that did not converge) is an Error that names the op, the matrix of the batch and LAPACK's info. Everything has first and second
// derivatives. Results are views that are stored column by column.
#pragma once
#include <optional>
#include <string>

#include <retape/core/tensor.h>

namespace retape {

/// The lower triangular L with x = L L^T, or (upper) U with x = U^T U. Reads that triangle of x (..., n, n) only; the gradient is
/// symmetric. torch: linalg.cholesky.
Tensor cholesky(const Tensor& x, bool upper = false);
/// Solves A x = b for the Cholesky factor of A: b (..., n, k), factor (..., n, n). torch: cholesky_solve.
Tensor cholesky_solve(const Tensor& b, const Tensor& factor, bool upper = false);
/// The inverse of A from its Cholesky factor. torch: cholesky_inverse.
Tensor cholesky_inverse(const Tensor& factor, bool upper = false);

enum class QrMode : uint8_t { reduced, complete, r };
struct QrResult {
  Tensor q, r;
};
/// x = q r with orthonormal columns of q: x (..., m, n), q (..., m, k), r (..., k, n), k = min(m, n). complete: k = m, whose gradient
/// exists for m <= n only (Error). r: q is undefined. torch: linalg.qr.
QrResult qr(const Tensor& x, QrMode mode = QrMode::reduced);

/// The x with a x = b: a (..., n, n); b (..., n, k), or (n) or (..., n) with a's batch, one vector a matrix. torch: linalg.solve.
Tensor solve(const Tensor& a, const Tensor& b);
struct SolveTriangularOptions {
  bool left = true;            ///< false: x a = b
  bool unitriangular = false;  ///< the diagonal is taken as 1 and not read
};
/// The x with a x = b for a triangular a (..., n, n), of which only that triangle is read; b (..., n, k). torch: linalg.solve_triangular.
Tensor solve_triangular(const Tensor& a, const Tensor& b, bool upper, SolveTriangularOptions options = {});
/// x (..., n, n). torch: linalg.inv.
Tensor inverse(const Tensor& x);
/// The determinant of x (..., n, n): (...). It has a gradient where x is singular (its value is 0 there), but no second
/// derivative. torch: linalg.det.
Tensor det(const Tensor& x);
struct SlogdetResult {
  Tensor sign, logabsdet;
};
/// The determinant's sign and the logarithm of its absolute value; 0 and -inf where x is singular. torch: linalg.slogdet.
SlogdetResult slogdet(const Tensor& x);
/// log(det(x)), nan where that is negative. torch: logdet.
Tensor logdet(const Tensor& x);

struct LuFactorResult {
  Tensor lu, pivots;
};
/// x (..., m, n) = P L U with partial pivoting: L below the diagonal, which is 1, and U in one matrix; pivots (..., min(m, n)) i32: row i
/// was exchanged with row pivots[i] - 1. A singular x is no Error here. torch: linalg.lu_factor.
LuFactorResult lu_factor(const Tensor& x);
struct LuResult {
  Tensor p, l, u;
};
/// x (..., m, n) = p l u: p (..., m, m), l (..., m, k), u (..., k, n), k = min(m, n). torch: linalg.lu.
LuResult lu(const Tensor& x);
struct LuSolveOptions {
  bool left = true;      ///< false: x A = b
  bool adjoint = false;  ///< A^T instead of A
};
/// The x with A x = b from lu_factor(A): b (..., n, k). torch: linalg.lu_solve.
Tensor lu_solve(const Tensor& lu, const Tensor& pivots, const Tensor& b, LuSolveOptions options = {});

struct SvdResult {
  Tensor u, s, vh;
};
/// x (..., m, n) = u diag(s) vh, s (..., k) falling, k = min(m, n): u (..., m, k), vh (..., k, n); with full_matrices (m, m) and (n, n),
/// whose columns behind k have no gradient (Error). Singular vectors are determined up to their sign: a loss must not depend on
/// it; their gradient is infinite where singular values are equal. torch: linalg.svd.
SvdResult svd(const Tensor& x, bool full_matrices = true);
/// torch: linalg.svdvals.
Tensor svdvals(const Tensor& x);
struct EighResult {
  Tensor values, vectors;
};
/// x = vectors diag(values) vectors^T for a symmetric x (..., n, n), of which the triangle uplo ('L' or 'U') is read; values ascend. The
/// sign of vectors is free, as in svd(). torch: linalg.eigh.
EighResult eigh(const Tensor& x, char uplo = 'L');
/// torch: linalg.eigvalsh.
Tensor eigvalsh(const Tensor& x, char uplo = 'L');

struct RankOptions {
  std::optional<double> atol = {}, rtol = {};  ///< default: rtol = max(m, n) epsilon if there is no atol, else 0
  bool hermitian = false;                      ///< x is symmetric: eigh() instead of svd()
};
/// The Moore-Penrose inverse: x (..., m, n), (..., n, m). Singular values up to max(atol, rtol s_max) count as 0.
/// The gradient (Golub & Pereyra 1973) holds where the rank does not change. torch: linalg.pinv.
Tensor pinv(const Tensor& x, RankOptions options = {});
/// How many singular values are above max(atol, rtol s_max), i64 (...). torch: linalg.matrix_rank.
Tensor matrix_rank(const Tensor& x, RankOptions options = {});
struct LstsqResult {
  Tensor solution, residuals, rank, singular_values;
};
/// The x of least norm that minimises |a x - b|: a (..., m, n), b (..., m, k), or (..., m) with a's batch. Singular values of a up to
/// rcond s_max (default max(m, n) epsilon) count as 0. residuals (..., k) are the sums of squares if m > n and all ranks are n, else
/// empty. torch: linalg.lstsq.
LstsqResult lstsq(const Tensor& a, const Tensor& b, std::optional<double> rcond = {});

/// Norm of matrices: "fro" (root of the sum of squares) or "nuc" (sum of singular values). torch: linalg.matrix_norm.
Tensor matrix_norm(const Tensor& x, const std::string& ord = "fro", const Shape& dims = {-2, -1}, bool keepdim = false);
/// 1, -1: the largest, smallest sum of a column's absolute values; inf, -inf: of a row's; 2, -2: the largest, smallest singular value.
Tensor matrix_norm(const Tensor& x, double ord, const Shape& dims = {-2, -1}, bool keepdim = false);
/// |x| |x^-1| by matrix_norm; by default, and for 2 and -2, from singular values (any m x n). inf for a singular x. torch: linalg.cond.
Tensor cond(const Tensor& x, double ord = 2);
Tensor cond(const Tensor& x, const std::string& ord);
/// x multiplied n times; n = 0 gives the identity, n < 0 powers of the inverse. torch: linalg.matrix_power.
Tensor matrix_power(const Tensor& x, int64_t n);
/// I + x + x^2 / 2! + ...: x (..., n, n). Scaling and squaring with Pade approximants (Higham 2005). torch: linalg.matrix_exp.
Tensor matrix_exp(const Tensor& x);

}  // namespace retape
