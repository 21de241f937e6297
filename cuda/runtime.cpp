// Devices, streams and memory: what core/device_runtime.h asks of CUDA. Memory comes from CUDA's own pool, in the order of the stream.
#include <retape/core/device_runtime.h>

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include <retape/core/error.h>
#include <retape/cuda/device.h>

namespace retape::detail {
[[noreturn]] void index_out_of_range(const char* kernel, int64_t value, int64_t size);
[[noreturn]] void index_out_of_dim(int64_t value, int64_t dim, int64_t size);
}  // namespace retape::detail

namespace retape::cuda {
namespace {

struct DeviceState {
  cudaStream_t stream = nullptr;  // the default one of all threads
  Fault* faults = nullptr;        // pinned, so that the host reads it without a copy
  std::atomic<int64_t> live{0}, peak{0};
};
struct Block {
  cudaStream_t stream;  // where it was taken, and goes back to
  int device;
};
// Never destroyed: tensors with static lifetime are freed after it would be.
struct Machine {
  std::mutex mutex;
  int count = 0;
  std::string unavailable;
  std::vector<std::unique_ptr<DeviceState>> devices;  // made when first used
  std::unordered_map<void*, Block> blocks;
};

std::string version(int v) { return fmt::format("{}.{}", v / 1000, v % 1000 / 10); }

Machine* find_machine() {
  auto* m = new Machine;
  const cudaError_t error = cudaGetDeviceCount(&m->count);
  cudaGetLastError();
  if (error == cudaSuccess && m->count > 0) {
    m->devices.resize(size_t(m->count));
    return m;
  }
  m->count = 0;
  int driver = 0, runtime = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  if (driver == 0) m->unavailable = "there is no NVIDIA driver";
  else if (error == cudaErrorInsufficientDriver || driver / 1000 < runtime / 1000)
    m->unavailable = fmt::format("the NVIDIA driver supports CUDA {}, this build needs {} or later", version(driver), version(runtime));
  else m->unavailable = "there is no CUDA device";
  return m;
}
Machine& machine() {
  static Machine* const m = find_machine();
  return *m;
}

thread_local int current = -1;
thread_local std::vector<cudaStream_t> chosen;  // by device; null: the default one

void quietly(cudaError_t error) noexcept {
  if (error != cudaSuccess) cudaGetLastError();
}

DeviceState& state_of(int device) {
  Machine& m = machine();
  const std::lock_guard lock(m.mutex);
  auto& state = m.devices[size_t(device)];
  if (!state) {
    auto fresh = std::make_unique<DeviceState>();
    check(cudaStreamCreateWithFlags(&fresh->stream, cudaStreamNonBlocking), "cudaStreamCreate");
    cudaMemPool_t pool;
    check(cudaDeviceGetDefaultMemPool(&pool, device), "cudaDeviceGetDefaultMemPool");
    uint64_t threshold = ~uint64_t{0};  // what has been taken from the system is kept; empty_cache() gives it back
    check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &threshold), "cudaMemPoolSetAttribute");
    void* faults = nullptr;
    check(cudaHostAlloc(&faults, sizeof(Fault), cudaHostAllocMapped), "cudaHostAlloc");
    fresh->faults = new (faults) Fault{};
    state = std::move(fresh);
  }
  return *state;
}
DeviceState& state() { return *machine().devices[size_t(current)]; }

void use(int device) {
  if (device == current) return;
  const Machine& m = machine();
  if (!m.unavailable.empty()) throw Error(fmt::format("cuda:{} cannot be used: {}", device, m.unavailable));
  if (device < 0 || device >= m.count)
    throw Error(
        fmt::format("cuda:{} is not there: this machine has {} CUDA device{}, from cuda:0 on", device, m.count, m.count > 1 ? "s" : ""));
  check(cudaSetDevice(device), "cudaSetDevice");
  state_of(device);
  current = device;
}

// What kernels have reported, once the stream has been waited for.
void throw_faults(DeviceState& s) {
  if (!s.faults->set) return;
  const Fault f = *s.faults;
  *s.faults = {};
  if (f.dim < 0) retape::detail::index_out_of_range(f.op, f.value, f.size);
  retape::detail::index_out_of_dim(f.value, f.dim, f.size);
}
void wait(const char* what) {
  check(cudaStreamSynchronize(current_stream()), what);
  throw_faults(state());
}

void count(DeviceState& s, int64_t bytes) noexcept {
  const int64_t now = s.live.fetch_add(bytes) + bytes;
  int64_t before = s.peak.load();
  while (now > before && !s.peak.compare_exchange_weak(before, now)) {}
}

}  // namespace

int current_device() { return current; }
cudaStream_t current_stream() {
  if (size_t(current) < chosen.size() && chosen[size_t(current)]) return chosen[size_t(current)];
  return state().stream;
}

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();
  const std::string op = ctx.op ? ctx.op : what;
  const std::string why = cudaGetErrorString(error);
  if (error == cudaErrorNoKernelImageForDevice) {
    int major = 0, minor = 0, device = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
    throw Error(
        fmt::format("{}: this build has no kernels for cuda:{}, whose architecture is sm_{}{}; build with "
                    "-DCMAKE_CUDA_ARCHITECTURES={}{}",
                    op, device, major, minor, major, minor));
  }
  if (error == cudaErrorStreamCaptureUnsupported)
    throw Error(fmt::format("{}: {} waits for the device, which cannot be captured in a graph", op, what));
  const bool lost = error == cudaErrorIllegalAddress;
  throw Error(fmt::format("{}: {} on cuda:{}: {}{}", op, what, current, why,
                          lost ? "; a kernel that was launched before has done it, and this process cannot use the device any more" : ""));
}

std::byte* allocate(size_t bytes) {
  DeviceState& s = state();
  const cudaStream_t stream = current_stream();
  void* p = nullptr;
  cudaError_t error = cudaMallocAsync(&p, bytes, stream);
  if (error == cudaErrorMemoryAllocation) {  // what is on its way back may be enough
    cudaGetLastError();
    check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
    error = cudaMallocAsync(&p, bytes, stream);
    if (error == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      retape::detail::out_of_memory(bytes, s.live.load());
    }
  }
  check(error, "cudaMallocAsync");
  {
    Machine& m = machine();
    const std::lock_guard lock(m.mutex);
    m.blocks[p] = {stream, current};
  }
  count(s, int64_t(bytes));
  return static_cast<std::byte*>(p);
}
void deallocate(std::byte* p, size_t bytes) noexcept {
  Machine& m = machine();
  Block block;
  {
    const std::lock_guard lock(m.mutex);
    const auto found = m.blocks.find(p);
    if (found == m.blocks.end()) return;
    block = found->second;
    m.blocks.erase(found);
  }
  quietly(cudaFreeAsync(p, block.stream));
  m.devices[size_t(block.device)]->live.fetch_sub(int64_t(bytes));
}
Fault* faults() { return state().faults; }

extern const Kernels kernels;
extern const DeviceRuntime runtime;
const DeviceRuntime runtime = {
    .kernels = &kernels,
    .why_unavailable = [] { return machine().unavailable; },
    .device_count = [] { return machine().count; },
    .use = use,
    .allocate = allocate,
    .deallocate = [](int, std::byte* p, size_t bytes) noexcept { deallocate(p, bytes); },
    .from_host =
        [](const void* from, std::byte* to, size_t bytes) {
          // From pageable memory CUDA copies before it returns; the wait makes that so for pinned memory, too.
          check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, current_stream()), "copy from the CPU");
          check(cudaStreamSynchronize(current_stream()), "copy from the CPU");
        },
    .to_host =
        [](const std::byte* from, void* to, size_t bytes) {
          check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, current_stream()), "copy to the CPU");
          wait("copy to the CPU");
        },
    .between =
        [](const std::byte* from, int from_device, std::byte* to, int to_device, size_t bytes) {
          // On the receiver's stream, after what the sender has been given so far.
          use(from_device);
          cudaEvent_t event;
          check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate");
          const std::unique_ptr<std::remove_pointer_t<cudaEvent_t>, cudaError_t (*)(cudaEvent_t)> guard(event, cudaEventDestroy);
          check(cudaEventRecord(event, current_stream()), "cudaEventRecord");
          use(to_device);
          check(cudaStreamWaitEvent(current_stream(), event, 0), "cudaStreamWaitEvent");
          check(cudaMemcpyPeerAsync(to, to_device, from, from_device, bytes, current_stream()), "copy between devices");
          check(cudaStreamSynchronize(current_stream()), "copy between devices");  // the sender may free `from` at once
        },
    .synchronize =
        [](int device) {
          use(device);
          check(cudaDeviceSynchronize(), "synchronize");
          throw_faults(state());
        },
    .memory_stats =
        [](int device) {
          use(device);
          cudaMemPool_t pool;
          uint64_t reserved = 0;
          check(cudaDeviceGetDefaultMemPool(&pool, device), "cudaDeviceGetDefaultMemPool");
          check(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrReservedMemCurrent, &reserved), "cudaMemPoolGetAttribute");
          const int64_t live = state().live.load();
          return MemoryStats{live, state().peak.load(), std::max<int64_t>(0, int64_t(reserved) - live)};
        },
    .reset_peak_memory =
        [](int device) {
          use(device);
          state().peak.store(state().live.load());
        },
    .empty_cache =
        [] {
          for (int d = 0; d < machine().count; ++d) {
            if (!machine().devices[size_t(d)]) continue;
            use(d);
            cudaMemPool_t pool;
            check(cudaStreamSynchronize(current_stream()), "empty_cache");
            check(cudaDeviceGetDefaultMemPool(&pool, d), "empty_cache");
            check(cudaMemPoolTrimTo(pool, 0), "empty_cache");
          }
        },
};

}  // namespace retape::cuda
