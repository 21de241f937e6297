// Copies between any strides and dtypes, and constants.
#include <retape/cuda/elementwise.h>

namespace retape::cuda {
namespace {

template <class To, class From> RETAPE_HD To convert(From x) {
  const auto v = compute_t<From>(x);
  if constexpr (std::is_same_v<To, bool>) return v != compute_t<From>(0);
  else return To(static_cast<compute_t<To>>(v));
}
struct Move {
  template <class T> __device__ T operator()(T x) const { return x; }
};
template <class To> struct Convert {
  template <class From> __device__ To operator()(From x) const { return convert<To>(x); }
};
template <class T> void move_by_size(const Tensor& x, Tensor& y) { Elementwise<T, T>::template of<Move>()(y, x); }

template <class T> __global__ void fill_flat(T value, int64_t n, T* y) {
  for (int64_t i = thread_index(); i < n; i += thread_count()) y[i] = value;
}
template <class T> __global__ void fill_strided(T value, uint32_t n, Offsets<1> offsets, T* y) {
  for (int64_t i = thread_index(); i < n; i += thread_count()) {
    int64_t at[1];
    offsets.at(uint32_t(i), at);
    *moved(y, at[0]) = value;
  }
}
template <class T> __global__ void arange_kernel(double start, double step, int64_t n, T* y) {
  for (int64_t i = thread_index(); i < n; i += thread_count()) y[i] = convert<T>(start + double(i) * step);
}

}  // namespace

void copy(const Tensor& x, Tensor& y) {
  if (x.dtype() == y.dtype()) {
    switch (size_of(x.dtype())) {
      case 1: return move_by_size<uint8_t>(x, y);
      case 2: return move_by_size<uint16_t>(x, y);
      case 4: return move_by_size<uint32_t>(x, y);
      default: return move_by_size<uint64_t>(x, y);
    }
  }
  with_any(x.dtype(), [&](auto from) {
    with_any(y.dtype(), [&](auto to) {
      using From = decltype(from);
      using To = decltype(to);
      if constexpr (std::is_floating_point_v<compute_t<From>> && std::is_floating_point_v<compute_t<To>>)
        Elementwise<To, From>::template of<Convert<To>>()(y, x);
      else Elementwise<To, From>::template of_any_strides<Convert<To>>()(y, x);
    });
  });
}

void fill(double value, Tensor& y) {
  const int64_t n = y.numel();
  if (n == 0) return;
  with_any(y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T v = convert<T>(value);
    if (y.is_contiguous()) launch(fill_flat<T>, blocks_for(n), 256, 0, v, n, data<T>(y));
    else
      in_halves(make_loops<1>(y.shape(), {&y}), [&](const Loops<1>& loops, uint32_t count) {
        launch(fill_strided<T>, blocks_for(count), 256, 0, v, count, Offsets<1>(loops), reinterpret_cast<T*>(loops.base[0]));
      });
  });
}

void arange(double start, double step, Tensor& y) {
  const int64_t n = y.numel();
  with_any(y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    launch(arange_kernel<T>, blocks_for(n), 256, 0, start, step, n, data<T>(y));
  });
}

}  // namespace retape::cuda
