#include <retape/core/stream.h>

#include <fmt/format.h>

#include <cstring>

#include <retape/core/device_runtime.h>
#include <retape/core/dispatch.h>

namespace retape {

namespace detail {
void begin_range(const char* name) {
  if (cuda_runtime) cuda_runtime->begin_range(name);
}
void end_range() {
  if (cuda_runtime) cuda_runtime->end_range();
}
}  // namespace detail

namespace cuda {
namespace {

const DeviceRuntime& runtime_of(const char* what, Device device) {
  if (!device.is_cuda()) throw Error(fmt::format("{}: {} has no streams; only CUDA devices do", what, device.str()));
  if (!retape::detail::cuda_runtime) retape::detail::no_backend(device, what);
  retape::detail::cuda_runtime->use(device.index);
  return *retape::detail::cuda_runtime;
}
// What exists was made by a runtime that is there.
const DeviceRuntime& runtime() { return *retape::detail::cuda_runtime; }

// The device's own streams, and those of others, are nobody's to give back.
std::shared_ptr<void> unowned(void* handle) {
  return {handle, [](void*) {}};
}

}  // namespace

Stream::Stream(Device device, bool urgent)
    : device_(device), handle_(runtime_of("stream", device).take_stream(device.index, urgent), [=](void* handle) {
        runtime().give_stream(device.index, handle, urgent);
      }) {}
Stream Stream::current(Device device) { return {device, unowned(runtime_of("stream", device).current_stream(device.index))}; }
Stream Stream::default_stream(Device device) { return {device, unowned(runtime_of("stream", device).default_stream(device.index))}; }
void Stream::synchronize() const { runtime().wait_for_stream(device_.index, handle()); }
bool Stream::query() const { return runtime().stream_is_done(handle()); }
void Stream::wait(const Stream& other) const {
  if (!(*this == other)) wait(other.record());
}
void Stream::wait(const Event& event) const {
  runtime().use(device_.index);
  runtime().stream_waits(handle(), event.handle());
}
Event Stream::record() const {
  Event event(device_);
  event.record(*this);
  return event;
}

Event::Event(Device device, bool timing)
    : device_(device),
      timing_(timing),
      handle_(runtime_of("event", device).make_event(device.index, timing), [](void* handle) { runtime().drop_event(handle); }) {}
void Event::record(const Stream& stream) {
  if (!(stream.device() == device_))
    throw Error(fmt::format("event: made for {}, it cannot be recorded on a stream of {}", device_.str(), stream.device().str()));
  runtime().use(device_.index);
  runtime().record_event(handle(), stream.handle());
  recorded_ = true;
}
void Event::synchronize() const { runtime().wait_for_event(device_.index, handle()); }
bool Event::query() const { return runtime().event_is_done(handle()); }
double Event::elapsed_ms(const Event& end) const {
  for (const Event* e : {this, &end})
    if (!e->timing_ || !e->recorded_ || !e->query())
      throw Error(fmt::format("event: elapsed_ms: the {} event {}", e == this ? "first" : "second",
                              !e->timing_     ? "was made without timing; make it with Event(device, true)"
                              : !e->recorded_ ? "was never recorded"
                                              : "has not been reached yet; synchronize() first"));
  if (!(device_ == end.device_))
    throw Error(
        fmt::format("event: elapsed_ms: the events are of {} and {}; both must be of one device", device_.str(), end.device_.str()));
  return runtime().milliseconds(handle(), end.handle());
}

StreamGuard::StreamGuard(const Stream& stream) : stream_(stream), before_(Stream::current(stream.device())) {
  runtime().set_stream(stream.device().index, stream.handle());
}
StreamGuard::~StreamGuard() {
  try {
    runtime().set_stream(stream_.device().index, before_.handle());
  } catch (const Error&) {  // the device is lost; whatever comes next says so
  }
}

void record_stream(const Tensor& x, const Stream& stream) {
  if (!x) throw Error("record_stream: the tensor is undefined");
  if (!(x.device() == stream.device()))
    throw Error(fmt::format("record_stream: the tensor is on {}, the stream on {}; both must be on one device", x.device().str(),
                            stream.device().str()));
  runtime().record_stream(x->storage->data, stream.handle());
}

namespace {
struct PinnedMemory final : Object {
  std::byte* p;
  explicit PinnedMemory(std::byte* memory) : p(memory) {}
  ~PinnedMemory() override { runtime().deallocate_pinned(p); }
  void destroy() noexcept override { delete this; }
};
}  // namespace

Tensor pin_memory(const Tensor& x) {
  if (!x) throw Error("pin_memory: the tensor is undefined");
  if (!x.device().is_cpu())
    throw Error(fmt::format("pin_memory: a tensor of shape {} is on {}; only memory of the CPU can be page-locked", x.shape().str(),
                            x.device().str()));
  const Tensor y = retape::detail::empty_pinned(x.shape(), x.dtype());
  Tensor out = y;
  const Scoped inside(ctx.inside_forward, true);
  RETAPE_DISPATCH(x.device(), copy(x, out));
  return y;
}
bool is_pinned(const Tensor& x) { return x && x.device().is_cpu() && is_available() && runtime().is_pinned(x->storage->data); }

Range::Range(const char* name) { retape::detail::begin_range(name); }
Range::~Range() { retape::detail::end_range(); }

}  // namespace cuda

Tensor detail::empty_pinned(const Shape& shape, DType dtype) {
  if (const std::string why = cuda::why_unavailable(); !why.empty())
    throw Error(fmt::format("pin_memory: page-locked memory needs a CUDA device: {}", why));
  const size_t bytes = size_t(shape.numel()) * size_of(dtype);
  std::byte* const p = cuda::runtime().allocate_pinned(bytes);
  auto owner = Ref<Object>::adopt(new cuda::PinnedMemory(p));
  Layout layout;
  layout.shape = shape;
  layout.strides = contiguous_strides(shape);
  layout.dtype = dtype;
  return make_tensor(Storage::wrap(p, bytes, std::move(owner)), layout);
}

}  // namespace retape
