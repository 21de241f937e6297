// Choosing a backend. A kernel call is written RETAPE_DISPATCH(x.device(), softmax(x, log, y)): the device says whose table it is in.
#pragma once
#include <retape/core/context.h>
#include <retape/core/kernel_table.h>

namespace retape {

/// The instruction set level whose kernels run, "none" if there is none for this processor: found at start-up, or
/// RETAPE_CPU_LEVEL=generic|v2|v3|v4 in the environment.
const char* cpu_level();

namespace detail {
/// What ctx.ranges asks for; see cuda::EmitRanges.
void begin_range(const char* name);
void end_range();
struct OpRange {
  bool on = ctx.ranges;
  RETAPE_INLINE explicit OpRange(const char* name) {
    if (on) [[unlikely]]
      begin_range(name);
  }
  OpRange(const OpRange&) = delete;
  RETAPE_INLINE ~OpRange() {
    if (on) [[unlikely]]
      end_range();
  }
};

extern const Kernels* cpu_kernels;                                    // null: none for this processor
const Kernels* kernels_elsewhere(Device device, const char* kernel);  // of a device that is neither the CPU nor meta
[[noreturn]] void no_backend(Device device, const char* kernel);
[[noreturn]] void kernel_outside_forward(const char* kernel);
RETAPE_INLINE const Kernels* kernels_of(Device device, const char* kernel) {
  if (ctx.differentiating && !ctx.inside_forward) kernel_outside_forward(kernel);
  if (device.is_cpu()) return cpu_kernels;
  if (device.is_meta()) return nullptr;
  return kernels_elsewhere(device, kernel);
}
}  // namespace detail

// On a meta tensor nothing runs. A kernel outside an op's forward, in a backward that is being differentiated, is an Error: it
// would cut the second derivative.
#define RETAPE_DISPATCH(device, ...)                                                                                   \
  do {                                                                                                                 \
    if (const ::retape::Kernels* const retape_kernels = ::retape::detail::kernels_of(device, #__VA_ARGS__)) [[likely]] \
      retape_kernels->__VA_ARGS__;                                                                                     \
  } while (0)

}  // namespace retape
