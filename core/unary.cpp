// Elementwise functions of one value, their fused backward, and the slope's slope; all from the list in unary_ops.h.
#include <retape/core/elementwise.h>

namespace retape::RETAPE_LEVEL {
namespace {

template <class F, class C> void value_row(const C* x, C* y, int64_t n) {
  row1(x, y, n, [](C v) { return F::value(v); });
}
template <class F, class C> void backward_row(const C* dy, const C* kept, C* dx, int64_t n, Shared shared) {
  row2(dy, kept, dx, n, shared, [](C d, C k) { return d * slope_of<F>(k); });
}
template <class F, class C> void curve_row(const C* dy, const C* kept, C* out, int64_t n, Shared shared) {
  row2(dy, kept, out, n, shared, [](C d, C k) { return d * slope_of<F>(Dual<C>(k, C(1))).d; });
}

template <class C> struct Rows {
  Row1<C, C> value;
  Row2<C, C> backward, curve;
};
template <class C> RETAPE_INLINE Rows<C> rows_of(UnaryKind op) {
  switch (op) {
#define RETAPE_X(name, F, ...) \
  case UnaryKind::name: return {value_row<functor::F, C>, backward_row<functor::F, C>, curve_row<functor::F, C>};
    RETAPE_UNARY_OPS(RETAPE_X)
#undef RETAPE_X
  }
  return {};
}

}  // namespace

void unary(UnaryKind op, const Tensor& x, Tensor& y) {
  with_floating("unary", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const auto row = rows_of<compute_t<T>>(op).value;
    walk(make_loops(y.shape(), {&x, &y}), loop1<T>, &row);
  });
}

void unary_backward(UnaryKind op, const Tensor& dy, const Tensor& kept, Tensor& dx) {
  with_floating("unary_backward", kept.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const auto row = rows_of<compute_t<T>>(op).backward;
    walk(make_loops(dx.shape(), {&dy, &kept, &dx}), loop2<T>, &row);
  });
}

void unary_curve(UnaryKind op, const Tensor& dy, const Tensor& kept, Tensor& out) {
  with_floating("unary_curve", kept.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const auto row = rows_of<compute_t<T>>(op).curve;
    walk(make_loops(out.shape(), {&dy, &kept, &out}), loop2<T>, &row);
  });
}

}  // namespace retape::RETAPE_LEVEL
