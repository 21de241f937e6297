// The functions of core/pointwise_ops.h and their slopes. Each is compiled as a plain loop over floats or doubles; blocks bring strided and half
// operands into that form.
#include <retape/core/elementwise.h>

namespace retape::RETAPE_LEVEL {
namespace {

template <class C> struct Numbers { C p, q; };
template <class C> struct Row {
  void (*run)(const C* const* x, C* y, int64_t n, Numbers<C> numbers);
  int operands;
  Numbers<C> numbers;
};

template <class F, class C> void value_row(const C* const* x, C* y, int64_t n, Numbers<C> k) {
  const C *a = x[0], *b = x[1];
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] = F::value(a[i], b[i], k.p, k.q);
}
template <class F, class C> void slope_row(const C* const* x, C* y, int64_t n, Numbers<C> k) {
  const C *dy = x[0], *a = x[1], *b = x[2];
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] = dy[i] * F::slope(a[i], b[i], k.p, k.q);
}
template <class C> struct Rows { decltype(Row<C>::run) value, slope; };
template <class C> RETAPE_INLINE Rows<C> rows_of(PointwiseKind op) {
  switch (op) {
#define RETAPE_X(name, F) \
  case PointwiseKind::name: return {value_row<functor::F, C>, slope_row<functor::F, C>};
    RETAPE_POINTWISE_OPS(RETAPE_X)
#undef RETAPE_X
  }
  return {};
}

template <class T, class C> [[gnu::noinline]] void bring(const char* p, int64_t stride, int64_t n, C* to) {
  load_block<T>(p, stride, n, to);
}
template <class T, class C> [[gnu::noinline]] void take_away(const C* from, int64_t n, char* p, int64_t stride) {
  store_block<T>(from, n, p, stride);
}
// `argument` points to a Row<compute_t<T>>. An operand that lies elsewhere than in a row of C is copied to a block, one value once for all.
template <class T> void loop(char* const* p, const int64_t* stride, int64_t n, const void* argument) {
  using C = compute_t<T>;
  const auto& row = *static_cast<const Row<C>*>(argument);
  const auto is_row = [&](int k) { return std::is_same_v<T, C> && stride[k] == int64_t(sizeof(T)); };
  const int last = row.operands;
  C in[3][block_size], out[block_size];
  const C* x[3];
  for (int k = 0; k < last; ++k) {
    x[k] = in[k];
    if (stride[k] == 0) bring<T>(p[k], 0, min_of(block_size, n), in[k]);
  }
  for (int64_t i = 0; i < n; i += block_size) {
    const int64_t m = min_of(block_size, n - i);
    for (int k = 0; k < last; ++k) {
      if (is_row(k)) x[k] = reinterpret_cast<const C*>(p[k]) + i;
      else if (stride[k] != 0) bring<T>(p[k] + i * stride[k], stride[k], m, in[k]);
    }
    if (is_row(last)) {
      row.run(x, reinterpret_cast<C*>(p[last]) + i, m, row.numbers);
    } else {
      row.run(x, out, m, row.numbers);
      take_away<T>(out, m, p[last] + i * stride[last], stride[last]);
    }
  }
}

}  // namespace

void pointwise(PointwiseKind op, double p, double q, const Tensor& a, const Tensor& b, Tensor& y) {
  with_floating("pointwise", y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    const Row<C> row{rows_of<C>(op).value, 2, {C(p), C(q)}};
    walk(make_loops(y.shape(), {&a, &b, &y}), loop<T>, &row);
  });
}

void pointwise_backward(PointwiseKind op, double p, double q, const Tensor& dy, const Tensor& a, const Tensor& b, Tensor& da) {
  with_floating("pointwise_backward", da.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    const Row<C> row{rows_of<C>(op).slope, 3, {C(p), C(q)}};
    walk(make_loops(da.shape(), {&dy, &a, &b, &da}), loop<T>, &row);
  });
}

}  // namespace retape::RETAPE_LEVEL
