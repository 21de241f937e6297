// What a CPU kernel file includes. Kernel files are compiled once an instruction set level, with RETAPE_LEVEL naming the
// level's namespace; everything in them lives inside it.
#pragma once
#include <cstdlib>

#include <retape/core/kernel_args.h>
#include <retape/core/simd_math.h>

namespace retape::detail {
[[noreturn]] void kernel_error(const char* message);
[[noreturn]] void unsupported_dtype(const char* kernel, DType dtype);
[[noreturn]] void index_out_of_range(const char* kernel, int64_t value, int64_t size);
[[noreturn]] void index_out_of_dim(int64_t value, int64_t dim, int64_t size);
[[noreturn]] void masked_row(int64_t batch, int64_t head, int64_t query, int64_t keys);
}  // namespace retape::detail

namespace retape::RETAPE_LEVEL {
#define RETAPE_KERNEL(name, ...) void name(__VA_ARGS__);
#include <retape/core/kernel_list.inc>

// Not inlined: with and without OpenMP, the same code of f runs.
template <class F> [[gnu::noinline]] void run_chunk(const F& f, int64_t begin, int64_t end) { f(begin, end); }
/// Calls f(begin, end) for chunks of `grain` items of [0, n). Chunk borders depend on n and grain only, never on the number of
/// threads. One chunk runs without OpenMP.
template <class F> RETAPE_INLINE void parallel_for(int64_t n, int64_t grain, const F& f) {
  if (n <= grain) {
    if (n > 0) run_chunk(f, 0, n);
    return;
  }
  const int64_t chunks = (n + grain - 1) / grain;
#pragma omp parallel for schedule(static)
  for (int64_t c = 0; c < chunks; ++c) run_chunk(f, c * grain, (c + 1) * grain < n ? (c + 1) * grain : n);
}

/// How many rows of `size` elements make a chunk worth a thread: about 16 Ki elements.
RETAPE_INLINE int64_t row_grain(int64_t size) { return size >= 16384 ? 1 : 16384 / (size > 0 ? size : 1); }

/// Calls f(T{}) with the element type of a floating dtype.
template <class F> RETAPE_INLINE void with_floating(const char* kernel, DType d, const F& f) {
  switch (d) {
    case DType::f64: return f(double{});
    case DType::f32: return f(float{});
    case DType::f16: return f(f16{});
    case DType::bf16: return f(bf16{});
    default: detail::unsupported_dtype(kernel, d);
  }
}
/// Calls f(T{}) with the element type of any dtype; bool is stored as uint8_t 0 or 1.
template <class F> RETAPE_INLINE void with_any(DType d, const F& f) {
  switch (d) {
    case DType::f64: return f(double{});
    case DType::f32: return f(float{});
    case DType::f16: return f(f16{});
    case DType::bf16: return f(bf16{});
    case DType::i64: return f(int64_t{});
    case DType::i32: return f(int32_t{});
    case DType::u8: return f(uint8_t{});
    case DType::boolean: return f(bool{});
  }
}

/// Scratch memory of a kernel, 64-byte aligned, uninitialised.
template <class T> class Scratch {
 public:
  RETAPE_INLINE explicit Scratch(int64_t n)
      : bytes_(size_t(n > 0 ? n : 1) * sizeof(T)), p_(reinterpret_cast<T*>(detail::allocate(bytes_))) {}
  Scratch(const Scratch&) = delete;
  RETAPE_INLINE ~Scratch() { detail::deallocate(reinterpret_cast<std::byte*>(p_), bytes_); }
  RETAPE_INLINE operator T*() const { return p_; }

 private:
  size_t bytes_;
  T* p_;
};

template <class T> RETAPE_INLINE T min_of(T a, T b) { return b < a ? b : a; }
template <class T> RETAPE_INLINE T max_of(T a, T b) { return a < b ? b : a; }

}  // namespace retape::RETAPE_LEVEL
