// Small matrices go to the batched functions, others one by one. The host waits for nothing here, but cuSOLVER itself does within svd and
// eigh. Handles are lent: while one works for a thread, no other thread has it.
#include <retape/cuda/libraries/solver.h>

#include <cublas_v2.h>
#include <cusolverDn.h>
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <type_traits>
#include <vector>

#include <retape/core/error.h>
#include <retape/cuda/device.h>

namespace retape::cuda::solver {
namespace {

template <class Status> void check_status(Status status, const char* library, const char* what) {
  constexpr bool blas = std::is_same_v<Status, cublasStatus_t>;
  const bool memory = int(status) == (blas ? int(CUBLAS_STATUS_ALLOC_FAILED) : int(CUSOLVER_STATUS_ALLOC_FAILED));
  if (int(status))
    throw Error(fmt::format("linalg: {} failed on cuda:{} with {}'s status {}{}", what, current_device(), library, int(status),
                            memory ? ", out of memory" : ""));
}
void check(cusolverStatus_t status, const char* what) { check_status(status, "cuSOLVER", what); }
void check(cublasStatus_t status, const char* what) { check_status(status, "cuBLAS", what); }

// A handle for this thread on its current device and stream. Those that are free are kept for ever, since the driver may be gone at the end.
template <class H> class Lent {
 public:
  Lent() : device_(current_device()) {
    {
      const std::lock_guard lock(shelf().mutex);
      auto& free = shelf().free[device_];
      if (!free.empty()) handle_ = free.back(), free.pop_back();
    }
    if constexpr (std::is_same_v<H, cublasHandle_t>) {
      if (!handle_) check(cublasCreate(&handle_), "cublasCreate");
      check(cublasSetStream(handle_, current_stream()), "cublasSetStream");
    } else {
      if (!handle_) check(cusolverDnCreate(&handle_), "cusolverDnCreate");
      check(cusolverDnSetStream(handle_, current_stream()), "cusolverDnSetStream");
    }
  }
  ~Lent() {
    const std::lock_guard lock(shelf().mutex);
    shelf().free[device_].push_back(handle_);
  }
  Lent(const Lent&) = delete;
  operator H() const { return handle_; }

 private:
  struct Shelf {
    std::mutex mutex;
    std::map<int, std::vector<H>> free;
  };
  static Shelf& shelf() {
    static auto* const s = new Shelf;
    return *s;
  }
  int device_;
  H handle_ = nullptr;
};
using Solver = Lent<cusolverDnHandle_t>;
using Blas = Lent<cublasHandle_t>;

template <class T> class Memory {  // on the device, freed in the order of the stream
 public:
  explicit Memory(int64_t n) : bytes_(size_t(std::max<int64_t>(n, 1)) * sizeof(T)), p_(allocate(bytes_)) {}
  ~Memory() { deallocate(p_, bytes_); }
  Memory(const Memory&) = delete;
  operator T*() const { return reinterpret_cast<T*>(p_); }

 private:
  size_t bytes_;
  std::byte* p_;
};

// The float and the double function of one name.
#define RETAPE_SOLVER(name)                                                        \
  template <class T, class... A> void name(const A&... a) {                        \
    if constexpr (std::is_same_v<T, float>) check(cusolverDnS##name(a...), #name); \
    else check(cusolverDnD##name(a...), #name);                                    \
  }
#define RETAPE_BLAS(name)                                                      \
  template <class T, class... A> void name(const A&... a) {                    \
    if constexpr (std::is_same_v<T, float>) check(cublasS##name(a...), #name); \
    else check(cublasD##name(a...), #name);                                    \
  }
RETAPE_SOLVER(potrf_bufferSize)
RETAPE_SOLVER(potrf)
RETAPE_SOLVER(potrfBatched)
RETAPE_SOLVER(getrf_bufferSize)
RETAPE_SOLVER(getrf)
RETAPE_SOLVER(getrs)
RETAPE_SOLVER(geqrf_bufferSize)
RETAPE_SOLVER(geqrf)
RETAPE_SOLVER(orgqr_bufferSize)
RETAPE_SOLVER(orgqr)
RETAPE_SOLVER(gesvdjBatched_bufferSize)
RETAPE_SOLVER(gesvdjBatched)
RETAPE_BLAS(getrfBatched)
RETAPE_BLAS(getrsBatched)
RETAPE_BLAS(trsm)
RETAPE_BLAS(trsmBatched)
#undef RETAPE_SOLVER
#undef RETAPE_BLAS

template <class T> constexpr cudaDataType real = std::is_same_v<T, float> ? CUDA_R_32F : CUDA_R_64F;
cublasFillMode_t triangle(bool upper) { return upper ? CUBLAS_FILL_MODE_UPPER : CUBLAS_FILL_MODE_LOWER; }
cublasOperation_t operation(bool transposed) { return transposed ? CUBLAS_OP_T : CUBLAS_OP_N; }

// Above this size a matrix keeps the device busy alone.
bool together(int64_t count, int64_t n) { return count > 1 && n <= 256; }
// How many matrices of n x n go to one call whose work area grows with their number.
int64_t at_once(int64_t n) { return std::clamp<int64_t>((int64_t{1} << 26) / (n * n), 1, 1 << 15); }

// The library's own choices.
template <class P, cusolverStatus_t (*make)(P*), cusolverStatus_t (*destroy)(P)> class Options {
 public:
  Options() { check(make(&p_), "options"); }
  ~Options() { destroy(p_); }
  Options(const Options&) = delete;
  operator P() const { return p_; }

 private:
  P p_ = nullptr;
};
using JacobiOptions = Options<gesvdjInfo_t, cusolverDnCreateGesvdjInfo, cusolverDnDestroyGesvdjInfo>;
using AnyOptions = Options<cusolverDnParams_t, cusolverDnCreateParams, cusolverDnDestroyParams>;

}  // namespace

template <class T> void cholesky(bool upper, int64_t n, const Matrices<T>& a, int32_t* info) {
  const Solver handle;
  if (together(a.count, n)) return potrfBatched<T>(handle, triangle(upper), int(n), const_cast<T**>(a.each), int(n), info, int(a.count));
  int size = 0;
  potrf_bufferSize<T>(handle, triangle(upper), int(n), a.first, int(n), &size);
  const Memory<T> work(size);
  for (int64_t i = 0; i < a.count; ++i) potrf<T>(handle, triangle(upper), int(n), a.first + i * a.size, int(n), work, size, info + i);
}

template <class T> void lu_factor(int64_t m, int64_t n, const Matrices<T>& a, int32_t* pivots, int32_t* info) {
  if (m == n && together(a.count, n)) return getrfBatched<T>(Blas(), int(n), a.each, int(n), pivots, info, int(a.count));
  const Solver handle;
  int size = 0;
  getrf_bufferSize<T>(handle, int(m), int(n), a.first, int(m), &size);
  const Memory<T> work(size);
  for (int64_t i = 0; i < a.count; ++i)
    getrf<T>(handle, int(m), int(n), a.first + i * a.size, int(m), work, pivots + i * std::min(m, n), info + i);
}

template <class T>
void lu_solve(bool transposed, int64_t n, int64_t k, const Matrices<const T>& lu, const int32_t* pivots, const Matrices<T>& b) {
  if (together(b.count, n)) {
    int wrong = 0;  // which argument; the host's
    return getrsBatched<T>(Blas(), operation(transposed), int(n), int(k), lu.each, int(n), pivots, b.each, int(n), &wrong, int(b.count));
  }
  const Solver handle;
  const Memory<int> info(1);
  for (int64_t i = 0; i < b.count; ++i)
    getrs<T>(handle, operation(transposed), int(n), int(k), lu.first + i * lu.size, int(n), pivots + i * n, b.first + i * b.size, int(n),
             info);
}

template <class T>
void solve_triangular(bool upper, bool transposed, bool unit, int64_t n, int64_t k, const Matrices<const T>& a, const Matrices<T>& b) {
  const Blas handle;
  const T one = 1;
  const cublasDiagType_t diagonal = unit ? CUBLAS_DIAG_UNIT : CUBLAS_DIAG_NON_UNIT;
  if (together(b.count, n))
    return trsmBatched<T>(handle, CUBLAS_SIDE_LEFT, triangle(upper), operation(transposed), diagonal, int(n), int(k), &one, a.each, int(n),
                          b.each, int(n), int(b.count));
  for (int64_t i = 0; i < b.count; ++i)
    trsm<T>(handle, CUBLAS_SIDE_LEFT, triangle(upper), operation(transposed), diagonal, int(n), int(k), &one, a.first + i * a.size, int(n),
            b.first + i * b.size, int(n));
}

template <class T> void qr(int64_t m, int64_t n, int64_t k, int64_t count, T* a, T* q, int32_t* info) {
  const Solver handle;
  const int64_t reflectors = std::min(m, n);
  const Memory<T> tau(reflectors);
  int size = 0, size_of_q = 0;
  geqrf_bufferSize<T>(handle, int(m), int(n), a, int(m), &size);
  if (q) orgqr_bufferSize<T>(handle, int(m), int(k), int(reflectors), q, int(m), tau, &size_of_q);
  size = std::max(size, size_of_q);
  const Memory<T> work(size);
  for (int64_t i = 0; i < count; ++i) {
    T* const matrix = a + i * m * n;
    geqrf<T>(handle, int(m), int(n), matrix, int(m), tau, work, size, info + i);
    if (!q) continue;
    T* const columns = q + i * m * k;
    cuda::check(cudaMemcpyAsync(columns, matrix, size_t(m * std::min(n, k)) * sizeof(T), cudaMemcpyDeviceToDevice, current_stream()), "qr");
    orgqr<T>(handle, int(m), int(k), int(reflectors), columns, int(m), tau, work, size, info + i);
  }
}

template <class T> void svd(int64_t m, int64_t n, bool full, int64_t count, T* a, T* u, T* s, T* vt, int32_t* info) {
  const Solver handle;
  const AnyOptions options;
  const auto job = static_cast<signed char>(!u ? 'N' : full ? 'A' : 'S');
  const int64_t u_columns = full ? m : n;
  size_t device_bytes = 0, host_bytes = 0;
  check(cusolverDnXgesvd_bufferSize(handle, options, job, job, m, n, real<T>, a, m, real<T>, s, real<T>, u, m, real<T>, vt, n, real<T>,
                                    &device_bytes, &host_bytes),
        "gesvd_bufferSize");
  const Memory<std::byte> work{int64_t(device_bytes)};
  std::vector<std::byte> host_work(host_bytes);
  for (int64_t i = 0; i < count; ++i)
    check(cusolverDnXgesvd(handle, options, job, job, m, n, real<T>, a + i * m * n, m, real<T>, s + i * n, real<T>,
                           u ? u + i * m * u_columns : nullptr, m, real<T>, u ? vt + i * n * n : nullptr, n, real<T>, work, device_bytes,
                           host_work.data(), host_bytes, info + i),
          "gesvd");
}

template <class T> void svd_of_small(int64_t m, int64_t n, bool vectors, int64_t count, T* a, T* u, T* s, T* v, int32_t* info) {
  const Solver handle;
  const JacobiOptions jacobi;
  const cusolverEigMode_t job = vectors ? CUSOLVER_EIG_MODE_VECTOR : CUSOLVER_EIG_MODE_NOVECTOR;
  const int64_t k = std::min(m, n), step = at_once(std::max(m, n));
  for (int64_t i = 0; i < count; i += step) {
    const int some = int(std::min(step, count - i));
    T *const matrix = a + i * m * n, *const left = u + i * m * m, *const right = v + i * n * n, *const values = s + i * k;
    int size = 0;
    gesvdjBatched_bufferSize<T>(handle, job, int(m), int(n), matrix, int(m), values, left, int(m), right, int(n), &size, jacobi, some);
    const Memory<T> work(size);
    gesvdjBatched<T>(handle, job, int(m), int(n), matrix, int(m), values, left, int(m), right, int(n), work, size, info + i, jacobi, some);
  }
}

template <class T> void eigh(bool upper, bool vectors, int64_t n, int64_t count, T* a, T* values, int32_t* info) {
  const Solver handle;
  const AnyOptions options;
  const cusolverEigMode_t job = vectors ? CUSOLVER_EIG_MODE_VECTOR : CUSOLVER_EIG_MODE_NOVECTOR;
  size_t device_bytes = 0, host_bytes = 0;
#if CUSOLVER_VERSION >= 11701
  if (count > 1) {
    const int64_t step = at_once(n);
    for (int64_t i = 0; i < count; i += step) {
      const int64_t some = std::min(step, count - i);
      T *const matrix = a + i * n * n, *const w = values + i * n;
      check(cusolverDnXsyevBatched_bufferSize(handle, options, job, triangle(upper), n, real<T>, matrix, n, real<T>, w, real<T>,
                                              &device_bytes, &host_bytes, some),
            "syevBatched_bufferSize");
      const Memory<std::byte> work{int64_t(device_bytes)};
      std::vector<std::byte> host_work(host_bytes);
      check(cusolverDnXsyevBatched(handle, options, job, triangle(upper), n, real<T>, matrix, n, real<T>, w, real<T>, work, device_bytes,
                                   host_work.data(), host_bytes, info + i, some),
            "syevBatched");
    }
    return;
  }
#endif
  check(cusolverDnXsyevd_bufferSize(handle, options, job, triangle(upper), n, real<T>, a, n, real<T>, values, real<T>, &device_bytes,
                                    &host_bytes),
        "syevd_bufferSize");
  const Memory<std::byte> work{int64_t(device_bytes)};
  std::vector<std::byte> host_work(host_bytes);
  for (int64_t i = 0; i < count; ++i)
    check(cusolverDnXsyevd(handle, options, job, triangle(upper), n, real<T>, a + i * n * n, n, real<T>, values + i * n, real<T>, work,
                           device_bytes, host_work.data(), host_bytes, info + i),
          "syevd");
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
