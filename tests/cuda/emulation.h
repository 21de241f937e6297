// CUDA's words for machines without a GPU: .cu files built as plain C++ run through this header. The threads of a block are fibers,
// barriers and shuffles are yields, streams are queues that are worked off when somebody waits for them, as late as a GPU may. A test
// tool: it finds mistakes (emulation::Mistake, or an abort of the sanitizer that everything here is built with), not speed.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __constant__ const
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __restrict__ __restrict
#define __shared__ static  // one block runs at a time
#define __align__(n) alignas(n)
// Not for atomics: what they touch is told to the race check by themselves.
#define RETAPE_NOT_CHECKED __attribute__((noinline, no_sanitize("thread")))

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// ---- the host's side: errors, memory, streams, events, graphs --------------------------------------------------------

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInsufficientDriver = 35,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
  cudaErrorNoKernelImageForDevice = 209,
  cudaErrorECCUncorrectable = 214,
  cudaErrorNotReady = 600,
  cudaErrorIllegalAddress = 700,
  cudaErrorAssert = 710,
  cudaErrorIllegalInstruction = 715,
  cudaErrorMisalignedAddress = 716,
  cudaErrorLaunchFailure = 719,
  cudaErrorStreamCaptureUnsupported = 900,
  cudaErrorStreamCaptureInvalidated = 901,
  cudaErrorStreamCaptureUnjoined = 904,
};
enum cudaMemcpyKind { cudaMemcpyHostToHost, cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice, cudaMemcpyDefault };
enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal, cudaStreamCaptureModeThreadLocal, cudaStreamCaptureModeRelaxed };
enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone, cudaStreamCaptureStatusActive, cudaStreamCaptureStatusInvalidated };
enum cudaMemPoolAttr { cudaMemPoolAttrReleaseThreshold, cudaMemPoolAttrReservedMemCurrent, cudaMemPoolAttrUsedMemCurrent };
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrComputeCapabilityMajor,
  cudaDevAttrComputeCapabilityMinor,
  cudaDevAttrMaxSharedMemoryPerBlockOptin,
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum cudaMemoryType { cudaMemoryTypeUnregistered, cudaMemoryTypeHost, cudaMemoryTypeDevice };
enum cudaMemLocationType { cudaMemLocationTypeDevice = 1 };
enum cudaMemAccessFlags { cudaMemAccessFlagsProtReadWrite = 3 };
constexpr unsigned cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2, cudaEventDefault = 0, cudaHostAllocDefault = 0,
                   cudaHostAllocMapped = 2;
struct cudaPointerAttributes {
  cudaMemoryType type;
};
struct cudaMemAccessDesc {
  struct {
    cudaMemLocationType type;
    int id;
  } location;
  cudaMemAccessFlags flags;
};

namespace emulation {
struct Stream;
struct Event;
struct Graph;
struct Pool;
}  // namespace emulation
using cudaStream_t = emulation::Stream*;
using cudaEvent_t = emulation::Event*;
using cudaGraph_t = emulation::Graph*;
using cudaGraphExec_t = emulation::Graph*;
using cudaMemPool_t = emulation::Pool*;

const char* cudaGetErrorString(cudaError_t error);
const char* cudaGetErrorName(cudaError_t error);
cudaError_t cudaGetLastError();
cudaError_t cudaPeekAtLastError();
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaRuntimeGetVersion(int* version);
cudaError_t cudaDeviceSynchronize();
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int device);
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value);
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value);
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, size_t bytes);
cudaError_t cudaMemGetInfo(size_t* free, size_t* total);
cudaError_t cudaMallocAsync(void** p, size_t bytes, cudaStream_t stream);
cudaError_t cudaFreeAsync(void* p, cudaStream_t stream);
cudaError_t cudaHostAlloc(void** p, size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void* p);
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* p);
cudaError_t cudaDeviceCanAccessPeer(int* possible, int reader, int owner);
cudaError_t cudaMemPoolSetAccess(cudaMemPool_t pool, const cudaMemAccessDesc* access, size_t count);
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest);
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int priority);
int nvtxRangePushA(const char* name);
int nvtxRangePop();
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemcpyPeerAsync(void* to, int to_device, const void* from, int from_device, size_t bytes, cudaStream_t stream);
cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamQuery(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags = 0);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t from, cudaEvent_t to);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long flags = 0);
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
template <class F> cudaError_t cudaFuncSetAttribute(F*, cudaFuncAttribute, int) { return cudaSuccess; }

namespace emulation {

/// A kernel broke CUDA's rules: a barrier that not every thread reaches, a lane outside its mask, ...
struct Mistake : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// In which order the threads of a block, and the blocks of a grid, get their turns. One order hides races.
enum class Order { forward, reverse, random };
struct Settings {
  Order order = Order::forward;
  uint64_t seed = 1;         // of the random order
  int devices = 2;           // 0: there is none
  int64_t memory = 1 << 28;  // bytes of each
  int driver = 13000, runtime = 13000;
  cudaError_t next_launch = cudaSuccess;  // what the next launch of a kernel fails with, on the host
  cudaError_t next_wait = cudaSuccess;    // what the device has met when the host waits next
};
extern Settings settings;
/// What profilers would show: `+name` and `-` for every beginning and end of a range.
extern std::vector<std::string> ranges;

/// Puts work at the end of a stream (null: at once). The library's kernels come here through launch(), host versions of CUDA's libraries directly.
void enqueue(cudaStream_t stream, std::function<void()> work);
void fail_launch();  // as cudaGetLastError() will say
/// Runs a grid now. `kernel` is for messages.
void run(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& body, const void* kernel = nullptr);
/// The function at an address of the program, and its place in the source if that is known; empty if nothing is.
std::string code_name(const void* code);
template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream, const A&... a) {
  if (settings.next_launch != cudaSuccess) return fail_launch();
  enqueue(stream, [=, arguments = std::tuple<P...>(P(a)...)] {
    run(
        grid, block, shared_bytes, [&] { std::apply(kernel, arguments); }, reinterpret_cast<const void*>(kernel));
  });
}

// Where the running fiber is.
struct Position {
  uint3 thread;
  dim3 block, grid, size;  // blockIdx, gridDim, blockDim
  unsigned linear;         // thread in block
};
extern thread_local Position position;
void* dynamic_shared();  // bytes of the running block, as many as its launch asked for
void barrier(const char* where, int line);
int vote(const char* where, int line, int value, int (*combine)(int, int));  // a barrier at which all threads' values are combined
uint64_t exchange(unsigned mask, uint64_t value, int source);                // the value of lane `source`, once all of mask have come
uint64_t gather(unsigned mask, bool value);                                  // a bit a lane
void warp_barrier(unsigned mask);

// The race check of a build with -fsanitize=thread and this tool's own runtime (race.cpp); elsewhere nothing.
void touch_atomically(const void* p, size_t bytes);

template <class T> T shuffle(unsigned mask, T value, int source, int width) {
  static_assert(sizeof(T) <= 8);
  const int lane = int(position.linear % 32), first = lane / width * width;
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = exchange(mask, bits, source < first || source >= first + width ? lane : source);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
}  // namespace emulation

// ---- the device's side -------------------------------------------------------------------------------------------------

#define threadIdx (::emulation::position.thread)
#define blockIdx (::emulation::position.block)
#define gridDim (::emulation::position.grid)
#define blockDim (::emulation::position.size)
constexpr int warpSize = 32;
#define __syncthreads() ::emulation::barrier(__FILE__, __LINE__)
#define __syncthreads_or(value) ::emulation::vote(__FILE__, __LINE__, (value), [](int a, int b) { return int(a || b); })
#define __syncthreads_and(value) ::emulation::vote(__FILE__, __LINE__, (value), [](int a, int b) { return int(a && b); })
#define __syncthreads_count(value) ::emulation::vote(__FILE__, __LINE__, (value) != 0, [](int a, int b) { return a + b; })
inline void __syncwarp(unsigned mask = 0xffffffffu) { emulation::warp_barrier(mask); }
inline void __threadfence() {}
inline void __threadfence_block() {}
template <class T> T __shfl_sync(unsigned mask, T v, int lane, int width = 32) {
  return emulation::shuffle(mask, v, int(emulation::position.linear % 32) / width * width + lane % width, width);
}
template <class T> T __shfl_xor_sync(unsigned mask, T v, int flip, int width = 32) {
  return emulation::shuffle(mask, v, int(emulation::position.linear % 32) ^ flip, width);
}
template <class T> T __shfl_down_sync(unsigned mask, T v, unsigned by, int width = 32) {
  return emulation::shuffle(mask, v, int(emulation::position.linear % 32 + by), width);
}
template <class T> T __shfl_up_sync(unsigned mask, T v, unsigned by, int width = 32) {
  return emulation::shuffle(mask, v, int(emulation::position.linear % 32) - int(by), width);
}
inline unsigned __ballot_sync(unsigned mask, int value) { return unsigned(emulation::gather(mask, value)); }
inline int __any_sync(unsigned mask, int value) { return emulation::gather(mask, value) != 0; }
inline int __all_sync(unsigned mask, int value) { return unsigned(emulation::gather(mask, value)) == mask; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
template <class T> T __ldg(const T* p) { return *p; }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline unsigned __float_as_uint(float x) {
  unsigned u;
  std::memcpy(&u, &x, 4);
  return u;
}
inline int __float_as_int(float x) { return int(__float_as_uint(x)); }
inline float __uint_as_float(unsigned u) {
  float x;
  std::memcpy(&x, &u, 4);
  return x;
}
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }

#define RETAPE_ATOMIC(name, expression)                     \
  template <class T> RETAPE_NOT_CHECKED T name(T* p, T v) { \
    ::emulation::touch_atomically(p, sizeof(T));            \
    const T old = *p;                                       \
    *p = (expression);                                      \
    return old;                                             \
  }
RETAPE_ATOMIC(atomicAdd, T(old + v))
RETAPE_ATOMIC(atomicSub, T(old - v))
RETAPE_ATOMIC(atomicMax, old < v ? v : old)
RETAPE_ATOMIC(atomicMin, v < old ? v : old)
RETAPE_ATOMIC(atomicExch, v)
RETAPE_ATOMIC(atomicOr, T(old | v))
RETAPE_ATOMIC(atomicAnd, T(old& v))
#undef RETAPE_ATOMIC
template <class T> RETAPE_NOT_CHECKED T atomicCAS(T* p, T expected, T v) {
  ::emulation::touch_atomically(p, sizeof(T));
  const T old = *p;
  if (old == expected) *p = v;
  return old;
}
