// Elementwise functions of two values, comparisons, and where. bool is computed as the bytes 0 and 1.
#include <retape/core/elementwise.h>

namespace retape::RETAPE_LEVEL {
namespace {

template <class F, class C> void value_row(const C* a, const C* b, C* y, int64_t n, Shared shared) {
  row2(a, b, y, n, shared, [](C p, C q) { return F::value(p, q); });
}
template <class F, class C> void compare_row(const C* a, const C* b, bool* y, int64_t n, Shared shared) {
  row2(a, b, y, n, shared, [](C p, C q) { return F::value(p, q); });
}
template <class C> RETAPE_INLINE Row2<C, C> row_of(BinaryKind op) {
  switch (op) {
#define RETAPE_X(name, F) \
  case BinaryKind::name: return value_row<functor::F, C>;
    RETAPE_ARITHMETIC_OPS(RETAPE_X)
    default: break;
  }
  if constexpr (std::is_floating_point_v<C>) {
    switch (op) {
      RETAPE_FLOATING_OPS(RETAPE_X)
      default: break;
    }
  } else {
    switch (op) {
      RETAPE_BIT_OPS(RETAPE_X)
      default: break;
    }
  }
#undef RETAPE_X
  detail::unsupported_dtype("binary", dtype_of<C>);
}
template <class C> RETAPE_INLINE Row2<C, bool> row_of(CompareKind op) {
  switch (op) {
#define RETAPE_X(name, F) \
  case CompareKind::name: return compare_row<functor::F, C>;
    RETAPE_COMPARE_OPS(RETAPE_X)
#undef RETAPE_X
  }
  return nullptr;
}
template <class T> void where_loop(char* const* p, const int64_t* stride, int64_t n, const void*) {
  const T *a = reinterpret_cast<const T*>(p[1]), *b = reinterpret_cast<const T*>(p[2]);
  const auto* c = reinterpret_cast<const uint8_t*>(p[0]);
  T* y = reinterpret_cast<T*>(p[3]);
  constexpr int64_t one = sizeof(T);
  if (stride[0] == 1 && stride[3] == one) {
    if (stride[1] == one && stride[2] == one) {
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) y[i] = c[i] ? a[i] : b[i];
      return;
    }
    if (stride[1] == 0 && stride[2] == one) {
      const T v = *a;
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) y[i] = c[i] ? v : b[i];
      return;
    }
    if (stride[1] == one && stride[2] == 0) {
      const T v = *b;
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) y[i] = c[i] ? a[i] : v;
      return;
    }
  }
  for (int64_t i = 0; i < n; ++i)
    *reinterpret_cast<T*>(p[3] + i * stride[3]) = *reinterpret_cast<const uint8_t*>(p[0] + i * stride[0])
                                                      ? *reinterpret_cast<const T*>(p[1] + i * stride[1])
                                                      : *reinterpret_cast<const T*>(p[2] + i * stride[2]);
}

template <class T> struct Type { using type = T; };
template <class F> RETAPE_INLINE void with_arithmetic(DType d, const F& f) {
  switch (d) {
    case DType::f64: return f(Type<double>{});
    case DType::f32: return f(Type<float>{});
    case DType::f16: return f(Type<f16>{});
    case DType::bf16: return f(Type<bf16>{});
    case DType::i64: return f(Type<int64_t>{});
    case DType::i32: return f(Type<int32_t>{});
    case DType::u8:
    case DType::boolean: return f(Type<uint8_t>{});
  }
}

}  // namespace

void binary(BinaryKind op, const Tensor& a, const Tensor& b, Tensor& y) {
  with_arithmetic(y.dtype(), [&](auto type) {
    using T = typename decltype(type)::type;
    const auto row = row_of<compute_t<T>>(op);
    walk(make_loops(y.shape(), {&a, &b, &y}), loop2<T>, &row);
  });
}

void compare(CompareKind op, const Tensor& a, const Tensor& b, Tensor& y) {
  with_arithmetic(a.dtype(), [&](auto type) {
    using T = typename decltype(type)::type;
    const auto row = row_of<compute_t<T>>(op);
    walk(make_loops(y.shape(), {&a, &b, &y}), loop2<T, bool>, &row);
  });
}

void where(const Tensor& condition, const Tensor& a, const Tensor& b, Tensor& y) {
  InnerLoop loop = nullptr;
  switch (size_of(y.dtype())) {
    case 1: loop = where_loop<uint8_t>; break;
    case 2: loop = where_loop<uint16_t>; break;
    case 4: loop = where_loop<uint32_t>; break;
    default: loop = where_loop<uint64_t>; break;
  }
  walk(make_loops(y.shape(), {&condition, &a, &b, &y}), loop);
}

void accumulate(const Tensor& x, Tensor& y) { binary(BinaryKind::add, y, x, y); }

}  // namespace retape::RETAPE_LEVEL
