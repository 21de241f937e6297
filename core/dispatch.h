// Choosing a backend. A kernel call is written RETAPE_DISPATCH(x.device(), softmax(x, log, y)): the macro picks the namespace.
#pragma once
#include <retape/core/context.h>
#include <retape/core/kernel_args.h>

namespace retape {

#ifdef RETAPE_WITH_CPU_GENERIC
namespace cpu_generic {
#include <retape/core/kernel_list.inc>
}
#endif
#ifdef RETAPE_WITH_CPU_V2
namespace cpu_v2 {
#include <retape/core/kernel_list.inc>
}
#endif
#ifdef RETAPE_WITH_CPU_V3
namespace cpu_v3 {
#include <retape/core/kernel_list.inc>
}
#endif
#ifdef RETAPE_WITH_CPU_V4
namespace cpu_v4 {
#include <retape/core/kernel_list.inc>
}
#endif

/// The instruction set level whose kernels run: found at start-up, or RETAPE_CPU_LEVEL=generic|v2|v3|v4 in the environment.
enum class Backend : uint8_t { cpu_generic, cpu_v2, cpu_v3, cpu_v4, none };
const char* cpu_level();

namespace detail {
extern Backend cpu_backend;
[[noreturn]] void no_backend(Device device, const char* kernel);
[[noreturn]] void kernel_outside_forward(const char* kernel);
RETAPE_INLINE Backend backend(Device device, const char* kernel) {
  if (ctx.differentiating && !ctx.inside_forward) kernel_outside_forward(kernel);
  if (device.is_cpu()) return cpu_backend;
  if (device.is_meta()) return Backend::none;
  no_backend(device, kernel);
}
}  // namespace detail

#ifdef RETAPE_WITH_CPU_GENERIC
#define RETAPE_CASE_GENERIC(...)        \
  case ::retape::Backend::cpu_generic:  \
    ::retape::cpu_generic::__VA_ARGS__; \
    break;
#else
#define RETAPE_CASE_GENERIC(...)
#endif
#ifdef RETAPE_WITH_CPU_V2
#define RETAPE_CASE_V2(...)        \
  case ::retape::Backend::cpu_v2:  \
    ::retape::cpu_v2::__VA_ARGS__; \
    break;
#else
#define RETAPE_CASE_V2(...)
#endif
#ifdef RETAPE_WITH_CPU_V3
#define RETAPE_CASE_V3(...)        \
  case ::retape::Backend::cpu_v3:  \
    ::retape::cpu_v3::__VA_ARGS__; \
    break;
#else
#define RETAPE_CASE_V3(...)
#endif
#ifdef RETAPE_WITH_CPU_V4
#define RETAPE_CASE_V4(...)        \
  case ::retape::Backend::cpu_v4:  \
    ::retape::cpu_v4::__VA_ARGS__; \
    break;
#else
#define RETAPE_CASE_V4(...)
#endif
// On a meta tensor nothing runs. A kernel outside an op's forward, in a backward that is being differentiated, is an Error: it
// would cut the second derivative.
#define RETAPE_DISPATCH(device, ...)                           \
  do {                                                         \
    switch (::retape::detail::backend(device, #__VA_ARGS__)) { \
      RETAPE_CASE_GENERIC(__VA_ARGS__)                         \
      RETAPE_CASE_V2(__VA_ARGS__)                              \
      RETAPE_CASE_V3(__VA_ARGS__)                              \
      RETAPE_CASE_V4(__VA_ARGS__)                              \
      default: break;                                          \
    }                                                          \
  } while (0)

}  // namespace retape
