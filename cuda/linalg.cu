// Factorizations by the library, and around them what it leaves to do. Matrices are stored column by column: m rows and n columns are
// (..., n, m) in memory. As LAPACK's, info says where a factor has a zero on its diagonal, whatever the library says.
#include <retape/cuda/launch.h>
#include <retape/cuda/libraries/solver.h>

namespace retape::cuda {
namespace {

template <class F> void with_f32_or_f64(const char* kernel, DType d, const F& f) {
  if (d == DType::f64) f(double{});
  else if (d == DType::f32) f(float{});
  else retape::detail::unsupported_dtype(kernel, d);
}
int64_t batch_of(const Tensor& a, int dims) {
  int64_t n = 1;
  for (int d = 0; d < a.dim() - dims; ++d) n *= a.shape()[d];
  return n;
}
int64_t rows(const Tensor& a) { return a.shape()[-1]; }
int64_t columns(const Tensor& a) { return a.shape()[-2]; }
int32_t* start(const Tensor& info) {
  auto* const p = data<int32_t>(info);
  if (info.numel()) check(cudaMemsetAsync(p, 0, size_t(info.numel()) * sizeof(int32_t), current_stream()), "cudaMemsetAsync");
  return p;
}

// ---- for the library ----

__global__ void addresses(int64_t count, uintptr_t bytes, uintptr_t first, uintptr_t* each) {
  for (int64_t i = thread_index(); i < count; i += thread_count()) each[i] = first + uintptr_t(i) * bytes;
}
template <class T> class Batch {
 public:
  Batch(int64_t count, int64_t size, T* first) : each_(count), matrices_{count, size, first, nullptr} {
    if (count == 1) return;
    launch(addresses, blocks_for(count), 256, 0, count, uintptr_t(size) * sizeof(T), reinterpret_cast<uintptr_t>(first), each_);
    matrices_.each = reinterpret_cast<T* const*>(static_cast<uintptr_t*>(each_));
  }
  operator const solver::Matrices<T>&() const { return matrices_; }

 private:
  Scratch<uintptr_t> each_;
  solver::Matrices<T> matrices_;
};

// Matrices of `size` elements each, with columns `ld` apart, or their transposes; below the diagonal 0 if only the upper triangle counts.
template <class T>
__global__ void copy_matrices(int64_t count, int64_t rows, int64_t columns, const T* from, int64_t ld, int64_t size, bool transposed,
                              bool upper_only, T* to) {
  for (int64_t i = thread_index(); i < count * rows * columns; i += thread_count()) {
    const int64_t r = i % rows, c = i / rows % columns, matrix = i / rows / columns;
    to[i] = upper_only && r > c ? T(0) : from[matrix * size + (transposed ? r * ld + c : c * ld + r)];
  }
}
template <class T> __global__ void fill_identity(int64_t count, int64_t rows, int64_t columns, T* to) {
  for (int64_t i = thread_index(); i < count * rows * columns; i += thread_count()) to[i] = T(i / rows % columns == i % rows);
}

enum class Part : int { all, upper, lower };

// The iterations of the library need not end well with nan: such matrices become 0 and are remembered. A block for each.
template <class T> __global__ void take_out_nan(int64_t count, int64_t rows, int64_t columns, Part part, T* a, int32_t* refused) {
  for (int64_t matrix = blockIdx.x; matrix < count; matrix += gridDim.x) {
    T* const x = a + matrix * rows * columns;
    int found = 0;
    for (int64_t i = threadIdx.x; i < rows * columns; i += blockDim.x) {
      const int64_t r = i % rows, c = i / rows;
      if (part == Part::all || (part == Part::upper ? r <= c : r >= c)) found |= int(x[i] != x[i]);
    }
    found = __syncthreads_or(found);
    for (int64_t i = threadIdx.x; found && i < rows * columns; i += blockDim.x) x[i] = 0;
    if (threadIdx.x == 0) refused[matrix] = found;
  }
}
__global__ void report_refused(int64_t count, const int32_t* refused, int32_t* info) {
  for (int64_t i = thread_index(); i < count; i += thread_count())
    if (refused[i]) info[i] = -5;  // the argument of LAPACKE's functions that is the matrix
}
template <class T> class NanGuard {
 public:
  NanGuard(int64_t count, int64_t rows, int64_t columns, Part part, T* a) : count_(count), refused_(count) {
    launch(take_out_nan<T>, blocks_for(count, 1), 256, 0, count, rows, columns, part, a, refused_);
  }
  void report(int32_t* info) const { launch(report_refused, blocks_for(count_), 256, 0, count_, refused_, info); }

 private:
  int64_t count_;
  Scratch<int32_t> refused_;
};

// ---- after the library; a warp works on a matrix ----

// info = the first element, from 1, of a diagonal of n that is 0; or, where info is still 0, that is not positive.
template <class T>
__global__ void check_diagonal(int64_t count, int64_t n, int64_t ld, int64_t size, bool positive, const T* a, int32_t* info) {
  for (int64_t i = thread_index() / 32; i < count; i += thread_count() / 32) {
    int64_t first = n;
    for (int64_t j = threadIdx.x % 32; j < n; j += 32) {
      const T v = a[i * size + j * ld + j];
      if (positive ? !(v > T(0)) : v == T(0)) first = min_of(first, j);
    }
    first = -warp_reduce(-first, Largest{});
    if (threadIdx.x % 32 == 0 && !(positive && info[i])) info[i] = first < n ? int32_t(first + 1) : 0;
  }
}
template <class T> __global__ void clear_triangle(int64_t count, int64_t n, bool upper, T* a) {
  for (int64_t i = thread_index(); i < count * n * n; i += thread_count()) {
    const int64_t r = i % n, c = i / n % n;
    if (upper ? r < c : r > c) a[i] = 0;
  }
}

// Lanes fetch 32 elements of the diagonal; all of them go through these in order, as the CPU does.
template <class T> __global__ void determinants(int64_t count, int64_t n, const T* lu, const int32_t* pivots, T* det, T* sign, T* log_abs) {
  for (int64_t i = thread_index() / 32; i < count; i += thread_count() / 32) {
    const int lane = int(threadIdx.x % 32);
    T d = 1, g = 1, l = 0;
    for (int64_t first = 0; first < n; first += 32) {
      const int64_t mine = first + lane;
      const T value = mine < n ? lu[(i * n + mine) * n + mine] : T(1), log = m::log(m::abs(value));
      const int swapped = mine < n && pivots[i * n + mine] != mine + 1;
      for (int j = 0; j < 32; ++j) {
        const T v = __shfl_sync(all_lanes, value, j), lv = __shfl_sync(all_lanes, log, j);
        const T flip = __shfl_sync(all_lanes, swapped, j) ? T(-1) : T(1);
        if (first + j >= n) continue;
        d *= v * flip;
        g *= v > T(0) ? flip : v < T(0) ? -flip : v;  // 0 and nan stay
        l += lv;
      }
    }
    if (lane == 0) det[i] = d, sign[i] = g, log_abs[i] = l;
  }
}

// Swaps follow each other: a thread for a matrix.
__global__ void swap_rows(int64_t count, int64_t m, int64_t k, const int32_t* pivots, int32_t* place, Fault* fault) {
  for (int64_t i = thread_index(); i < count; i += thread_count()) {
    int32_t* const x = place + i * m;
    for (int64_t r = 0; r < m; ++r) x[r] = int32_t(r);
    for (int64_t r = 0; r < k; ++r) {
      const int64_t other = int64_t(pivots[i * k + r]) - 1;
      if (other < 0 || other >= m) {
        report(fault, "lu_permutation", other, -1, m);
        continue;
      }
      const int32_t kept = x[r];
      x[r] = x[other], x[other] = kept;
    }
  }
}
template <class T> __global__ void permutations(int64_t count, int64_t m, const int32_t* place, T* p) {
  for (int64_t i = thread_index(); i < count * m * m; i += thread_count()) p[i] = T(place[i / m / m * m + i % m] == i / m % m);
}

template <class T> void check_diagonals(int64_t count, int64_t n, int64_t ld, int64_t size, bool positive, const T* a, int32_t* info) {
  launch(check_diagonal<T>, blocks_for(32 * count, 128), 128, 0, count, n, ld, size, positive, a, info);
}
template <class T>
void copy(int64_t count, int64_t rows, int64_t columns, const T* from, int64_t ld, int64_t size, bool transposed, bool upper_only, T* to) {
  if (const int64_t n = count * rows * columns)
    launch(copy_matrices<T>, blocks_for(n), 256, 0, count, rows, columns, from, ld, size, transposed, upper_only, to);
}

}  // namespace

// a (n x n), info (...)
void cholesky(bool upper, Tensor& a, Tensor& info) {
  const int64_t n = rows(a), batch = batch_of(a, 2);
  int32_t* const failed = start(info);
  if (a.numel() == 0) return;
  with_f32_or_f64("cholesky", a.dtype(), [&](auto zero) {
    using T = decltype(zero);
    T* const p = data<T>(a);
    solver::cholesky<T>(upper, n, Batch<T>(batch, n * n, p), failed);
    check_diagonals(batch, n, n, n * n, true, p, failed);
    launch(clear_triangle<T>, blocks_for(a.numel()), 256, 0, batch, n, !upper, p);
  });
}

// a (m x n), pivots (..., min(m, n)), info (...)
void lu_factor(Tensor& a, Tensor& pivots, Tensor& info) {
  const int64_t m = rows(a), n = columns(a), k = min_of(m, n), batch = batch_of(a, 2);
  int32_t* const failed = start(info);
  if (a.numel() == 0) return;
  with_f32_or_f64("lu_factor", a.dtype(), [&](auto zero) {
    using T = decltype(zero);
    solver::lu_factor<T>(m, n, Batch<T>(batch, m * n, data<T>(a)), data<int32_t>(pivots), failed);
    check_diagonals(batch, k, m, m * n, false, data<T>(a), failed);
  });
}

// lu (n x n), pivots (..., n), b (n x k)
void lu_solve(const Tensor& lu, const Tensor& pivots, bool transposed, Tensor& b) {
  const int64_t n = rows(b), k = columns(b), batch = batch_of(b, 2);
  if (b.numel() == 0) return;
  with_f32_or_f64("lu_solve", b.dtype(), [&](auto zero) {
    using T = decltype(zero);
    solver::lu_solve<T>(transposed, n, k, Batch<const T>(batch, n * n, data<T>(lu)), data<int32_t>(pivots),
                        Batch<T>(batch, n * k, data<T>(b)));
  });
}

// lu (n x n), pivots (..., n); det, sign, log_abs (...)
void lu_determinant(const Tensor& lu, const Tensor& pivots, Tensor& det, Tensor& sign, Tensor& log_abs) {
  const int64_t n = rows(lu), batch = det.numel();
  if (batch == 0) return;
  with_f32_or_f64("lu_determinant", lu.dtype(), [&](auto zero) {
    using T = decltype(zero);
    launch(determinants<T>, blocks_for(32 * batch, 128), 128, 0, batch, n, data<T>(lu), data<int32_t>(pivots), data<T>(det), data<T>(sign),
           data<T>(log_abs));
  });
}

// pivots (..., min(m, n)), p (m x m)
void lu_permutation(const Tensor& pivots, Tensor& p) {
  const int64_t m = rows(p), k = pivots.shape()[-1], batch = batch_of(p, 2);
  if (p.numel() == 0) return;
  with_f32_or_f64("lu_permutation", p.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const Scratch<int32_t> place(batch * m);
    launch(swap_rows, blocks_for(batch, 32), 32, 0, batch, m, k, data<int32_t>(pivots), place, faults());
    launch(permutations<T>, blocks_for(p.numel()), 256, 0, batch, m, place, data<T>(p));
  });
}

// a (n x n), b (n x k), info (...). Unlike LAPACK's, a b whose a is singular is not left as it was.
void solve_triangular(const Tensor& a, bool upper, bool transposed, bool unit, Tensor& b, Tensor& info) {
  const int64_t n = rows(b), k = columns(b), batch = batch_of(b, 2);
  int32_t* const failed = start(info);
  if (b.numel() == 0) return;
  with_f32_or_f64("solve_triangular", b.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T* const p = data<T>(a);
    if (!unit) check_diagonals(batch, n, n, n * n, false, p, failed);
    solver::solve_triangular<T>(upper, transposed, unit, n, k, Batch<const T>(batch, n * n, p), Batch<T>(batch, n * k, data<T>(b)));
  });
}

// a (m x n), q (m x k) or undefined, r (k x n), info (...)
void qr(const Tensor& a, Tensor& q, Tensor& r, Tensor& info) {
  const int64_t m = rows(a), n = columns(a), k = rows(r), batch = batch_of(a, 2);
  int32_t* const failed = start(info);
  with_f32_or_f64("qr", a.dtype(), [&](auto zero) {
    using T = decltype(zero);
    if (m == 0 || n == 0) {  // k is 0, or q the identity
      if (q && q.numel()) launch(fill_identity<T>, blocks_for(q.numel()), 256, 0, batch, m, k, data<T>(q));
      return;
    }
    if (batch == 0) return;
    const Scratch<T> factor(batch * m * n);
    copy<T>(batch, m, n, data<T>(a), m, m * n, false, false, factor);
    solver::qr<T>(m, n, k, batch, factor, data<T>(q), failed);
    copy<T>(batch, k, n, factor, m, m * n, false, true, data<T>(r));
  });
}

// a (m x n), u (m x k or m) and vt (k or n x n) or both undefined, s (..., k), info (...)
void svd(const Tensor& a, Tensor& u, Tensor& s, Tensor& vt, Tensor& info) {
  const int64_t m = rows(a), n = columns(a), k = min_of(m, n), batch = batch_of(a, 2);
  int32_t* const failed = start(info);
  with_f32_or_f64("svd", a.dtype(), [&](auto zero) {
    using T = decltype(zero);
    T *const left = data<T>(u), *const right = u ? data<T>(vt) : nullptr, *const values = data<T>(s);
    const int64_t u_columns = u ? columns(u) : 0, vt_rows = u ? rows(vt) : 0;
    if (batch == 0) return;
    if (k == 0) {  // what is not empty is the identity
      if (m && u_columns) launch(fill_identity<T>, blocks_for(batch * m * u_columns), 256, 0, batch, m, u_columns, left);
      if (n && vt_rows) launch(fill_identity<T>, blocks_for(batch * n * vt_rows), 256, 0, batch, vt_rows, n, right);
      return;
    }
    const bool full = u && (u_columns > k || vt_rows > k), small = batch > 1 && max_of(m, n) <= solver::small_svd;
    const bool turned = m < n && !small;  // one way the library takes: a^T = v s u^T
    const Scratch<T> matrices(batch * m * n);
    if (turned) copy<T>(batch, n, m, data<T>(a), m, m * n, true, false, matrices);
    else copy<T>(batch, m, n, data<T>(a), m, m * n, false, false, matrices);
    const NanGuard<T> guard(batch, turned ? n : m, turned ? m : n, Part::all, matrices);
    if (small) {
      const Scratch<T> all_u(batch * m * m), all_v(batch * n * n);
      solver::svd_of_small<T>(m, n, bool(u), batch, matrices, all_u, values, all_v, failed);
      if (u) {
        copy<T>(batch, m, u_columns, all_u, m, m * m, false, false, left);
        copy<T>(batch, vt_rows, n, all_v, n, n * n, true, false, right);
      }
    } else if (turned && u) {
      const Scratch<T> v(batch * n * vt_rows), ut(batch * m * m);
      solver::svd<T>(n, m, full, batch, matrices, v, values, ut, failed);
      copy<T>(batch, m, m, ut, m, m * m, true, false, left);
      copy<T>(batch, vt_rows, n, v, n, n * vt_rows, true, false, right);
    } else {
      solver::svd<T>(turned ? n : m, turned ? m : n, full, batch, matrices, left, values, right, failed);
    }
    guard.report(failed);
  });
}

// a (n x n), values (..., n), info (...)
void eigh(bool upper, bool vectors, Tensor& a, Tensor& values, Tensor& info) {
  const int64_t n = rows(a), batch = batch_of(a, 2);
  int32_t* const failed = start(info);
  if (a.numel() == 0) return;
  with_f32_or_f64("eigh", a.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const NanGuard<T> guard(batch, n, n, upper ? Part::upper : Part::lower, data<T>(a));
    solver::eigh<T>(upper, vectors, n, batch, data<T>(a), data<T>(values), failed);
    guard.report(failed);
  });
}

}  // namespace retape::cuda
