// Elementwise functions of two values, comparisons, and where. bool is computed as the bytes 0 and 1.
#include <retape/cuda/elementwise.h>

namespace retape::cuda {
namespace {

template <class F, class T, class Out> struct Apply {
  __device__ Out operator()(T a, T b) const { return Out(F::value(compute_t<T>(a), compute_t<T>(b))); }
};
template <class T> using Binary = Elementwise<T, T, T>;
template <class T> using Compare = Elementwise<bool, T, T>;

template <class T> Binary<T> kernels_of(BinaryKind op) {
  switch (op) {
#define RETAPE_X(name, F) \
  case BinaryKind::name: return Binary<T>::template of<Apply<functor::F, T, T>>();
    RETAPE_ARITHMETIC_OPS(RETAPE_X)
    default: break;
  }
  if constexpr (std::is_floating_point_v<compute_t<T>>) {
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
  retape::detail::unsupported_dtype("binary", dtype_of<T>);
}
template <class T> Compare<T> kernels_of(CompareKind op) {
  switch (op) {
#define RETAPE_X(name, F) \
  case CompareKind::name: return Compare<T>::template of<Apply<functor::F, T, bool>>();
    RETAPE_COMPARE_OPS(RETAPE_X)
#undef RETAPE_X
  }
  return {};
}
// Calls f(T{}) with the type in which a dtype's elements are read.
template <class F> void with_arithmetic(DType d, const F& f) {
  switch (d) {
    case DType::f64: return f(double{});
    case DType::f32: return f(float{});
    case DType::f16: return f(f16{});
    case DType::bf16: return f(bf16{});
    case DType::i64: return f(int64_t{});
    case DType::i32: return f(int32_t{});
    case DType::u8:
    case DType::boolean: return f(uint8_t{});
  }
}

struct Choose {
  template <class T> __device__ T operator()(uint8_t condition, T a, T b) const { return condition ? a : b; }
};
template <class T> void where_by_size(const Tensor& condition, const Tensor& a, const Tensor& b, Tensor& y) {
  Elementwise<T, uint8_t, T, T>::template of<Choose>()(y, condition, a, b);
}

}  // namespace

void binary(BinaryKind op, const Tensor& a, const Tensor& b, Tensor& y) {
  with_arithmetic(y.dtype(), [&](auto zero) { kernels_of<decltype(zero)>(op)(y, a, b); });
}

void compare(CompareKind op, const Tensor& a, const Tensor& b, Tensor& y) {
  with_arithmetic(a.dtype(), [&](auto zero) { kernels_of<decltype(zero)>(op)(y, a, b); });
}

void where(const Tensor& condition, const Tensor& a, const Tensor& b, Tensor& y) {
  switch (size_of(y.dtype())) {
    case 1: return where_by_size<uint8_t>(condition, a, b, y);
    case 2: return where_by_size<uint16_t>(condition, a, b, y);
    case 4: return where_by_size<uint32_t>(condition, a, b, y);
    default: return where_by_size<uint64_t>(condition, a, b, y);
  }
}

void accumulate(const Tensor& x, Tensor& y) { binary(BinaryKind::add, y, x, y); }

}  // namespace retape::cuda
