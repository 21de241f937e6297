// Devices, what they report, and the table of all that core/device_runtime.h asks of CUDA.
#include <retape/core/device_runtime.h>

#include <fmt/format.h>

#include <retape/core/error.h>
#include <retape/cuda/machine.h>
#ifndef RETAPE_EMULATE_CUDA
#include <nvtx3/nvToolsExt.h>
#endif

namespace retape::detail {
[[noreturn]] void index_out_of_range(const char* kernel, int64_t value, int64_t size);
[[noreturn]] void index_out_of_dim(int64_t value, int64_t dim, int64_t size);
[[noreturn]] void masked_row(int64_t batch, int64_t head, int64_t query, int64_t keys);
}  // namespace retape::detail

namespace retape::cuda {
namespace {

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

thread_local int current = -1;
thread_local std::vector<cudaStream_t> chosen;  // by device; null: the default one

}  // namespace

Machine& machine() {
  static Machine* const m = find_machine();
  return *m;
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
  if (ctx.capture && device_of(*ctx.capture) != device)
    throw Error(fmt::format("{}: cuda:{} is used while a graph of cuda:{} is captured, which has one device only",
                            ctx.op ? ctx.op : "graph", device, device_of(*ctx.capture)));
  check(cudaSetDevice(device), "cudaSetDevice");
  state_of(device);
  current = device;
}

void use(Device device) {
  if (!device.is_cuda()) throw Error(fmt::format("{}: a tensor on {} is given to a CUDA kernel", ctx.op ? ctx.op : "kernel", device.str()));
  use(device.index);
}

void throw_faults() {
  DeviceState& s = state();
  if (!s.faults->set) return;
  const Fault f = *s.faults;
  *s.faults = {};
  switch (f.kind) {
    case Fault::masked_row: retape::detail::masked_row(f.batch, f.head, f.value, f.size);
    case Fault::index_of_dim: retape::detail::index_out_of_dim(f.value, f.dim, f.size);
    case Fault::index: retape::detail::index_out_of_range(f.op, f.value, f.size);
  }
}

void count(DeviceState& s, int64_t bytes) noexcept {
  const int64_t now = s.live.fetch_add(bytes) + bytes;
  int64_t before = s.peak.load();
  while (now > before && !s.peak.compare_exchange_weak(before, now)) {}
}

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
  bool lost = false;
  for (const cudaError_t e : {cudaErrorIllegalAddress, cudaErrorLaunchFailure, cudaErrorMisalignedAddress, cudaErrorIllegalInstruction,
                              cudaErrorAssert, cudaErrorECCUncorrectable})
    lost |= error == e;
  throw Error(fmt::format(
      "{}: {} on cuda:{}: {}{}", op, what, current, why,
      lost ? "; a kernel that was launched before has done it (CUDA_LAUNCH_BLOCKING=1 shows which), and this process cannot use the "
             "device any more"
           : ""));
}

void set_stream(int device, cudaStream_t stream) {
  if (chosen.size() <= size_t(device)) chosen.resize(size_t(device) + 1);
  chosen[size_t(device)] = stream;
}
Fault* faults() { return state().faults; }

namespace {
void begin_range(const char* name) { nvtxRangePushA(name); }
void end_range() { nvtxRangePop(); }
}  // namespace

extern const Kernels kernels;
extern const DeviceRuntime runtime;
const DeviceRuntime runtime = {
    .kernels = &kernels,
    .why_unavailable = [] { return machine().unavailable; },
    .device_count = [] { return machine().count; },
    .use = use,
    .synchronize =
        [](int device) {
          use(device);
          refuse_in_capture("synchronize");
          check(cudaDeviceSynchronize(), "synchronize");
          throw_faults();
        },
    .allocate = allocate,
    .deallocate = [](int, std::byte* p, size_t bytes) noexcept { deallocate(p, bytes); },
    .live_memory =
        [](int device) {
          use(device);
          return state().live.load();
        },
    .memory_stats = memory_stats,
    .reset_peak_memory =
        [](int device) {
          use(device);
          state().peak.store(state().live.load());
        },
    .empty_cache = empty_cache,
    .record_stream = record_stream,
    .allocate_pinned = allocate_pinned,
    .deallocate_pinned = deallocate_pinned,
    .is_pinned = is_pinned,
    .from_host = copy_from_host,
    .to_host = copy_to_host,
    .between = copy_between,
    .take_stream = take_stream,
    .give_stream = give_stream,
    .current_stream = [](int device) -> void* {
      use(device);
      return current_stream();
    },
    .set_stream =
        [](int device, void* stream) {
          use(device);
          set_stream(device, static_cast<cudaStream_t>(stream));
        },
    .default_stream = [](int device) -> void* {
      use(device);
      return state().stream;
    },
    .wait_for_stream = wait_for_stream,
    .stream_is_done = stream_is_done,
    .make_event = make_event,
    .drop_event = drop_event,
    .record_event = record_event,
    .stream_waits = stream_waits,
    .wait_for_event = wait_for_event,
    .event_is_done = event_is_done,
    .milliseconds = milliseconds,
    .begin_capture = begin_capture,
    .end_capture = end_capture,
    .launch = launch_graph,
    .drop_capture = drop_capture,
    .captured_value = captured_value,
    .begin_range = begin_range,
    .end_range = end_range,
};

}  // namespace retape::cuda
