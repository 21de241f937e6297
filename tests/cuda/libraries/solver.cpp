// The host's version of cuda/libraries/solver.cpp, by LAPACK in the order of the stream. What the library leaves undefined becomes nan.
#include <retape/cuda/libraries/solver.h>

#include <algorithm>
#include <vector>

#include <retape/core/runtime/lapack.h>
#include <retape/cuda/device.h>

namespace retape::cuda::solver {
namespace {

template <class F> void later(F f) {
  emulation::enqueue(current_stream(), [f] {
    const lapack::OneThread guard;
    f();
  });
}
// The addresses are made on the device: the library would follow them for more than one matrix.
template <class T> T* at(const Matrices<T>& a, int64_t i) {
  if (a.count > 1 && a.each[i] != a.first + i * a.size) throw emulation::Mistake("solver: a wrong address of a matrix");
  return a.first + i * a.size;
}

}  // namespace

template <class T> void cholesky(bool upper, int64_t n, const Matrices<T>& a, int32_t* info) {
  later([=] {
    for (int64_t i = 0; i < a.count; ++i) {
      T* const x = at(a, i);
      info[i] = lapack::cholesky(upper, n, x);
      for (int64_t c = 0; c < n; ++c)
        for (int64_t r = upper ? c + 1 : 0; r < (upper ? n : c); ++r) x[c * n + r] = T(NAN);
    }
  });
}
template <class T> void lu_factor(int64_t m, int64_t n, const Matrices<T>& a, int32_t* pivots, int32_t* info) {
  later([=] {
    for (int64_t i = 0; i < a.count; ++i) info[i] = lapack::lu_factor(m, n, at(a, i), pivots + i * std::min(m, n));
  });
}
template <class T>
void lu_solve(bool transposed, int64_t n, int64_t k, const Matrices<const T>& lu, const int32_t* pivots, const Matrices<T>& b) {
  later([=] {
    for (int64_t i = 0; i < b.count; ++i) lapack::lu_solve<T>(transposed, n, k, at(lu, i), pivots + i * n, at(b, i));
  });
}
template <class T>
void solve_triangular(bool upper, bool transposed, bool unit, int64_t n, int64_t k, const Matrices<const T>& a, const Matrices<T>& b) {
  later([=] {
    for (int64_t i = 0; i < b.count; ++i) {
      T* const x = at(b, i);
      if (lapack::solve_triangular<T>(upper, transposed, unit, n, k, at(a, i), x)) std::fill_n(x, n * k, T(NAN));
    }
  });
}
template <class T> void qr(int64_t m, int64_t n, int64_t k, int64_t count, T* a, T* q, int32_t* info) {
  later([=] {
    for (int64_t i = 0; i < count; ++i) {
      T* const x = a + i * m * n;
      std::vector<T> r(size_t(k * n));
      info[i] = lapack::qr(m, n, k, x, q ? q + i * m * k : nullptr, r.data());
      for (int64_t c = 0; c < n; ++c)
        for (int64_t j = 0; j < m; ++j) x[c * m + j] = j <= c && j < k ? r[size_t(c * k + j)] : T(NAN);
    }
  });
}
template <class T> void svd(int64_t m, int64_t n, bool full, int64_t count, T* a, T* u, T* s, T* vt, int32_t* info) {
  if (m < n) throw emulation::Mistake("svd: the library takes no matrix of fewer rows than columns");
  later([=] {
    for (int64_t i = 0; i < count; ++i) {
      info[i] = lapack::svd(m, n, full, a + i * m * n, u ? u + i * m * (full ? m : n) : nullptr, s + i * n, u ? vt + i * n * n : nullptr);
      std::fill_n(a + i * m * n, m * n, T(NAN));
    }
  });
}
template <class T> void svd_of_small(int64_t m, int64_t n, bool vectors, int64_t count, T* a, T* u, T* s, T* v, int32_t* info) {
  if (std::max(m, n) > small_svd) throw emulation::Mistake("svd_of_small: a matrix that is too large");
  later([=] {
    for (int64_t i = 0; i < count; ++i) {
      T *const left = u + i * m * m, *const right = v + i * n * n;
      info[i] = lapack::svd(m, n, true, a + i * m * n, vectors ? left : nullptr, s + i * std::min(m, n), vectors ? right : nullptr);
      std::fill_n(a + i * m * n, m * n, T(NAN));
      if (!vectors) std::fill_n(left, m * m, T(NAN)), std::fill_n(right, n * n, T(NAN));
      else
        for (int64_t c = 0; c < n; ++c)
          for (int64_t r = 0; r < c; ++r) std::swap(right[c * n + r], right[r * n + c]);
    }
  });
}
template <class T> void eigh(bool upper, bool vectors, int64_t n, int64_t count, T* a, T* values, int32_t* info) {
  later([=] {
    for (int64_t i = 0; i < count; ++i) {
      info[i] = lapack::eigh(upper, vectors, n, a + i * n * n, values + i * n);
      if (!vectors) std::fill_n(a + i * n * n, n * n, T(NAN));
    }
  });
}

#define RETAPE_INSTANTIATE(T)                                                                                       \
  template void cholesky(bool, int64_t, const Matrices<T>&, int32_t*);                                              \
  template void lu_factor(int64_t, int64_t, const Matrices<T>&, int32_t*, int32_t*);                                \
  template void lu_solve(bool, int64_t, int64_t, const Matrices<const T>&, const int32_t*, const Matrices<T>&);     \
  template void solve_triangular(bool, bool, bool, int64_t, int64_t, const Matrices<const T>&, const Matrices<T>&); \
  template void qr(int64_t, int64_t, int64_t, int64_t, T*, T*, int32_t*);                                           \
  template void svd(int64_t, int64_t, bool, int64_t, T*, T*, T*, T*, int32_t*);                                     \
  template void svd_of_small(int64_t, int64_t, bool, int64_t, T*, T*, T*, T*, int32_t*);                            \
  template void eigh(bool, bool, int64_t, int64_t, T*, T*, int32_t*);
RETAPE_INSTANTIATE(float)
RETAPE_INSTANTIATE(double)
#undef RETAPE_INSTANTIATE

}  // namespace retape::cuda::solver
