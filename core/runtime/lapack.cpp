#include <retape/core/runtime/lapack.h>

#include <dlfcn.h>
#include <lapacke.h>

#include <algorithm>
#include <mutex>
#include <vector>

namespace retape::lapack {
namespace {

static_assert(sizeof(lapack_int) == sizeof(int32_t), "Retape needs a LAPACK with 32-bit integers");

struct Threads {
  std::mutex mutex;
  int guards = 0, before = 0;
  int (*get)() = reinterpret_cast<int (*)()>(dlsym(RTLD_DEFAULT, "openblas_get_num_threads"));
  void (*set)(int) = reinterpret_cast<void (*)(int)>(dlsym(RTLD_DEFAULT, "openblas_set_num_threads"));
};
Threads& threads() {
  static auto& t = *new Threads;
  return t;
}

constexpr int column_major = LAPACK_COL_MAJOR;

// The float and the double function of one name.
#define RETAPE_LAPACK(name)                                                                    \
  template <class T, class... A> lapack_int name(A... a) {                                     \
    if constexpr (std::is_same_v<T, float>) return LAPACKE_s##name##_work(column_major, a...); \
    else return LAPACKE_d##name##_work(column_major, a...);                                    \
  }
RETAPE_LAPACK(potrf)
RETAPE_LAPACK(getrf)
RETAPE_LAPACK(getrs)
RETAPE_LAPACK(trtrs)
RETAPE_LAPACK(geqrf)
RETAPE_LAPACK(orgqr)
RETAPE_LAPACK(gesdd)
RETAPE_LAPACK(syevd)
#undef RETAPE_LAPACK

lapack_int i32(int64_t n) { return lapack_int(n); }

// Calls f(work, size) twice: to ask for the size of its memory, and with that memory.
template <class T, class F> lapack_int with_work(const F& f) {
  T size = 0;
  if (const lapack_int info = f(&size, -1)) return info;
  // What a float tells may be rounded down.
  std::vector<T> work(std::max<size_t>(1, size_t(double(size) * (1 + 1e-6)) + 1));
  return f(work.data(), i32(int64_t(work.size())));
}

}  // namespace

OneThread::OneThread() {
  Threads& t = threads();
  if (!t.get || !t.set) return;
  const std::lock_guard lock(t.mutex);
  if (t.guards++ == 0) {
    t.before = t.get();
    t.set(1);
  }
}
OneThread::~OneThread() {
  Threads& t = threads();
  if (!t.get || !t.set) return;
  const std::lock_guard lock(t.mutex);
  if (--t.guards == 0) t.set(t.before);
}

template <class T> int cholesky(bool upper, int64_t n, T* a) { return potrf<T>(upper ? 'U' : 'L', i32(n), a, i32(n)); }
template <class T> int lu_factor(int64_t m, int64_t n, T* a, int32_t* pivots) { return getrf<T>(i32(m), i32(n), a, i32(m), pivots); }
template <class T> int lu_solve(bool transposed, int64_t n, int64_t k, const T* lu, const int32_t* pivots, T* b) {
  return getrs<T>(transposed ? 'T' : 'N', i32(n), i32(k), lu, i32(n), pivots, b, i32(n));
}
template <class T> int solve_triangular(bool upper, bool transposed, bool unit, int64_t n, int64_t k, const T* a, T* b) {
  return trtrs<T>(upper ? 'U' : 'L', transposed ? 'T' : 'N', unit ? 'U' : 'N', i32(n), i32(k), a, i32(n), b, i32(n));
}
template <class T> int qr(int64_t m, int64_t n, int64_t k, T* a, T* q, T* r) {
  const int64_t reflectors = std::min(m, n);
  std::vector<T> tau(static_cast<size_t>(reflectors));
  if (const lapack_int info =
          with_work<T>([&](T* work, lapack_int size) { return geqrf<T>(i32(m), i32(n), a, i32(m), tau.data(), work, size); }))
    return info;
  for (int64_t j = 0; j < n; ++j)
    for (int64_t i = 0; i < k; ++i) r[j * k + i] = i <= j ? a[j * m + i] : T(0);
  if (!q) return 0;
  std::copy_n(a, m * std::min(n, k), q);
  return with_work<T>(
      [&](T* work, lapack_int size) { return orgqr<T>(i32(m), i32(k), i32(reflectors), q, i32(m), tau.data(), work, size); });
}
template <class T> int svd(int64_t m, int64_t n, bool full, T* a, T* u, T* s, T* vt) {
  const int64_t k = std::min(m, n);
  std::vector<lapack_int> more(size_t(8 * k));
  T nothing = 0;
  return with_work<T>([&](T* work, lapack_int size) {
    if (!u) return gesdd<T>('N', i32(m), i32(n), a, i32(m), s, &nothing, 1, &nothing, 1, work, size, more.data());
    return gesdd<T>(full ? 'A' : 'S', i32(m), i32(n), a, i32(m), s, u, i32(m), vt, i32(full ? n : k), work, size, more.data());
  });
}
template <class T> int eigh(bool upper, bool vectors, int64_t n, T* a, T* values) {
  T size = 0;
  lapack_int more_size = 0;
  const char job = vectors ? 'V' : 'N', triangle = upper ? 'U' : 'L';
  if (const lapack_int info = syevd<T>(job, triangle, i32(n), a, i32(n), values, &size, -1, &more_size, -1)) return info;
  std::vector<T> work(size_t(double(size) * (1 + 1e-6)) + 1);
  std::vector<lapack_int> more(static_cast<size_t>(std::max<lapack_int>(1, more_size)));
  return syevd<T>(job, triangle, i32(n), a, i32(n), values, work.data(), i32(int64_t(work.size())), more.data(), more_size);
}

#define RETAPE_INSTANTIATE(T)                                                      \
  template int cholesky(bool, int64_t, T*);                                        \
  template int lu_factor(int64_t, int64_t, T*, int32_t*);                          \
  template int lu_solve(bool, int64_t, int64_t, const T*, const int32_t*, T*);     \
  template int solve_triangular(bool, bool, bool, int64_t, int64_t, const T*, T*); \
  template int qr(int64_t, int64_t, int64_t, T*, T*, T*);                          \
  template int svd(int64_t, int64_t, bool, T*, T*, T*, T*);                        \
  template int eigh(bool, bool, int64_t, T*, T*);
RETAPE_INSTANTIATE(float)
RETAPE_INSTANTIATE(double)
#undef RETAPE_INSTANTIATE

}  // namespace retape::lapack
