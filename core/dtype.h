// Element types. f16 and bf16 are storage formats: arithmetic on them happens in float.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include <retape/core/config.h>

namespace retape {

enum class DType : uint8_t { f64, f32, f16, bf16, i64, i32, u8, boolean };

namespace detail {
template <class To, class From> RETAPE_HD To bits(From x) {
  static_assert(sizeof(To) == sizeof(From));
  To y;
  __builtin_memcpy(&y, &x, sizeof y);
  return y;
}
}  // namespace detail

/// IEEE binary16. Conversion from float rounds to nearest even; overflow gives infinity.
struct f16 {
  uint16_t bits = 0;
  f16() = default;
  RETAPE_HD explicit f16(float x) {
#if defined(__CUDA_ARCH__)
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
#else
    const uint32_t u = detail::bits<uint32_t>(x), sign = u >> 16 & 0x8000u, magnitude = u & 0x7fffffffu;
    if (magnitude >= 0x47800000u) {  // 65536 and above, infinity, nan
      bits = uint16_t(sign | (magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u));
    } else if (magnitude < 0x38800000u) {  // below 2^-14: adding 0.5 lets the float unit round at the subnormal's last bit
      const float shifted = detail::bits<float>(magnitude) + 0.5f;
      bits = uint16_t(sign | (detail::bits<uint32_t>(shifted) - 0x3f000000u));
    } else {
      const uint32_t rounded = magnitude + 0xc8000fffu + (magnitude >> 13 & 1u);
      bits = uint16_t(sign | rounded >> 13);
    }
#endif
  }
  RETAPE_HD explicit operator float() const {
#if defined(__CUDA_ARCH__)
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
#else
    const uint32_t sign = uint32_t(bits & 0x8000u) << 16, magnitude = uint32_t(bits & 0x7fffu) << 13;
    // Scaling by 2^112 moves the exponent's bias from 15 to 127 and normalises subnormals in one multiplication.
    const float scaled = detail::bits<float>(magnitude) * 0x1p112f;
    const uint32_t special = magnitude >= 0x0f800000u ? 0x7f800000u : 0u;
    return detail::bits<float>(detail::bits<uint32_t>(scaled) | special | sign);
#endif
  }
};

/// bfloat16: the upper half of a float. Conversion rounds to nearest even.
struct bf16 {
  uint16_t bits = 0;
  bf16() = default;
  RETAPE_HD explicit bf16(float x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
#else
    const uint32_t u = detail::bits<uint32_t>(x);
    const uint32_t rounded = (u + 0x7fffu + (u >> 16 & 1u)) >> 16;
    bits = uint16_t((u & 0x7fffffffu) > 0x7f800000u ? (u >> 16 | 0x40u) : rounded);
#endif
  }
  RETAPE_HD explicit operator float() const { return detail::bits<float>(uint32_t(bits) << 16); }
};

/// The type in which elements of type T are computed: float for half types and float, double for double, else T itself.
template <class T> using compute_t = std::conditional_t<std::is_same_v<T, f16> || std::is_same_v<T, bf16>, float, T>;

constexpr size_t size_of(DType d) {
  switch (d) {
    case DType::f64:
    case DType::i64: return 8;
    case DType::f32:
    case DType::i32: return 4;
    case DType::f16:
    case DType::bf16: return 2;
    case DType::u8:
    case DType::boolean: return 1;
  }
  return 0;
}
constexpr bool is_floating(DType d) { return d <= DType::bf16; }
constexpr const char* name_of(DType d) {
  constexpr const char* names[] = {"f64", "f32", "f16", "bf16", "i64", "i32", "u8", "bool"};
  return names[int(d)];
}

template <class T> struct dtype_of_type;
template <> struct dtype_of_type<double> { static constexpr DType value = DType::f64; };
template <> struct dtype_of_type<float> { static constexpr DType value = DType::f32; };
template <> struct dtype_of_type<f16> { static constexpr DType value = DType::f16; };
template <> struct dtype_of_type<bf16> { static constexpr DType value = DType::bf16; };
template <> struct dtype_of_type<int64_t> { static constexpr DType value = DType::i64; };
template <> struct dtype_of_type<long long> { static constexpr DType value = DType::i64; };
template <> struct dtype_of_type<int32_t> { static constexpr DType value = DType::i32; };
template <> struct dtype_of_type<uint8_t> { static constexpr DType value = DType::u8; };
template <> struct dtype_of_type<bool> { static constexpr DType value = DType::boolean; };
template <class T> constexpr DType dtype_of = dtype_of_type<std::remove_cv_t<T>>::value;

/// The dtype in which an operation on a and b happens, by PyTorch's rules for two tensors with dimensions: floating beats
/// integer beats bool; within a kind the wider one; f16 with bf16 gives f32, u8 with i32 gives i32.
constexpr DType promote(DType a, DType b) {
  if (a == b) return a;
  const bool fa = is_floating(a), fb = is_floating(b);
  if (fa && fb) {
    if (a == DType::f64 || b == DType::f64) return DType::f64;
    return DType::f32;  // f32 with a half type, or two different half types
  }
  if (fa) return a;
  if (fb) return b;
  return a < b ? a : b;  // i64, i32, u8, bool are declared from wide to narrow
}

}  // namespace retape
