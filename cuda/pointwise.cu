// The functions of core/pointwise_ops.h and their slopes.
#include <retape/cuda/elementwise.h>

namespace retape::cuda {
namespace {

template <class F, class T>
__global__ void pointwise_values(uint32_t n, Offsets<3> offsets, compute_t<T> p, compute_t<T> q, const T* a, const T* b, T* y) {
  using C = compute_t<T>;
  for (int64_t i = thread_index(); i < n; i += thread_count()) {
    int64_t at[3];
    offsets.at(uint32_t(i), at);
    *moved(y, at[2]) = T(F::value(C(*moved(a, at[0])), C(*moved(b, at[1])), p, q));
  }
}
template <class F, class T>
__global__ void pointwise_slopes(uint32_t n, Offsets<4> offsets, compute_t<T> p, compute_t<T> q, const T* dy, const T* a, const T* b,
                                 T* da) {
  using C = compute_t<T>;
  for (int64_t i = thread_index(); i < n; i += thread_count()) {
    int64_t at[4];
    offsets.at(uint32_t(i), at);
    *moved(da, at[3]) = T(C(*moved(dy, at[0])) * F::slope(C(*moved(a, at[1])), C(*moved(b, at[2])), p, q));
  }
}

template <class T> struct Pair {
  void (*value)(uint32_t n, Offsets<3> offsets, compute_t<T> p, compute_t<T> q, const T* a, const T* b, T* y);
  void (*slope)(uint32_t n, Offsets<4> offsets, compute_t<T> p, compute_t<T> q, const T* dy, const T* a, const T* b, T* da);
};
template <class T> Pair<T> kernels_of(PointwiseKind op) {
  switch (op) {
#define RETAPE_X(name, F) \
  case PointwiseKind::name: return {pointwise_values<functor::F, T>, pointwise_slopes<functor::F, T>};
    RETAPE_POINTWISE_OPS(RETAPE_X)
#undef RETAPE_X
  }
  return {};
}
template <class T> T* start(char* base) { return reinterpret_cast<T*>(base); }

}  // namespace

void pointwise(PointwiseKind op, double p, double q, const Tensor& a, const Tensor& b, Tensor& y) {
  if (y.numel() == 0) return;
  with_floating("pointwise", y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    for (const Tensor* t : {&a, &b, static_cast<const Tensor*>(&y)}) data_bytes(*t);  // a captured graph keeps them
    in_halves(make_loops<3>(y.shape(), {&a, &b, &y}), [&](const Loops<3>& part, uint32_t n) {
      launch(kernels_of<T>(op).value, blocks_for(n), 256, 0, n, Offsets<3>(part), C(p), C(q), start<T>(part.base[0]),
             start<T>(part.base[1]), start<T>(part.base[2]));
    });
  });
}

void pointwise_backward(PointwiseKind op, double p, double q, const Tensor& dy, const Tensor& a, const Tensor& b, Tensor& da) {
  if (da.numel() == 0) return;
  with_floating("pointwise_backward", da.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    for (const Tensor* t : {&dy, &a, &b, static_cast<const Tensor*>(&da)}) data_bytes(*t);
    in_halves(make_loops<4>(da.shape(), {&dy, &a, &b, &da}), [&](const Loops<4>& part, uint32_t n) {
      launch(kernels_of<T>(op).slope, blocks_for(n), 256, 0, n, Offsets<4>(part), C(p), C(q), start<T>(part.base[0]),
             start<T>(part.base[1]), start<T>(part.base[2]), start<T>(part.base[3]));
    });
  });
}

}  // namespace retape::cuda
