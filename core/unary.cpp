// Elementwise functions of one value, their fused backward, and the slope's slope; all from the list in unary_ops.h.
#include <retape/core/elementwise.h>

namespace retape::RETAPE_LEVEL {
namespace {

template <class F, class T> void value_loop(char* const* p, const int64_t* stride, int64_t n, const void*) {
  map1<T, T>(p, stride, n, [](auto x) { return F::value(x); });
}
template <class F, class T> void backward_loop(char* const* p, const int64_t* stride, int64_t n, const void*) {
  map2<T, T>(p, stride, n, [](auto dy, auto kept) { return dy * slope_of<F>(kept); });
}
template <class F, class T> void curve_loop(char* const* p, const int64_t* stride, int64_t n, const void*) {
  map2<T, T>(p, stride, n, [](auto dy, auto kept) {
    using C = decltype(kept);
    return dy * slope_of<F>(Dual<C>(kept, C(1))).d;
  });
}

}  // namespace

void unary(UnaryKind op, const Tensor& x, Tensor& y) {
  InnerLoop loop = nullptr;
  with_floating("unary", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    switch (op) {
#define RETAPE_X(name, F, ...)        \
  case UnaryKind::name:               \
    loop = value_loop<functor::F, T>; \
    break;
      RETAPE_UNARY_OPS(RETAPE_X)
#undef RETAPE_X
    }
  });
  walk(make_loops(y.shape(), {&x, &y}), loop);
}

void unary_backward(UnaryKind op, const Tensor& dy, const Tensor& kept, Tensor& dx) {
  InnerLoop loop = nullptr;
  with_floating("unary_backward", kept.dtype(), [&](auto zero) {
    using T = decltype(zero);
    switch (op) {
#define RETAPE_X(name, F, ...)           \
  case UnaryKind::name:                  \
    loop = backward_loop<functor::F, T>; \
    break;
      RETAPE_UNARY_OPS(RETAPE_X)
#undef RETAPE_X
    }
  });
  walk(make_loops(dx.shape(), {&dy, &kept, &dx}), loop);
}

void unary_curve(UnaryKind op, const Tensor& dy, const Tensor& kept, Tensor& out) {
  InnerLoop loop = nullptr;
  with_floating("unary_curve", kept.dtype(), [&](auto zero) {
    using T = decltype(zero);
    switch (op) {
#define RETAPE_X(name, F, ...)        \
  case UnaryKind::name:               \
    loop = curve_loop<functor::F, T>; \
    break;
      RETAPE_UNARY_OPS(RETAPE_X)
#undef RETAPE_X
    }
  });
  walk(make_loops(out.shape(), {&dy, &kept, &out}), loop);
}

}  // namespace retape::RETAPE_LEVEL
