// Fibers, barriers and shuffles for tests/cuda/emulation.h, and streams that run late.
#include <cuda/emulation.h>

#include <dlfcn.h>
#include <elf.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#include "race.h"

namespace emulation {

namespace {
// RETAPE_EMULATION_ORDER=forward|reverse|random, RETAPE_EMULATION_DEVICES, RETAPE_EMULATION_DRIVER=12080 for CUDA 12.8
Settings from_environment() {
  Settings s;
  if (const char* order = std::getenv("RETAPE_EMULATION_ORDER"))
    s.order = !std::strcmp(order, "reverse") ? Order::reverse : !std::strcmp(order, "random") ? Order::random : Order::forward;
  if (const char* devices = std::getenv("RETAPE_EMULATION_DEVICES")) s.devices = std::atoi(devices);
  if (const char* driver = std::getenv("RETAPE_EMULATION_DRIVER")) s.driver = std::atoi(driver);
  return s;
}
}  // namespace
Settings settings = from_environment();
std::vector<std::string> ranges;
thread_local Position position{};

// ---- fibers ------------------------------------------------------------------------------------------------------------

namespace {

constexpr size_t stack_bytes = 128 * 1024;

#if defined(__x86_64__)
extern "C" void retape_switch_stack(void** from, void* to);
asm(R"(
.text
.globl retape_switch_stack
.hidden retape_switch_stack
.type retape_switch_stack, @function
retape_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size retape_switch_stack, .-retape_switch_stack
)");
struct Stack {
  void* at = nullptr;
  void prepare(char* stack, void (*entry)()) {
    auto** top = reinterpret_cast<void**>(stack + stack_bytes);
    *--top = nullptr;  // entry's own return address: it never returns
    *--top = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    at = top;
  }
  void switch_to(Stack& other) { retape_switch_stack(&at, other.at); }
};
#else
struct Stack {
  ucontext_t context;
  void prepare(char* stack, void (*entry)()) {
    getcontext(&context);
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = stack_bytes;
    context.uc_link = nullptr;
    makecontext(&context, entry, 0);
  }
  void switch_to(Stack& other) { swapcontext(&context, &other.context); }
};
#endif

struct Fiber {
  std::unique_ptr<char[]> memory{new char[stack_bytes]};
  Stack stack;
  bool done = true;
  const char* where = nullptr;  // at which barrier it waits
  int line = 0;
  void* fake = nullptr;
};
struct Warp {
  uint64_t value[32];
  unsigned arrived = 0, left = 0, mask = 0, generation = 0;
};
struct Block {
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  unsigned threads = 0, alive = 0, at_barrier = 0, generation = 0;
  int vote = 0, outcome = 0;
  bool voted = false;
  size_t current = 0;
  Stack scheduler;
  const std::function<void()>* body = nullptr;
  void* fake = nullptr;
  const void* bottom = nullptr;
  size_t bottom_size = 0;
  bool progress = false;
  std::exception_ptr error;
  std::unique_ptr<char[]> shared;
  size_t shared_bytes = 0;
};
thread_local Block* running = nullptr;

void to_scheduler([[maybe_unused]] bool finished = false) {
  Block& b = *running;
  Fiber& f = b.fibers[b.current];
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(finished ? nullptr : &f.fake, b.bottom, b.bottom_size);
#endif
  f.stack.switch_to(b.scheduler);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(f.fake, &b.bottom, &b.bottom_size);
#endif
}
void entry() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &running->bottom, &running->bottom_size);
#endif
  Block& b = *running;
  try {
    (*b.body)();
  } catch (...) {
    if (!b.error) b.error = std::current_exception();
  }
  b.fibers[b.current].done = true;
  --b.alive;
  b.progress = true;
  to_scheduler(true);
}

std::vector<unsigned> turns(unsigned n, std::mt19937_64& random) {
  std::vector<unsigned> order(n);
  for (unsigned i = 0; i < n; ++i) order[i] = settings.order == Order::reverse ? n - 1 - i : i;
  if (settings.order == Order::random) std::shuffle(order.begin(), order.end(), random);
  return order;
}
std::string name(unsigned thread) { return "thread " + std::to_string(thread) + " of block " + std::to_string(position.block.x); }

void run_block(Block& b, const dim3& index, std::mt19937_64& random) {
  position.block = index;
  b.alive = b.threads;
  b.at_barrier = 0;
  b.voted = false;
  b.warps.assign((b.threads + 31) / 32, {});
  if (b.fibers.size() < b.threads) b.fibers.resize(b.threads);
  for (unsigned t = 0; t < b.threads; ++t) {
    Fiber& f = b.fibers[t];
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(f.memory.get(), stack_bytes);
#endif
    f.stack.prepare(f.memory.get(), entry);
    f.done = false;
    f.where = nullptr;
  }
  race::begin_block(b.shared.get(), b.shared_bytes);
  while (b.alive) {
    b.progress = false;
    for (const unsigned t : turns(b.threads, random)) {
      Fiber& f = b.fibers[t];
      if (f.done) continue;
      b.current = t;
      position.linear = t;
      position.thread = {t % position.size.x, t / position.size.x % position.size.y, t / position.size.x / position.size.y};
#if defined(__SANITIZE_ADDRESS__)
      __sanitizer_start_switch_fiber(&b.fake, f.memory.get(), stack_bytes);
#endif
      b.scheduler.switch_to(f.stack);
#if defined(__SANITIZE_ADDRESS__)
      __sanitizer_finish_switch_fiber(b.fake, nullptr, nullptr);
#endif
      race::check();
      if (b.error) std::rethrow_exception(b.error);
    }
    if (!b.progress && b.alive) throw Mistake("deadlock: a barrier or a shuffle is not reached by every thread that it needs");
  }
}

}  // namespace

std::string code_name(const void* code) {
  Dl_info info;
  if (!code || !dladdr(code, &info) || !info.dli_fname) return "";
  const auto* const header = static_cast<const Elf64_Ehdr*>(info.dli_fbase);
  const uintptr_t address = reinterpret_cast<uintptr_t>(code) - (header->e_type == ET_DYN ? reinterpret_cast<uintptr_t>(header) : 0);
  char offset[32];
  std::snprintf(offset, sizeof offset, "0x%zx", size_t(address));
  FILE* const pipe = popen(("addr2line -Cfpe '" + std::string(info.dli_fname) + "' " + offset + " 2>/dev/null").c_str(), "r");
  if (!pipe) return "";
  std::string name;
  for (int c; (c = std::fgetc(pipe)) != EOF && c != '\n';) name += char(c);
  pclose(pipe);
  // "void space::(anonymous namespace)::kernel<float>(int, float*) at /long/path/file.cu:12", shorter
  for (const std::string text : {"(anonymous namespace)::", "retape::cuda::", "void "})
    for (size_t i; (i = name.find(text)) != std::string::npos;) name.erase(i, text.size());
  const size_t at = name.rfind(" at "), arguments = name.find('(');
  if (at == std::string::npos || name.starts_with("??")) return "";
  std::string place = name.substr(at + 4, name.find(" (discriminator") - (at + 4));
  place = place.starts_with('?') ? "" : " (" + place.substr(place.rfind('/') + 1) + ")";
  return name.substr(0, std::min(at, arguments)) + place;
}

void run(dim3 grid, dim3 size, size_t shared_bytes, const std::function<void()>& body, const void* kernel) {
  static thread_local Block block;
  static std::mutex one_at_a_time;  // shared arrays are static
  if (running) throw Mistake("a kernel launches a kernel");
  const std::lock_guard lock(one_at_a_time);
  std::mt19937_64 random(settings.seed);
  block.body = &body;
  block.threads = size.x * size.y * size.z;
  block.error = nullptr;
  position.grid = grid;
  position.size = size;
  race::begin_grid();
  struct Running {
    explicit Running(Block& b) { running = &b; }
    ~Running() { running = nullptr, race::end_grid(); }
  } guard(block);
  for (const unsigned i : turns(grid.x * grid.y * grid.z, random)) {
    block.shared.reset(new char[shared_bytes + 1]);  // anew for each: what the last block left is not there
    block.shared_bytes = shared_bytes;
    std::memset(block.shared.get(), 0xff, shared_bytes);
#if defined(__SANITIZE_ADDRESS__)
    __asan_poison_memory_region(block.shared.get() + shared_bytes, 1);
#endif
    try {
      run_block(block, dim3(i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y), random);
    } catch (const Mistake& mistake) {
      const std::string name = code_name(kernel);
      if (name.empty()) throw;
      throw Mistake(std::string(mistake.what()) + "; in the kernel " + name);
    }
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(block.shared.get() + shared_bytes, 1);
#endif
  }
}

#if !defined(RETAPE_RACE_CHECK)
void touch_atomically(const void*, size_t) {}
#endif

void* dynamic_shared() { return running->shared.get(); }

int vote(const char* where, int line, int value, int (*combine)(int, int)) {
  Block& b = *running;
  Fiber& f = b.fibers[b.current];
  f.where = where, f.line = line;
  const unsigned generation = b.generation;
  b.vote = b.voted ? combine(b.vote, value) : value;
  b.voted = true;
  ++b.at_barrier;
  b.progress = true;
  while (b.generation == generation) {
    if (b.alive < b.threads)
      throw Mistake(std::string(where) + ":" + std::to_string(line) + ": a barrier after which a thread of the block has left");
    if (b.at_barrier == b.alive) {
      for (unsigned t = 0; t < b.threads; ++t)
        if (b.fibers[t].where != where || b.fibers[t].line != line)
          throw Mistake("divergent barriers: " + name(b.current) + " waits at line " + std::to_string(line) + ", " + name(t) + " at line " +
                        std::to_string(b.fibers[t].line));
      b.outcome = b.vote;
      b.voted = false;
      b.at_barrier = 0;
      ++b.generation;
      race::after_barrier();
      break;
    }
    to_scheduler();
  }
  return b.outcome;
}
void barrier(const char* where, int line) {
  vote(where, line, 0, [](int a, int) { return a; });
}

namespace {
// Every lane of the mask arrives and then reads what it wants of all their values.
// Memory is in order afterwards only if `fence`: as CUDA's documentation says, shuffles and votes are none.
template <class Read> uint64_t meet(unsigned mask, uint64_t value, bool fence, Read&& read) {
  Block& b = *running;
  const unsigned lane = unsigned(b.current) % 32;
  Warp& w = b.warps[b.current / 32];
  if (!(mask >> lane & 1)) throw Mistake("lane " + std::to_string(lane) + " calls with a mask that it is not in");
  const unsigned first = unsigned(b.current) - lane;
  for (unsigned i = 0; i < 32; ++i)
    if ((mask >> i & 1) && (first + i >= b.threads || b.fibers[first + i].done))
      throw Mistake("lane " + std::to_string(i) + " is in a mask, but has left the kernel or never was");
  while (w.left) to_scheduler();
  if (w.arrived && w.mask != mask) throw Mistake("lanes of a warp meet with different masks");
  w.mask = mask;
  w.value[lane] = value;
  w.arrived |= 1u << lane;
  b.progress = true;
  const unsigned generation = w.generation;
  while (w.generation == generation) {
    if (w.arrived == mask) {
      w.left = mask;
      w.arrived = 0;
      ++w.generation;
      if (fence) race::after_warp_barrier(unsigned(b.current) / 32, mask);
      break;
    }
    to_scheduler();
  }
  const uint64_t out = read(w);
  w.left &= ~(1u << lane);
  b.progress = true;
  return out;
}
}  // namespace

uint64_t exchange(unsigned mask, uint64_t value, int source) {
  if (!(mask >> (source & 31) & 1)) throw Mistake("a shuffle reads lane " + std::to_string(source) + ", which is not in its mask");
  return meet(mask, value, false, [&](const Warp& w) { return w.value[source & 31]; });
}
uint64_t gather(unsigned mask, bool value) {
  return meet(mask, value, false, [&](const Warp& w) {
    uint64_t bits = 0;
    for (int i = 0; i < 32; ++i)
      if (mask >> i & 1) bits |= w.value[i] << i;
    return bits;
  });
}
void warp_barrier(unsigned mask) {
  meet(mask, 0, true, [](const Warp&) { return uint64_t{0}; });
}

// ---- the host's side ---------------------------------------------------------------------------------------------------

struct Graph {
  std::vector<std::function<void()>> work;
  std::vector<Stream*> streams;  // that take part in the capture: the first began it
  std::map<Stream*, bool> joined;
};
struct Event {
  Stream* stream = nullptr;
  uint64_t ticket = 0;     // how much of the stream's work comes before it
  Graph* graph = nullptr;  // in a capture
};
struct Stream {
  int device = 0, priority = 0;
  std::deque<std::function<void()>> work;
  uint64_t enqueued = 0, done = 0;
  bool capturing = false;
  Graph* graph = nullptr;
  void run_until(uint64_t ticket) {
    while (done < ticket && !work.empty()) {
      const auto next = std::move(work.front());
      work.pop_front();
      ++done;
      next();
    }
  }
};
struct Pool {
  int64_t used = 0, promised = 0;  // promised: as the host sees it, which has not waited for frees
};

namespace {
struct Machine {
  std::vector<std::unique_ptr<Pool>> pools;
  std::vector<Stream*> streams;
  std::map<void*, std::pair<size_t, int>> blocks;
  std::map<const char*, size_t> page_locked;
  cudaError_t last = cudaSuccess;
  Pool& pool(int device) {
    while (int(pools.size()) <= device) pools.push_back(std::make_unique<Pool>());
    return *pools[size_t(device)];
  }
};
Machine& machine() {
  static auto* const m = new Machine;  // tensors with static lifetime are freed after main
  return *m;
}
thread_local int current_device = 0;
cudaError_t fail(cudaError_t e) { return machine().last = e; }
cudaError_t after_wait() {
  const cudaError_t e = std::exchange(settings.next_wait, cudaSuccess);
  return e == cudaSuccess ? e : fail(e);
}
bool is_page_locked(const void* p) {
  const auto* const at = static_cast<const char*>(p);
  auto found = machine().page_locked.upper_bound(at);
  return found != machine().page_locked.begin() && (--found, at < found->first + found->second);
}
}  // namespace

void enqueue(cudaStream_t stream, std::function<void()> work) {
  if (!stream) return work();
  if (stream->capturing) {
    stream->graph->work.push_back(std::move(work));
    stream->graph->joined[stream] = false;
    return;
  }
  stream->work.push_back(std::move(work));
  ++stream->enqueued;
}

}  // namespace emulation

using namespace emulation;

void emulation::fail_launch() { machine().last = std::exchange(settings.next_launch, cudaSuccess); }

const char* cudaGetErrorString(cudaError_t e) {
  switch (e) {
    case cudaSuccess: return "no error";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorInsufficientDriver: return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    case cudaErrorNoKernelImageForDevice: return "no kernel image is available for execution on the device";
    case cudaErrorIllegalAddress: return "an illegal memory access was encountered";
    case cudaErrorLaunchFailure: return "unspecified launch failure";
    case cudaErrorStreamCaptureUnsupported: return "operation not permitted when stream is capturing";
    default: return "invalid argument";
  }
}
const char* cudaGetErrorName(cudaError_t e) { return e == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation" : "cudaError"; }
cudaError_t cudaGetLastError() { return std::exchange(machine().last, cudaSuccess); }
cudaError_t cudaPeekAtLastError() { return machine().last; }
cudaError_t cudaGetDeviceCount(int* count) {
  *count = settings.devices;
  return settings.driver < settings.runtime ? cudaErrorInsufficientDriver : settings.devices ? cudaSuccess : cudaErrorNoDevice;
}
cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= settings.devices) return fail(cudaErrorInvalidDevice);
  current_device = device;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount: *value = 4; break;
    case cudaDevAttrComputeCapabilityMajor: *value = 9; break;
    case cudaDevAttrComputeCapabilityMinor: *value = 0; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = 227 * 1024; break;
  }
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = settings.driver;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = settings.runtime;
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  for (Stream* s : std::vector(machine().streams))
    if (s->device == current_device) s->run_until(s->enqueued);
  return after_wait();
}
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int device) {
  *pool = &machine().pool(device);
  return cudaSuccess;
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) { return cudaSuccess; }
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, cudaMemPoolAttr, void* value) {
  *static_cast<uint64_t*>(value) = uint64_t(pool->used);
  return cudaSuccess;
}
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, size_t) { return cudaSuccess; }
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *total = size_t(settings.memory);
  *free = size_t(settings.memory - machine().pool(current_device).used);
  return cudaSuccess;
}
cudaError_t cudaMallocAsync(void** p, size_t bytes, cudaStream_t stream) {
  Pool& pool = machine().pool(stream ? stream->device : current_device);
  if (pool.promised + int64_t(bytes) > settings.memory) return fail(cudaErrorMemoryAllocation);
  pool.promised += int64_t(bytes);
  pool.used += int64_t(bytes);
  *p = ::operator new (bytes ? bytes : 1, std::align_val_t{256});
  std::memset(*p, 0xff, bytes);  // what nobody has written is nan
  machine().blocks[*p] = {bytes, stream ? stream->device : current_device};
  race::allocated(*p, bytes);
  return cudaSuccess;
}
cudaError_t cudaFreeAsync(void* p, cudaStream_t stream) {
  if (!p) return cudaSuccess;
  const auto found = machine().blocks.find(p);
  if (found == machine().blocks.end()) return fail(cudaErrorInvalidValue);
  const auto [bytes, device] = found->second;
  machine().pool(device).promised -= int64_t(bytes);
  enqueue(stream, [p, bytes = bytes, device = device] {
    machine().blocks.erase(p);
    machine().pool(device).used -= int64_t(bytes);
    race::freed(p, bytes);
    ::operator delete (p, std::align_val_t{256});
  });
  return cudaSuccess;
}
cudaError_t cudaHostAlloc(void** p, size_t bytes, unsigned) {
  *p = ::operator new (bytes ? bytes : 1, std::align_val_t{256});
  machine().page_locked[static_cast<const char*>(*p)] = bytes;
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* p) {
  machine().page_locked.erase(static_cast<const char*>(p));
  ::operator delete (p, std::align_val_t{256});
  return cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* p) {
  attributes->type = is_page_locked(p) ? cudaMemoryTypeHost : cudaMemoryTypeUnregistered;
  return cudaSuccess;
}
cudaError_t cudaDeviceCanAccessPeer(int* possible, int reader, int owner) {
  *possible = reader != owner;
  return cudaSuccess;
}
cudaError_t cudaMemPoolSetAccess(cudaMemPool_t, const cudaMemAccessDesc*, size_t) { return cudaSuccess; }
// From pageable memory the bytes are taken at once, from page-locked memory when the stream comes there.
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  if (kind == cudaMemcpyHostToDevice && !is_page_locked(from)) {
    const auto* const first = static_cast<const char*>(from);
    enqueue(stream, [to, staged = std::vector<char>(first, first + bytes)] { std::memcpy(to, staged.data(), staged.size()); });
  } else {
    enqueue(stream, [=] { std::memcpy(to, from, bytes); });
  }
  return cudaSuccess;
}
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0, *greatest = -5;
  return cudaSuccess;
}
int nvtxRangePushA(const char* name) {
  ranges.push_back(std::string("+") + name);
  return 0;
}
int nvtxRangePop() {
  ranges.push_back("-");
  return 0;
}
cudaError_t cudaMemcpyPeerAsync(void* to, int, const void* from, int, size_t bytes, cudaStream_t stream) {
  return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream);
}
cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t stream) {
  enqueue(stream, [=] { std::memset(p, value, bytes); });
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) { return cudaStreamCreateWithPriority(stream, flags, 0); }
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned, int priority) {
  *stream = new Stream;
  (*stream)->device = current_device;
  (*stream)->priority = priority;
  machine().streams.push_back(*stream);
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  stream->run_until(stream->enqueued);
  std::erase(machine().streams, stream);
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (stream && stream->capturing) return fail(cudaErrorStreamCaptureUnsupported);
  if (stream) stream->run_until(stream->enqueued);
  return after_wait();
}
cudaError_t cudaStreamQuery(cudaStream_t stream) { return stream->work.empty() ? cudaSuccess : cudaErrorNotReady; }
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  if (event->graph) {  // a stream that waits for a captured one takes part; one that takes part and is waited for has joined
    if (!stream->capturing) {
      stream->capturing = true;
      stream->graph = event->graph;
      event->graph->streams.push_back(stream);
      event->graph->joined[stream] = false;
    } else if (stream == event->graph->streams.front()) {
      event->graph->joined[event->stream] = true;
    }
    return cudaSuccess;
  }
  if (stream->capturing) return fail(cudaErrorStreamCaptureUnsupported);
  if (Stream* other = event->stream; other && other != stream)
    enqueue(stream, [other, ticket = event->ticket] {
      if (std::count(machine().streams.begin(), machine().streams.end(), other)) other->run_until(ticket);
    });
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new Event;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  *event = {stream, stream ? stream->enqueued : 0, stream && stream->capturing ? stream->graph : nullptr};
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (event->stream) event->stream->run_until(event->ticket);
  return after_wait();
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  return !event->stream || event->stream->done >= event->ticket ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t from, cudaEvent_t to) {
  *ms = float(to->ticket - from->ticket);
  return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (!stream || stream->capturing) return fail(cudaErrorStreamCaptureUnsupported);
  stream->capturing = true;
  stream->graph = new Graph;
  stream->graph->streams = {stream};
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  if (!stream || !stream->capturing) return fail(cudaErrorInvalidValue);
  Graph* const captured = stream->graph;
  bool joined = true;
  for (Stream* s : captured->streams) {
    joined &= s == stream || captured->joined[s];
    s->capturing = false;
    s->graph = nullptr;
  }
  if (joined) {
    *graph = captured;
    return cudaSuccess;
  }
  delete captured;
  *graph = nullptr;
  return fail(cudaErrorStreamCaptureUnjoined);
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status = stream && stream->capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  *exec = new Graph(*graph);
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  for (auto& work : exec->work) enqueue(stream, work);
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete exec;
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
