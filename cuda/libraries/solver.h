// Matrix factorizations through cuSOLVER and cuBLAS. This file hides their headers; tests/cuda/libraries/solver.cpp is the same by LAPACK.
#pragma once
#include <cstdint>

namespace retape::cuda::solver {

/// `count` matrices of one size, stored column by column, one behind the other.
template <class T> struct Matrices {
  int64_t count, size;  // matrices; elements of each
  T* first;
  T* const* each;  // on the device: where each begins. Null if count is 1
};

// All run on the current stream of the current device, for T float or double; no size is 0, and none above 2^31 - 1. info, on the device,
// gets a number a matrix as LAPACK reports it. Throws Error if the library refuses. Equal inputs give equal bits.

/// a (n x n) becomes its factor in one triangle; the other is undefined.
template <class T> void cholesky(bool upper, int64_t n, const Matrices<T>& a, int32_t* info);
/// a (m x n) becomes L and U; pivots (count, min(m, n)) count from 1.
template <class T> void lu_factor(int64_t m, int64_t n, const Matrices<T>& a, int32_t* pivots, int32_t* info);
/// lu (n x n), pivots (count, n); b (n x k) becomes the solution.
template <class T>
void lu_solve(bool transposed, int64_t n, int64_t k, const Matrices<const T>& lu, const int32_t* pivots, const Matrices<T>& b);
/// a (n x n), of which one triangle is read; b (n x k) becomes the solution.
template <class T>
void solve_triangular(bool upper, bool transposed, bool unit, int64_t n, int64_t k, const Matrices<const T>& a, const Matrices<T>& b);
/// a (m x n) becomes R in its upper triangle, with anything below; q (m x k) unless null, where min(m, n) <= k <= m.
template <class T> void qr(int64_t m, int64_t n, int64_t k, int64_t count, T* a, T* q, int32_t* info);
/// a (m x n) is destroyed, m >= n; s (n), and unless u and vt are null, u (m x n) or, if `full`, (m x m), and vt (n x n).
template <class T> void svd(int64_t m, int64_t n, bool full, int64_t count, T* a, T* u, T* s, T* vt, int32_t* info);
/// The same for many small matrices at once, m and n up to small_svd: u (m x m), and v (n x n), which is not transposed. They are
/// always there, but undefined if `vectors` is false.
constexpr int64_t small_svd = 32;
template <class T> void svd_of_small(int64_t m, int64_t n, bool vectors, int64_t count, T* a, T* u, T* s, T* v, int32_t* info);
/// a (n x n), of which one triangle is read, becomes the eigenvectors or is destroyed; values (count, n) ascend.
template <class T> void eigh(bool upper, bool vectors, int64_t n, int64_t count, T* a, T* values, int32_t* info);

}  // namespace retape::cuda::solver
