// The functions of core/pointwise_ops.h and their slopes. Each is compiled as a plain loop over floats or doubles; blocks bring strided and half
// operands into that form.
#include <retape/core/elementwise.h>

namespace retape::RETAPE_LEVEL {
namespace {

template <class C> struct Numbers { C p, q; };
template <class C, int N> struct Row {
  void (*run)(const C* const* x, C* y, int64_t n, Numbers<C> numbers);
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
template <class C> RETAPE_INLINE Row<C, 2> value_of(PointwiseKind op, double p, double q) {
  const Numbers<C> numbers{C(p), C(q)};
  switch (op) {
#define RETAPE_X(name, F) \
  case PointwiseKind::name: return {value_row<functor::F, C>, numbers};
    RETAPE_POINTWISE_OPS(RETAPE_X)
#undef RETAPE_X
  }
  return {};
}
template <class C> RETAPE_INLINE Row<C, 3> slope_of_kind(PointwiseKind op, double p, double q) {
  const Numbers<C> numbers{C(p), C(q)};
  switch (op) {
#define RETAPE_X(name, F) \
  case PointwiseKind::name: return {slope_row<functor::F, C>, numbers};
    RETAPE_POINTWISE_OPS(RETAPE_X)
#undef RETAPE_X
  }
  return {};
}

// `argument` points to a Row<compute_t<T>, N>. An operand that lies elsewhere than in a row of C, or is one value, is copied to a block.
template <class T, int N> void loop(char* const* p, const int64_t* stride, int64_t n, const void* argument) {
  using C = compute_t<T>;
  const auto& row = *static_cast<const Row<C, N>*>(argument);
  const C* x[N];
  bool direct = std::is_same_v<T, C>;
  for (int k = 0; k <= N; ++k) direct = direct && stride[k] == int64_t(sizeof(T));
  if (direct) {
    for (int k = 0; k < N; ++k) x[k] = reinterpret_cast<const C*>(p[k]);
    row.run(x, reinterpret_cast<C*>(p[N]), n, row.numbers);
    return;
  }
  C in[N][block_size], out[block_size];
  for (int k = 0; k < N; ++k) x[k] = in[k];
  for (int64_t i = 0; i < n; i += block_size) {
    const int64_t m = min_of(block_size, n - i);
    for (int k = 0; k < N; ++k) load_block<T>(p[k] + i * stride[k], stride[k], m, in[k]);
    row.run(x, out, m, row.numbers);
    store_block<T>(out, m, p[N] + i * stride[N], stride[N]);
  }
}

}  // namespace

void pointwise(PointwiseKind op, double p, double q, const Tensor& a, const Tensor& b, Tensor& y) {
  with_floating("pointwise", y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const auto row = value_of<compute_t<T>>(op, p, q);
    walk(make_loops(y.shape(), {&a, &b, &y}), loop<T, 2>, &row);
  });
}

void pointwise_backward(PointwiseKind op, double p, double q, const Tensor& dy, const Tensor& a, const Tensor& b, Tensor& da) {
  with_floating("pointwise_backward", da.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const auto row = slope_of_kind<compute_t<T>>(op, p, q);
    walk(make_loops(da.shape(), {&dy, &a, &b, &da}), loop<T, 3>, &row);
  });
}

}  // namespace retape::RETAPE_LEVEL
