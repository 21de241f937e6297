// Linked into a program, this gives it the emulated CUDA device.
#include <retape/core/device_runtime.h>

namespace retape::cuda {
extern const DeviceRuntime runtime;
}
namespace {
[[maybe_unused]] const auto* const installed = retape::detail::cuda_runtime = &retape::cuda::runtime;
}
