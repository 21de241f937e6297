// Matrices by LAPACK, a batch in parallel. Matrices are stored column by column: m rows and n columns are (..., n, m) in memory.
#include <retape/core/kernel.h>
#include <retape/core/runtime/lapack.h>

namespace retape::RETAPE_LEVEL {
namespace {

template <class F> RETAPE_INLINE void with_f32_or_f64(const char* kernel, DType d, const F& f) {
  if (d == DType::f64) f(double{});
  else if (d == DType::f32) f(float{});
  else detail::unsupported_dtype(kernel, d);
}
RETAPE_INLINE int64_t batch_of(const Tensor& a, int dims) {
  int64_t n = 1;
  for (int d = 0; d < a.dim() - dims; ++d) n *= a.shape()[d];
  return n;
}
RETAPE_INLINE int64_t rows(const Tensor& a) { return a.shape()[-1]; }
RETAPE_INLINE int64_t columns(const Tensor& a) { return a.shape()[-2]; }

// Calls f(i) for every matrix of the batch; about 32 x 32 x 32 operations are worth a thread.
template <class F> RETAPE_INLINE void each(int64_t batch, int64_t m, int64_t n, const F& f) {
  const int64_t work = m * n * min_of(m, n);
  const lapack::OneThread guard;
  parallel_for(batch, work >= 32768 ? 1 : 32768 / max_of<int64_t>(work, 1), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) f(i);
  });
}
RETAPE_INLINE int32_t* start(Tensor& info) {
  int32_t* p = info.mutable_data<int32_t>();
  for (int64_t i = 0; i < info.numel(); ++i) p[i] = 0;
  return p;
}

}  // namespace

// a (n x n), info (...)
void cholesky(bool upper, Tensor& a, Tensor& info) {
  const int64_t n = rows(a);
  int32_t* failed = start(info);
  if (a.numel() == 0) return;
  with_f32_or_f64("cholesky", a.dtype(), [&](auto zero) {
    using T = decltype(zero);
    T* p = a.mutable_data<T>();
    each(batch_of(a, 2), n, n, [&](int64_t i) {
      T* x = p + i * n * n;
      failed[i] = lapack::cholesky(upper, n, x);
      for (int64_t c = 0; c < n; ++c)
        for (int64_t r = upper ? c + 1 : 0; r < (upper ? n : c); ++r) x[c * n + r] = 0;
    });
  });
}

// a (m x n), pivots (..., min(m, n)), info (...)
void lu_factor(Tensor& a, Tensor& pivots, Tensor& info) {
  const int64_t m = rows(a), n = columns(a), k = min_of(m, n);
  int32_t* failed = start(info);
  if (a.numel() == 0) return;
  int32_t* order = pivots.mutable_data<int32_t>();
  with_f32_or_f64("lu_factor", a.dtype(), [&](auto zero) {
    using T = decltype(zero);
    T* p = a.mutable_data<T>();
    each(batch_of(a, 2), m, n, [&](int64_t i) { failed[i] = lapack::lu_factor(m, n, p + i * m * n, order + i * k); });
  });
}

// lu (n x n), pivots (..., n), b (n x k)
void lu_solve(const Tensor& lu, const Tensor& pivots, bool transposed, Tensor& b) {
  const int64_t n = rows(b), k = columns(b);
  if (b.numel() == 0) return;
  const int32_t* order = pivots.data<int32_t>();
  with_f32_or_f64("lu_solve", b.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T* a = lu.data<T>();
    T* x = b.mutable_data<T>();
    each(batch_of(b, 2), n, max_of(n, k),
         [&](int64_t i) { lapack::lu_solve(transposed, n, k, a + i * n * n, order + i * n, x + i * n * k); });
  });
}

// lu (n x n), pivots (..., n); det, sign, log_abs (...)
void lu_determinant(const Tensor& lu, const Tensor& pivots, Tensor& det, Tensor& sign, Tensor& log_abs) {
  const int64_t n = rows(lu);
  const int32_t* order = pivots.data<int32_t>();
  with_f32_or_f64("lu_determinant", lu.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T* a = lu.data<T>();
    T *product = det.mutable_data<T>(), *s = sign.mutable_data<T>(), *log = log_abs.mutable_data<T>();
    for (int64_t i = 0; i < det.numel(); ++i) {
      T d = 1, g = 1, l = 0;
      for (int64_t j = 0; j < n; ++j) {
        const T v = a[(i * n + j) * n + j], flip = order[i * n + j] == j + 1 ? T(1) : T(-1);
        d *= v * flip;
        g *= v > 0 ? flip : v < 0 ? -flip : v;  // 0 and nan stay
        l += m::log(m::abs(v));
      }
      product[i] = d, s[i] = g, log[i] = l;
    }
  });
}

// pivots (..., min(m, n)), p (m x m)
void lu_permutation(const Tensor& pivots, Tensor& p) {
  const int64_t m = rows(p), k = pivots.shape()[-1], batch = batch_of(p, 2);
  const int32_t* order = pivots.data<int32_t>();
  with_f32_or_f64("lu_permutation", p.dtype(), [&](auto zero) {
    using T = decltype(zero);
    T* out = p.mutable_data<T>();
    const Scratch<int64_t> place(m);
    for (int64_t i = 0; i < batch; ++i) {
      for (int64_t r = 0; r < m; ++r) place[r] = r;
      for (int64_t r = 0; r < k; ++r) {
        const int64_t other = int64_t(order[i * k + r]) - 1;
        if (other < 0 || other >= m) detail::index_out_of_range("lu_permutation", other, m);
        const int64_t kept = place[r];
        place[r] = place[other], place[other] = kept;
      }
      T* x = out + i * m * m;
      for (int64_t j = 0; j < m * m; ++j) x[j] = 0;
      for (int64_t r = 0; r < m; ++r) x[place[r] * m + r] = 1;
    }
  });
}

// a (n x n), b (n x k), info (...)
void solve_triangular(const Tensor& a, bool upper, bool transposed, bool unit, Tensor& b, Tensor& info) {
  const int64_t n = rows(b), k = columns(b);
  int32_t* failed = start(info);
  if (b.numel() == 0) return;
  with_f32_or_f64("solve_triangular", b.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T* p = a.data<T>();
    T* x = b.mutable_data<T>();
    each(batch_of(b, 2), n, max_of(n, k),
         [&](int64_t i) { failed[i] = lapack::solve_triangular(upper, transposed, unit, n, k, p + i * n * n, x + i * n * k); });
  });
}

// a (m x n), q (m x k) or undefined, r (k x n), info (...)
void qr(const Tensor& a, Tensor& q, Tensor& r, Tensor& info) {
  const int64_t m = rows(a), n = columns(a), k = rows(r), batch = batch_of(a, 2);
  int32_t* failed = start(info);
  with_f32_or_f64("qr", a.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T* p = a.data<T>();
    T *u = q ? q.mutable_data<T>() : nullptr, *t = r.mutable_data<T>();
    if (m == 0 || n == 0) {  // k is 0, or q the identity
      for (int64_t i = 0; u && i < batch * k * m; ++i) u[i] = T(i / m % k == i % m);
      return;
    }
    each(batch, m, n, [&](int64_t i) {
      const Scratch<T> copy(m * n);
      __builtin_memcpy(copy, p + i * m * n, size_t(m * n) * sizeof(T));
      T* factor = copy;
      failed[i] = lapack::qr(m, n, k, factor, u ? u + i * m * k : nullptr, t + i * k * n);
    });
  });
}

// a (m x n), u (m x k or m) and vt (k or n x n) or both undefined, s (..., k), info (...)
void svd(const Tensor& a, Tensor& u, Tensor& s, Tensor& vt, Tensor& info) {
  const int64_t m = rows(a), n = columns(a), k = min_of(m, n), batch = batch_of(a, 2);
  int32_t* failed = start(info);
  with_f32_or_f64("svd", a.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T* p = a.data<T>();
    T *left = u ? u.mutable_data<T>() : nullptr, *right = u ? vt.mutable_data<T>() : nullptr, *values = s.mutable_data<T>();
    const int64_t u_columns = u ? columns(u) : 0, vt_rows = u ? rows(vt) : 0;
    if (k == 0) {  // what is not empty is the identity
      for (int64_t i = 0; i < batch * m * u_columns; ++i) left[i] = T(i / m % u_columns == i % m);
      for (int64_t i = 0; i < batch * n * vt_rows; ++i) right[i] = T(i / vt_rows % n == i % vt_rows);
      return;
    }
    each(batch, m, n, [&](int64_t i) {
      const Scratch<T> copy(m * n);
      __builtin_memcpy(copy, p + i * m * n, size_t(m * n) * sizeof(T));
      T* matrix = copy;
      const bool full = u && (u_columns > k || vt_rows > k);
      failed[i] = lapack::svd(m, n, full, matrix, left ? left + i * m * u_columns : nullptr, values + i * k,
                              right ? right + i * n * vt_rows : nullptr);
    });
  });
}

// a (n x n), values (..., n), info (...)
void eigh(bool upper, bool vectors, Tensor& a, Tensor& values, Tensor& info) {
  const int64_t n = rows(a);
  int32_t* failed = start(info);
  if (a.numel() == 0) return;
  with_f32_or_f64("eigh", a.dtype(), [&](auto zero) {
    using T = decltype(zero);
    T *p = a.mutable_data<T>(), *w = values.mutable_data<T>();
    each(batch_of(a, 2), n, n, [&](int64_t i) { failed[i] = lapack::eigh(upper, vectors, n, p + i * n * n, w + i * n); });
  });
}

}  // namespace retape::RETAPE_LEVEL
