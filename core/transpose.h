// Transposing small blocks of elements of 1, 2, 4 or 8 bytes. For kernel files only.
#pragma once
#include <retape/core/kernel.h>

namespace retape::RETAPE_LEVEL {

template <int size> struct Unsigned;
template <> struct Unsigned<1> { using type = uint8_t; };
template <> struct Unsigned<2> { using type = uint16_t; };
template <> struct Unsigned<4> { using type = uint32_t; };
template <> struct Unsigned<8> { using type = uint64_t; };

// A vector of elements whose shuffles are single instructions.
template <int size> struct Lanes {
#if defined(__AVX512F__)
  static constexpr int bytes = size >= 4 ? 64 : 16;
#elif defined(__AVX2__)
  static constexpr int bytes = size >= 4 ? 32 : 16;
#else
  static constexpr int bytes = 16;
#endif
  static constexpr int count = bytes / size;
  typedef typename Unsigned<size>::type Vector __attribute__((vector_size(bytes)));
  template <int... I> static RETAPE_INLINE Vector low(Vector a, Vector b, std::integer_sequence<int, I...>) {
    return __builtin_shufflevector(a, b, (I / 2 + I % 2 * count)...);
  }
  template <int... I> static RETAPE_INLINE Vector high(Vector a, Vector b, std::integer_sequence<int, I...>) {
    return __builtin_shufflevector(a, b, (count / 2 + I / 2 + I % 2 * count)...);
  }
};

// y[i][j] = x[j][i] for i, j < Lanes<size>::count, rows x_step and y_step bytes apart: shuffling the upper half of the rows into the
// lower one, as cards, turns (row, column) by one bit; after as many rounds as there are bits they have changed places.
template <int size> RETAPE_INLINE void transpose_lanes(const char* x, int64_t x_step, char* y, int64_t y_step) {
  using L = Lanes<size>;
  constexpr int n = L::count;
  constexpr auto order = std::make_integer_sequence<int, n>{};
  typename L::Vector rows[n], next[n];
#pragma GCC unroll 16
  for (int j = 0; j < n; ++j) __builtin_memcpy(&rows[j], x + j * x_step, L::bytes);
#pragma GCC unroll 4
  for (int round = 1; round < n; round *= 2) {
#pragma GCC unroll 16
    for (int k = 0; k < n / 2; ++k) {
      next[2 * k] = L::low(rows[k], rows[k + n / 2], order);
      next[2 * k + 1] = L::high(rows[k], rows[k + n / 2], order);
    }
#pragma GCC unroll 16
    for (int k = 0; k < n; ++k) rows[k] = next[k];
  }
#pragma GCC unroll 16
  for (int i = 0; i < n; ++i) __builtin_memcpy(y + i * y_step, &rows[i], L::bytes);
}

// y[i][j] = x[j][i] for i < ni, j < nj. Elements of x[j] are x_dense bytes apart, those of y[i] lie side by side. `ahead`, in bytes, is
// where the block that comes next begins, to be fetched meanwhile.
template <int size>
void transpose_block(const char* x, int64_t x_step, int64_t x_dense, int64_t ni, int64_t nj, char* y, int64_t y_step, int64_t ahead) {
  constexpr int64_t n = Lanes<size>::count;
  const int64_t whole_i = x_dense == size ? ni / n * n : 0, whole_j = nj / n * n;
  for (int64_t j = 0; j < whole_j; j += n) {
    for (int64_t k = j; k < j + n; ++k) __builtin_prefetch(x + k * x_step + ahead);
    for (int64_t i = 0; i < whole_i; i += n) transpose_lanes<size>(x + j * x_step + i * size, x_step, y + i * y_step + j * size, y_step);
  }
  for (int64_t j = 0; j < nj; ++j)
    for (int64_t i = j < whole_j ? whole_i : 0; i < ni; ++i)
      __builtin_memcpy(y + i * y_step + j * size, x + j * x_step + i * x_dense, size);
}

}  // namespace retape::RETAPE_LEVEL
