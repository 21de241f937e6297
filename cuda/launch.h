// What a CUDA kernel file includes: CUDA's words, launching, and the CPU's conveniences under the same names. Files are built by nvcc, or,
// for tests on machines without a GPU, as plain C++, where tests/cuda/emulation.h gives CUDA's words a meaning.
//
//     namespace retape::cuda {
//     namespace {
//     template <class T> __global__ void negate(const T* x, T* y, int64_t n) {
//       for (int64_t i = thread_index(); i < n; i += thread_count()) y[i] = T(-compute_t<T>(x[i]));
//     }
//     }  // namespace
//     void neg(const Tensor& x, Tensor& y) {
//       with_floating("neg", x.dtype(), [&](auto zero) {
//         using T = decltype(zero);
//         launch(negate<T>, blocks_for(x.numel()), 256, 0, data<T>(x), data<T>(y), x.numel());
//       });
//     }
//     }  // namespace retape::cuda
//
// Kernels are templates or functions in an anonymous namespace; nvcc takes no __device__ lambda inside a generic lambda.
#pragma once
#define RETAPE_LEVEL cuda
#ifdef RETAPE_EMULATE_CUDA
#include <cuda/emulation.h>
#else
#include <cuda_runtime.h>
#endif
#include <type_traits>

#include <retape/core/kernel_args.h>
#include <retape/cuda/device.h>

// The bytes that a launch asked for, as an array: `RETAPE_DYNAMIC_SHARED(float, tile);`
#ifdef RETAPE_EMULATE_CUDA
#define RETAPE_DYNAMIC_SHARED(T, name) T* const name = static_cast<T*>(::emulation::dynamic_shared())
#else
#define RETAPE_DYNAMIC_SHARED(T, name)                                   \
  extern __shared__ __align__(16) unsigned char retape_dynamic_shared[]; \
  T* const name = reinterpret_cast<T*>(retape_dynamic_shared)
#endif

namespace retape::detail {
[[noreturn]] void kernel_error(const char* message);
[[noreturn]] void unsupported_dtype(const char* kernel, DType dtype);
}  // namespace retape::detail

namespace retape::cuda {
#define RETAPE_KERNEL(name, ...) void name(__VA_ARGS__);
#include <retape/core/kernel_list.inc>

constexpr unsigned all_lanes = 0xffffffffu;

/// Runs `kernel` on the current stream of the current device, with the arguments converted to its parameters' types.
template <class... P, class... A> void launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, const A&... a) {
  static_assert(sizeof...(P) == sizeof...(A), "a kernel takes other arguments than these");
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
#ifdef RETAPE_EMULATE_CUDA
  emulation::launch(kernel, grid, block, shared_bytes, current_stream(), P(a)...);
  check(cudaGetLastError(), "launch");
#else
  if (shared_bytes > 48 * 1024)
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared_bytes)), "cudaFuncSetAttribute");
  kernel<<<grid, block, shared_bytes, current_stream()>>>(P(a)...);
  check(cudaGetLastError(), "launch");
#endif
}

/// A grid of blocks of `block` threads for n items, small enough that the loop in the kernel does the rest.
inline dim3 blocks_for(int64_t n, int64_t block = 256) {
  const int64_t blocks = (n + block - 1) / block;
  return dim3(unsigned(blocks < 65535 * 4 ? blocks : 65535 * 4));
}
__device__ __forceinline__ int64_t thread_index() { return int64_t(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ __forceinline__ int64_t thread_count() { return int64_t(gridDim.x) * blockDim.x; }

/// A tensor's first element, on the device. For T = bool too; never read on the host.
inline std::byte* data_bytes(const Tensor& t) {
  if (!t) return nullptr;
  if (ctx.capture) [[unlikely]]
    hold(*t->storage);
  return t->storage->data + t->layout.offset * int64_t(size_of(t->layout.dtype));
}
template <class T> T* data(const Tensor& t) { return reinterpret_cast<T*>(data_bytes(t)); }

/// What a kernel takes: where a captured graph reads its place in the stretch is meant for its launches alone.
inline RandomState for_launch(RandomState state) {
  if (!ctx.capture) state.later = nullptr;
  return state;
}

template <class T> RETAPE_HD T min_of(T a, T b) { return b < a ? b : a; }
template <class T> RETAPE_HD T max_of(T a, T b) { return a < b ? b : a; }

/// Calls f(T{}) with the element type of a floating dtype; of any dtype, where bool is stored as one byte, 0 or 1.
template <class F> void with_floating(const char* kernel, DType d, const F& f) {
  switch (d) {
    case DType::f64: return f(double{});
    case DType::f32: return f(float{});
    case DType::f16: return f(f16{});
    case DType::bf16: return f(bf16{});
    default: retape::detail::unsupported_dtype(kernel, d);
  }
}
template <class F> void with_any(DType d, const F& f) {
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

/// On the device: keeps the first fault. The kernel goes on and leaves out what it cannot do. dim -1: `op` is about one dim alone.
__device__ __forceinline__ void report(Fault* fault, const char* op, int64_t value, int64_t dim, int64_t size) {
  if (atomicCAS(&fault->set, 0, 1) != 0) return;
  fault->kind = dim < 0 ? Fault::index : Fault::index_of_dim;
  fault->op = op, fault->value = value, fault->dim = dim, fault->size = size;
}

/// N elements that are read and written by one instruction.
template <class T, int N> struct alignas(sizeof(T) * N) Pack { T at[N]; };

/// Scratch memory of a kernel, on the device, uninitialised; freed in the order of the stream.
template <class T> class Scratch {
 public:
  explicit Scratch(int64_t n) : bytes_(size_t(n > 0 ? n : 1) * sizeof(T)), p_(reinterpret_cast<T*>(allocate(bytes_))) {}
  Scratch(const Scratch&) = delete;
  ~Scratch() { deallocate(reinterpret_cast<std::byte*>(p_), bytes_); }
  operator T*() const { return p_; }

 private:
  size_t bytes_;
  T* p_;
};

// ---- reductions inside a warp and a block: trees of a fixed shape ---------------------------------------------------------

/// All lanes get the combined value of all 32.
template <class T, class F> __device__ __forceinline__ T warp_reduce(T v, const F& combine) {
  for (int d = 16; d; d /= 2) v = combine(v, __shfl_xor_sync(all_lanes, v, d));
  return v;
}
/// All threads of the block (a multiple of 32 of them) get the combined value of all. `shared` has 33 elements; it may be used again by the
/// next call without a barrier in between.
template <class T, class F> __device__ __forceinline__ T block_reduce(T v, T* shared, const F& combine) {
  v = warp_reduce(v, combine);
  const int warps = int(blockDim.x) / 32;
  if (warps == 1) return v;
  __syncthreads();  // the last call's result has been read
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = v;
  __syncthreads();
  if (threadIdx.x == 0) {
    T all = shared[0];
    for (int w = 1; w < warps; ++w) all = combine(all, shared[w]);
    shared[32] = all;
  }
  __syncthreads();
  return shared[32];
}
struct Plus {
  template <class T> RETAPE_HD T operator()(T a, T b) const { return a + b; }
};
struct Largest {
  template <class T> RETAPE_HD T operator()(T a, T b) const { return a < b ? b : a; }
};

}  // namespace retape::cuda
