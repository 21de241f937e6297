// Which instruction set level runs on this processor.
#include <retape/core/device_runtime.h>
#include <retape/core/dispatch.h>

#include <fmt/format.h>

#include <cstdlib>
#include <string>

namespace retape {

#ifdef RETAPE_WITH_CPU_V4
namespace cpu_v4 {
extern const Kernels kernels;
}
#endif
#ifdef RETAPE_WITH_CPU_V3
namespace cpu_v3 {
extern const Kernels kernels;
}
#endif
#ifdef RETAPE_WITH_CPU_V2
namespace cpu_v2 {
extern const Kernels kernels;
}
#endif
#ifdef RETAPE_WITH_CPU_GENERIC
namespace cpu_generic {
extern const Kernels kernels;
}
#endif

namespace {

#if defined(__x86_64__)
// Single features, because clang 14 knows no level names.
bool has_v2() { return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt"); }
bool has_v3() {
  return has_v2() && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
         __builtin_cpu_supports("fma");
}
[[maybe_unused]] bool has_v4() {  // a build may have none of these levels
  return has_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

struct Level {
  const char* name;
  const Kernels* kernels;
  bool (*supported)();
};
constexpr Level levels[] = {
#ifdef RETAPE_WITH_CPU_V4
    {"v4", &cpu_v4::kernels, has_v4},
#endif
#ifdef RETAPE_WITH_CPU_V3
    {"v3", &cpu_v3::kernels, has_v3},
#endif
#ifdef RETAPE_WITH_CPU_V2
    {"v2", &cpu_v2::kernels, has_v2},
#endif
#ifdef RETAPE_WITH_CPU_GENERIC
    {"generic", &cpu_generic::kernels, [] { return true; }},
#endif
};

// An unusable wish or processor must not throw during start-up: the first tensor finds that there are no kernels.
const Kernels* choose() {
#if defined(__x86_64__)
  __builtin_cpu_init();
#endif
  const char* wish = std::getenv("RETAPE_CPU_LEVEL");
  for (auto& level : levels)
    if ((!wish || std::string(wish) == level.name) && level.supported()) return level.kernels;
  return nullptr;
}

}  // namespace

const char* cpu_level() {
  for (auto& level : levels)
    if (level.kernels == detail::cpu_kernels) return level.name;
  return "none";
}

namespace detail {

const Kernels* cpu_kernels = nullptr;

namespace {
// Before the constructors of any other file, since static tensors may run ops.
[[gnu::constructor(101)]] void set_kernels() { cpu_kernels = choose(); }
}  // namespace

void check_cpu_backend() {
  if (cpu_kernels) return;
  std::string built;
  for (auto& level : levels) built += std::string(built.empty() ? "" : ", ") + level.name;
  const char* wish = std::getenv("RETAPE_CPU_LEVEL");
  throw Error(fmt::format("no CPU kernels for this processor{}: this build has the levels {}",
                          wish ? fmt::format(" at RETAPE_CPU_LEVEL={}", wish) : "", built));
}

const Kernels* kernels_elsewhere(Device device, const char* kernel) {
  if (!cuda_runtime) no_backend(device, kernel);
  cuda_runtime->use(device.index);
  return cuda_runtime->kernels;
}
void no_backend(Device device, const char* kernel) {
  throw Error(fmt::format("{}: {} cannot be used: {}", std::string(kernel).substr(0, std::string(kernel).find('(')), device.str(),
                          cuda::why_unavailable()));
}
void kernel_outside_forward(const char* kernel) {
  const std::string name = std::string(kernel).substr(0, std::string(kernel).find('('));
  throw Error(fmt::format(
      "{}: a backward calls this kernel directly, so it has no second derivative; wrap the kernel in an op with a composite", name));
}

}  // namespace detail
}  // namespace retape
