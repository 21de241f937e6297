// Captured graphs: a thread's work on a device, recorded by CUDA on a stream of its own and launched again and again.
#include <retape/cuda/graph.h>

#include <cstring>
#include <string>

#include <retape/core/error.h>
#include <retape/core/storage.h>
#include <retape/cuda/machine.h>

namespace retape::cuda {

// ---- memory ------------------------------------------------------------------------------------------------------------

// In whole units, so that tensors of nearly one size can follow each other.
namespace {
size_t rounded(size_t bytes) {
  const size_t unit = bytes < 1 << 20 ? 512 : 2 << 20;
  return (bytes + unit - 1) / unit * unit;
}
}  // namespace

GraphMemory::GraphMemory(int device) : device_(device) {}
// Whoever drops the graph has waited for its launches.
GraphMemory::~GraphMemory() {
  DeviceState& s = *machine().devices[size_t(device_)];
  for (const auto& [p, bytes] : sizes_) {
    quietly(cudaFreeAsync(const_cast<void*>(p), s.stream));
    s.live.fetch_sub(int64_t(bytes));
  }
}
// New blocks are taken outside of the capture, from the default stream, and so can be used by it: the end of the capture waits for that.
void* GraphMemory::take(size_t bytes, cudaStream_t stream) {
  const size_t size = rounded(bytes);
  const std::lock_guard lock(mutex_);
  auto& free = free_[stream];
  size_t best = free.size();
  for (size_t i = 0; i < free.size(); ++i) {
    const size_t s = sizes_[free[i]];
    if (s >= size && s <= size + size / 4 && (best == free.size() || s < sizes_[free[best]])) best = i;
  }
  if (best < free.size()) {
    void* const p = free[best];
    free.erase(free.begin() + std::ptrdiff_t(best));
    return p;
  }
  void* p = nullptr;
  DeviceState& s = *machine().devices[size_t(device_)];
  cudaError_t error = cudaMallocAsync(&p, size, s.stream);
  if (error == cudaErrorMemoryAllocation) {  // what is on its way back may be enough
    cudaGetLastError();
    check(cudaStreamSynchronize(s.stream), "cudaStreamSynchronize");
    error = cudaMallocAsync(&p, size, s.stream);
  }
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    retape::detail::out_of_memory(Device::cuda(device_), bytes, s.live.load());
  }
  check(error, "cudaMallocAsync");
  sizes_.emplace(p, size);
  count(s, int64_t(size));
  return p;
}
void GraphMemory::give(void* p, cudaStream_t stream) noexcept {
  const std::lock_guard lock(mutex_);
  if (reuse_) free_[stream].push_back(p);
}
void GraphMemory::stop_reusing() {
  const std::lock_guard lock(mutex_);
  reuse_ = false;
  free_.clear();
}
bool GraphMemory::has(const void* p) {
  const std::lock_guard lock(mutex_);
  return sizes_.contains(p);
}

// ---- capture -----------------------------------------------------------------------------------------------------------

// A graph from the start of its capture.
struct Capture {
  struct Held {
    Ref<Storage> storage;
    uint32_t version;
    bool written = false;
  };
  struct Value {
    size_t chunk, word, words;
    std::function<void(void*, bool)> write;
  };
  struct Chunk {
    uint64_t* on_device;
    int words = 0;
  };
  int device;
  bool capturing = false, launched = false;
  cudaStream_t stream = nullptr;  // during the capture
  cudaStream_t before = nullptr;  // what was current then
  cudaGraphExec_t graph = nullptr;
  std::shared_ptr<GraphMemory> memory;
  std::unordered_map<const Storage*, Held> held;
  std::vector<Chunk> chunks;
  std::vector<Value> values;
};

int device_of(const Capture& capture) { return capture.device; }
GraphMemory& memory_of(const Capture& capture) { return *capture.memory; }

void refuse_in_capture(const char* what) {
  if (ctx.capture)
    throw Error(std::string(ctx.op ? ctx.op : "graph") + ": " + what +
                " cannot be part of a captured graph, which runs without the host; do it outside of the captured function");
}

// Storages that the graph reads or writes and that it has not made stay alive as long as it does.
void hold(Storage& storage) {
  Capture& c = *ctx.capture;
  if (c.memory->has(storage.data)) return;
  c.held.try_emplace(&storage, Capture::Held{Ref<Storage>::share(&storage), storage.version});
}

Capture* begin_capture(int device) {
  use(device);
  auto c = std::make_unique<Capture>();
  c->device = device;
  c->memory = std::make_shared<GraphMemory>(device);
  check(cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking), "cudaStreamCreate");
  // Other threads, and memory that is taken meanwhile from another stream, are none of the capture's business.
  const cudaError_t error = cudaStreamBeginCapture(c->stream, cudaStreamCaptureModeRelaxed);
  if (error != cudaSuccess) quietly(cudaStreamDestroy(c->stream));
  check(error, "cudaStreamBeginCapture");
  c->capturing = true;
  c->before = current_stream() == state().stream ? nullptr : current_stream();
  set_stream(device, c->stream);
  return c.release();
}

namespace {
// The captured work as it is, or null and why.
std::pair<cudaGraph_t, cudaError_t> stop(Capture& c) {
  cudaGraph_t graph = nullptr;
  set_stream(c.device, c.before);
  c.capturing = false;
  c.memory->stop_reusing();
  const cudaError_t error = cudaStreamEndCapture(c.stream, &graph);
  quietly(error);
  quietly(cudaStreamDestroy(c.stream));
  c.stream = nullptr;
  return {graph, error};
}
}  // namespace

void end_capture(Capture* capture) {
  Capture& c = *capture;
  use(c.device);
  const auto [graph, stopped] = stop(c);
  if (stopped == cudaErrorStreamCaptureUnjoined)
    throw Error("graph: a stream that began to work inside the captured function is not waited for; let Stream::current() wait for it");
  check(stopped, "cudaStreamEndCapture");
  const cudaError_t error = cudaGraphInstantiate(&c.graph, graph, 0);
  quietly(cudaGraphDestroy(graph));
  check(error, "cudaGraphInstantiate");
  check(cudaStreamSynchronize(state().stream), "cudaStreamSynchronize");  // the graph's memory is there
  for (auto& [storage, held] : c.held) held.written = storage->version != held.version;
}

void launch_graph(Capture* capture) {
  Capture& c = *capture;
  use(c.device);
  Words words{};
  size_t chunk = 0;
  const auto send = [&](size_t next) {
    if (chunk < c.chunks.size() && c.chunks[chunk].words) store(words, c.chunks[chunk].words, c.chunks[chunk].on_device);
    chunk = next;
  };
  for (auto& value : c.values) {
    if (value.chunk != chunk) send(value.chunk);
    value.write(words.at + value.word, !c.launched);
  }
  send(0);
  check(cudaGraphLaunch(c.graph, current_stream()), "cudaGraphLaunch");
  if (c.launched)
    for (auto& [storage, held] : c.held)
      if (held.written) ++held.storage->version;
  c.launched = true;
}

void drop_capture(Capture* capture) noexcept {
  const std::unique_ptr<Capture> c(capture);
  try {
    use(c->device);
  } catch (...) {  // the device is lost, and so is its memory
    return;
  }
  if (c->capturing)
    if (const cudaGraph_t graph = stop(*c).first) quietly(cudaGraphDestroy(graph));
  if (c->graph) {
    quietly(cudaDeviceSynchronize());  // memory goes back that launches use
    quietly(cudaGraphExecDestroy(c->graph));
  }
}

const void* captured_value(size_t bytes, std::function<void(void*, bool)> write) {
  Capture& c = *ctx.capture;
  const int words = int(bytes / 8);
  if (c.chunks.empty() || c.chunks.back().words + words > Words::capacity)
    c.chunks.push_back({static_cast<uint64_t*>(c.memory->take(sizeof(Words), nullptr))});
  Capture::Chunk& chunk = c.chunks.back();
  c.values.push_back({c.chunks.size() - 1, size_t(chunk.words), size_t(words), std::move(write)});
  const void* const at = chunk.on_device + chunk.words;
  chunk.words += words;
  return at;
}

}  // namespace retape::cuda
