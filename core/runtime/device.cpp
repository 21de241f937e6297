// Devices by name, and calls that are passed on to a device's runtime.
#include <retape/core/device.h>

#include <fmt/format.h>

#include <atomic>
#include <charconv>

#include <retape/core/device_runtime.h>
#include <retape/core/dispatch.h>

namespace retape {

#ifdef RETAPE_WITH_CUDA
namespace cuda {
extern const DeviceRuntime runtime;
}
const DeviceRuntime* detail::cuda_runtime = &cuda::runtime;
#else
constinit const DeviceRuntime* detail::cuda_runtime = nullptr;
#endif

std::string Device::str() const {
  switch (type) {
    case Type::cpu: return "cpu";
    case Type::meta: return "meta";
    case Type::cuda: break;
  }
  return fmt::format("cuda:{}", int(index));
}
Device Device::parse(const std::string& name) {
  if (name == "cpu") return cpu();
  if (name == "meta") return meta();
  if (name == "cuda") return cuda();
  int index = -1;
  const char *first = name.data() + 5, *last = name.data() + name.size();
  if (name.starts_with("cuda:") && first != last)
    if (const auto [end, error] = std::from_chars(first, last, index); error == std::errc{} && end == last && index >= 0 && index < 128)
      return cuda(index);
  throw Error(fmt::format("device: \"{}\" is no device; use cpu, cuda, cuda:0, cuda:1, ... or meta", name));
}

void synchronize(Device device) {
  if (!device.is_cuda()) return;
  if (!detail::cuda_runtime) detail::no_backend(device, "synchronize");
  detail::cuda_runtime->synchronize(device.index);
}

namespace cuda {
namespace {
std::atomic<bool> tf32{false};
}
void set_allow_tf32(bool on) { tf32 = on; }
bool allow_tf32() { return tf32; }
int device_count() { return detail::cuda_runtime ? detail::cuda_runtime->device_count() : 0; }
std::string why_unavailable() {
  return detail::cuda_runtime ? detail::cuda_runtime->why_unavailable()
                              : "this build of Retape has no CUDA; build it with -DRETAPE_CUDA=ON";
}
}  // namespace cuda

}  // namespace retape
