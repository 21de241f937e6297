// LAPACK, one matrix at a time, of floats or doubles. Matrices are stored column by column without gaps; sizes are at least 1. Results
// are LAPACK's info: 0, or where it failed. This file hides LAPACK's headers.
#pragma once
#include <cstdint>

namespace retape::lapack {

/// While one lives, OpenBLAS, if that is the BLAS below LAPACK, uses no threads of its own: it would compute other last bits with other
/// numbers of threads, and the callers here are threads already.
class OneThread {
 public:
  OneThread();
  ~OneThread();
  OneThread(const OneThread&) = delete;
};

/// a (n x n) becomes its factor in one triangle; the other is not touched.
template <class T> int cholesky(bool upper, int64_t n, T* a);
/// a (m x n) becomes L (below the diagonal, which is 1) and U; pivots count from 1.
template <class T> int lu_factor(int64_t m, int64_t n, T* a, int32_t* pivots);
/// b (n x k) becomes the solution.
template <class T> int lu_solve(bool transposed, int64_t n, int64_t k, const T* lu, const int32_t* pivots, T* b);
template <class T> int solve_triangular(bool upper, bool transposed, bool unit, int64_t n, int64_t k, const T* a, T* b);
/// a (m x n) is destroyed: r (k x n), and q (m x k) unless null, where k is min(m, n) or m.
template <class T> int qr(int64_t m, int64_t n, int64_t k, T* a, T* q, T* r);
/// a (m x n) is destroyed: s, and u (m x k), vt (k x n) for k = min(m, n) or, if `full`, (m x m), (n x n), unless both are null.
template <class T> int svd(int64_t m, int64_t n, bool full, T* a, T* u, T* s, T* vt);
/// a (n x n) becomes the eigenvectors, or is destroyed; values ascend.
template <class T> int eigh(bool upper, bool vectors, int64_t n, T* a, T* values);

}  // namespace retape::lapack
