// Tables are computed in double. The cache keeps a few plans that nobody uses, the most recent ones.
#include <retape/core/runtime/fft_plan.h>

#include <cmath>
#include <list>
#include <memory>
#include <mutex>
#include <vector>

#include <retape/core/error.h>

namespace retape::fft_plan {
namespace {

constexpr size_t kept = 32;
constexpr double pi = 3.14159265358979323846;

template <class T> struct Entry {
  Plan<T> plan{};
  int users = 0;
  std::vector<T> twiddles, circle, chirp, filter;
};
template <class T> struct Cache {
  std::mutex mutex;
  std::list<std::unique_ptr<Entry<T>>> entries;  // the most recently used first
};
// Never destroyed: threads may still transform while static objects end.
template <class T> Cache<T>& cache() {
  static auto& c = *new Cache<T>;
  return c;
}

// exp(-2 pi i k / n) of 0 <= k < n, from an angle of at most pi / 4.
template <class T> void unit(int64_t k, int64_t n, T& re, T& im) {
  const int64_t octant = 8 * k / n, quarter = (octant + 1) / 2;  // the nearest multiple of pi / 2
  const double angle = 2 * pi * (double(4 * k - quarter * n) / (4 * double(n))), c = std::cos(angle), s = std::sin(angle);
  const double re_of[] = {c, -s, -c, s, c}, im_of[] = {s, c, -s, -c, s};
  re = T(re_of[quarter]), im = T(-im_of[quarter]);
}

bool factorize(int64_t n, std::vector<int64_t>& radices) {
  radices.clear();
  for (int64_t radix : {4, 2, 3, 5, 7})
    for (; n % radix == 0; n /= radix) radices.push_back(radix);
  return n == 1;
}

template <class T> void make_passes(Entry<T>& e, const std::vector<int64_t>& radices) {
  int64_t left = e.plan.n;
  for (int64_t radix : radices) {
    const int64_t m = left / radix;
    e.plan.pass[e.plan.passes++] = {radix, m, int64_t(e.twiddles.size())};
    for (int64_t j = 1; j < radix; ++j) {
      const size_t at = e.twiddles.size();
      e.twiddles.resize(at + 2 * size_t(m));
      for (int64_t p = 0; p < m; ++p) unit(j * p, left, e.twiddles[at + size_t(p)], e.twiddles[at + size_t(m + p)]);
    }
    left = m;
  }
  e.plan.twiddles = e.twiddles.data();
}

template <class T> std::unique_ptr<Entry<T>> make(int64_t n, void (*transform)(const Plan<T>&, T*, T*)) {
  auto e = std::make_unique<Entry<T>>();
  e->plan.n = n;
  e->circle.resize(2 * size_t(n + 1));
  for (int64_t k = 0; k <= n; ++k) unit(k, 2 * n, e->circle[size_t(k)], e->circle[size_t(n + 1 + k)]);
  e->plan.circle = e->circle.data();
  std::vector<int64_t> radices;
  if (factorize(n, radices)) {
    make_passes(*e, radices);
    return e;
  }
  // y[k] = w[k] sum over t of (x[t] w[t]) / w[k - t] with w[k] = exp(-pi i k^2 / n): a convolution of any size from 2 n - 1 on.
  int64_t size = 2 * n - 1;
  while (!factorize(size, radices)) ++size;
  e->chirp.resize(2 * size_t(n));
  e->filter.assign(2 * size_t(size), T(0));
  for (int64_t k = 0, square = 0; k < n; square = (square + 2 * k + 1) % (2 * n), ++k) {
    T &re = e->chirp[size_t(k)], &im = e->chirp[size_t(n + k)];
    unit(square, 2 * n, re, im);
    for (int64_t at : {k, (size - k) % size}) e->filter[size_t(at)] = re, e->filter[size_t(size + at)] = -im;
  }
  e->plan.convolution = acquire(size, transform);  // held as long as this plan
  transform(*e->plan.convolution, e->filter.data(), e->filter.data() + size);
  for (T& v : e->filter) v /= T(size);  // so that no pass has to
  e->plan.chirp = e->chirp.data(), e->plan.filter = e->filter.data();
  return e;
}

}  // namespace

template <class T> const Plan<T>* acquire(int64_t n, void (*transform)(const Plan<T>&, T*, T*)) {
  Cache<T>& c = cache<T>();
  const auto find = [&]() -> const Plan<T>* {
    for (auto it = c.entries.begin(); it != c.entries.end(); ++it)
      if ((*it)->plan.n == n) {
        c.entries.splice(c.entries.begin(), c.entries, it);
        ++c.entries.front()->users;
        return &c.entries.front()->plan;
      }
    return nullptr;
  };
  {
    const std::lock_guard lock(c.mutex);
    if (const Plan<T>* found = find()) return found;
  }
  auto made = make(n, transform);  // without the lock: two threads may make the same plan, and one of them is dropped
  const Plan<T>* extra = nullptr;
  const Plan<T>* result = nullptr;
  {
    const std::lock_guard lock(c.mutex);
    if (const Plan<T>* found = find()) {
      extra = made->plan.convolution;
      result = found;
    } else {
      made->users = 1;
      c.entries.push_front(std::move(made));
      result = &c.entries.front()->plan;
    }
  }
  if (extra) release(extra);
  return result;
}

template <class T> void release(const Plan<T>* plan) {
  Cache<T>& c = cache<T>();
  std::vector<const Plan<T>*> held;  // by plans that go
  {
    const std::lock_guard lock(c.mutex);
    size_t idle = 0;
    for (auto it = c.entries.begin(); it != c.entries.end();) {
      Entry<T>& e = **it;
      if (&e.plan == plan) --e.users;
      if (e.users == 0 && ++idle > kept) {
        if (e.plan.convolution) held.push_back(e.plan.convolution);
        it = c.entries.erase(it);
      } else {
        ++it;
      }
    }
  }
  for (const Plan<T>* p : held) release(p);
}

template const Plan<float>* acquire(int64_t, void (*)(const Plan<float>&, float*, float*));
template const Plan<double>* acquire(int64_t, void (*)(const Plan<double>&, double*, double*));
template void release(const Plan<float>*);
template void release(const Plan<double>*);

}  // namespace retape::fft_plan
