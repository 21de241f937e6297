// Elementwise functions of one value, their fused backward, and the slope's slope; all from the list in unary_ops.h.
#include <retape/cuda/elementwise.h>

namespace retape::cuda {
namespace {

template <class F, class T> struct Value {
  __device__ T operator()(T x) const { return T(F::value(compute_t<T>(x))); }
};
template <class F, class T> struct Backward {
  __device__ T operator()(T dy, T kept) const { return T(compute_t<T>(dy) * slope_of<F>(compute_t<T>(kept))); }
};
template <class F, class T> struct Curve {
  __device__ T operator()(T dy, T kept) const {
    using C = compute_t<T>;
    return T(C(dy) * slope_of<F>(Dual<C>(C(kept), C(1))).d);
  }
};

template <class T> struct Kernels {
  Elementwise<T, T> value;
  Elementwise<T, T, T> backward, curve;
};
template <class T> Kernels<T> kernels_of(UnaryKind op) {
  switch (op) {
#define RETAPE_X(name, F, ...)                                                                                                    \
  case UnaryKind::name:                                                                                                           \
    return {Elementwise<T, T>::template of<Value<functor::F, T>>(), Elementwise<T, T, T>::template of<Backward<functor::F, T>>(), \
            Elementwise<T, T, T>::template of_any_strides<Curve<functor::F, T>>()};
    RETAPE_UNARY_OPS(RETAPE_X)
#undef RETAPE_X
  }
  return {};
}

}  // namespace

void unary(UnaryKind op, const Tensor& x, Tensor& y) {
  with_floating("unary", x.dtype(), [&](auto zero) { kernels_of<decltype(zero)>(op).value(y, x); });
}

void unary_backward(UnaryKind op, const Tensor& dy, const Tensor& kept, Tensor& dx) {
  with_floating("unary_backward", kept.dtype(), [&](auto zero) { kernels_of<decltype(zero)>(op).backward(dx, dy, kept); });
}

void unary_curve(UnaryKind op, const Tensor& dy, const Tensor& kept, Tensor& out) {
  with_floating("unary_curve", kept.dtype(), [&](auto zero) { kernels_of<decltype(zero)>(op).curve(out, dy, kept); });
}

}  // namespace retape::cuda
