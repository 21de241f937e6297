// Running sums, products, extremes and log-sum-exps along one dim; scan.h runs them. float adds up in double.
#include <retape/cuda/scan.h>

namespace retape::cuda {
namespace {

// Called, since they are long.
__device__ __attribute__((noinline)) double log_add_exp(double a, double b) { return functor::Logaddexp::value(a, b); }
__device__ __attribute__((noinline)) double exponential(double x) { return ::exp(x); }

template <class T> using sum_t = std::conditional_t<std::is_floating_point_v<compute_t<T>>, double, compute_t<T>>;

template <class T> struct Running {
  using State = sum_t<T>;
  ScanKind op;
  const void* x;
  void* y;
  __device__ __forceinline__ State load(int64_t line, int64_t place, int64_t) const {
    return State(compute_t<T>(static_cast<const T*>(x)[line + place]));
  }
  __device__ __forceinline__ State join(State before, State next) const {
    switch (op) {
      case ScanKind::sum: return functor::Add::value(before, next);
      case ScanKind::prod: return functor::Mul::value(before, next);
      case ScanKind::logsumexp:
        if constexpr (std::is_floating_point_v<State>) return log_add_exp(before, next);
    }
    return next;
  }
  __device__ __forceinline__ void store(int64_t line, int64_t place, State s) const {
    static_cast<T*>(y)[line + place] = T(compute_t<T>(s));
  }
};

// Where the extreme so far is: the last of equals, the last nan if there is one.
template <class T> struct Extreme {
  struct State {
    compute_t<T> value;
    int64_t at;
  };
  bool largest;
  const void* x;
  int64_t* index;
  __device__ __forceinline__ State load(int64_t line, int64_t place, int64_t i) const {
    return {compute_t<T>(static_cast<const T*>(x)[line + place]), i};
  }
  __device__ __forceinline__ State join(State before, State next) const {
    const auto b = before.value, v = next.value;
    return v != v || (b == b && (largest ? v >= b : v <= b)) ? next : before;
  }
  __device__ __forceinline__ void store(int64_t line, int64_t place, State s) const { index[line + place] = s.at; }
};

// dx_k = sum over i >= k of dy_i e^(x_k - y_i), scanned from the end on. No term overflows, since y_i >= x_k: from one element to the one
// in front of it, the sum shrinks by e^(y_k - y_(k+1)).
template <class T> struct Shrinking {
  struct State {
    double sum, y;  // of dy_i e^(y - y_i), with the foremost y
  };
  const void *dy, *x, *y;
  void* dx;
  __device__ __forceinline__ State load(int64_t line, int64_t place, int64_t) const {
    return {double(compute_t<T>(static_cast<const T*>(dy)[line + place])), double(compute_t<T>(static_cast<const T*>(y)[line + place]))};
  }
  __device__ __forceinline__ State join(State before, State next) const {
    const double factor = next.y == before.y ? 1.0 : exponential(next.y - before.y);
    return {(before.sum == 0 ? 0 : before.sum * factor) + next.sum, next.y};
  }
  __device__ __forceinline__ void store(int64_t line, int64_t place, State s) const {
    const double weight = double(compute_t<T>(static_cast<const T*>(x)[line + place])) - s.y;
    const double d = weight == weight ? s.sum * exponential(weight) : s.y == -__builtin_inf() ? 0.0 : weight;
    static_cast<T*>(dx)[line + place] = T(compute_t<T>(d));
  }
};

}  // namespace

void scan(ScanKind op, const Tensor& x, int dim, bool reverse, Tensor& y) {
  const Lines lines(x.shape(), dim, reverse);
  if (op == ScanKind::logsumexp && !is_floating(x.dtype())) retape::detail::unsupported_dtype("scan", x.dtype());
  with_any(x.dtype(), [&](auto zero) {
    using T = std::conditional_t<std::is_same_v<decltype(zero), bool>, uint8_t, decltype(zero)>;
    run(Running<T>{op, data<T>(x), data<T>(y)}, lines);
  });
}

void scan_arg(ArgKind op, const Tensor& x, int dim, Tensor& index) {
  const Lines lines(x.shape(), dim, false);
  with_any(x.dtype(), [&](auto zero) {
    using T = std::conditional_t<std::is_same_v<decltype(zero), bool>, uint8_t, decltype(zero)>;
    run(Extreme<T>{op == ArgKind::max, data<T>(x), data<int64_t>(index)}, lines);
  });
}

void logcumsumexp_backward(const Tensor& dy, const Tensor& x, const Tensor& y, int dim, Tensor& dx) {
  const Lines lines(x.shape(), dim, true);
  with_floating("logcumsumexp_backward", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    run(Shrinking<T>{data<T>(dy), data<T>(x), data<T>(y), data<T>(dx)}, lines);
  });
}

}  // namespace retape::cuda
