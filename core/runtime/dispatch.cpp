// Which instruction set level runs on this processor.
#include <retape/core/dispatch.h>

#include <fmt/format.h>

#include <cstdlib>
#include <string>

namespace retape {
namespace {

bool supported(Backend level) {
  switch (level) {
#if defined(__x86_64__)
    // Single features, because clang 14 knows no level names.
    case Backend::cpu_v4:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && supported(Backend::cpu_v3);
    case Backend::cpu_v3:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
             __builtin_cpu_supports("fma") && supported(Backend::cpu_v2);
    case Backend::cpu_v2: return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt");
#endif
    case Backend::cpu_generic: return true;
    default: return false;
  }
}

struct Level {
  Backend backend;
  const char* name;
};
constexpr Level levels[] = {
#ifdef RETAPE_WITH_CPU_V4
    {Backend::cpu_v4, "v4"},
#endif
#ifdef RETAPE_WITH_CPU_V3
    {Backend::cpu_v3, "v3"},
#endif
#ifdef RETAPE_WITH_CPU_V2
    {Backend::cpu_v2, "v2"},
#endif
#ifdef RETAPE_WITH_CPU_GENERIC
    {Backend::cpu_generic, "generic"},
#endif
};

// An unusable wish or processor must not throw during start-up: `none` is found by the first kernel call.
Backend choose() {
#if defined(__x86_64__)
  __builtin_cpu_init();
#endif
  const char* wish = std::getenv("RETAPE_CPU_LEVEL");
  for (auto& level : levels)
    if ((!wish || std::string(wish) == level.name) && supported(level.backend)) return level.backend;
  return Backend::none;
}

}  // namespace

const char* cpu_level() {
  for (auto& level : levels)
    if (level.backend == detail::cpu_backend) return level.name;
  return "none";
}

namespace detail {

Backend cpu_backend = Backend::none;

namespace {
// Before the constructors of any other file, since static tensors may run ops.
[[gnu::constructor(101)]] void set_backend() { cpu_backend = choose(); }
}  // namespace

void check_cpu_backend() {
  if (cpu_backend != Backend::none) return;
  std::string built;
  for (auto& level : levels) built += std::string(built.empty() ? "" : ", ") + level.name;
  const char* wish = std::getenv("RETAPE_CPU_LEVEL");
  throw Error(fmt::format("no CPU kernels for this processor{}: this build has the levels {}",
                          wish ? fmt::format(" at RETAPE_CPU_LEVEL={}", wish) : "", built));
}

void no_backend(Device device, const char* kernel) {
  throw Error(fmt::format("{}: a tensor is on {}, and this build of Retape has no kernels for it",
                          std::string(kernel).substr(0, std::string(kernel).find('(')),
                          device.type == Device::Type::cuda ? fmt::format("cuda:{}", device.index) : "an unknown device"));
}
void kernel_outside_forward(const char* kernel) {
  const std::string name = std::string(kernel).substr(0, std::string(kernel).find('('));
  throw Error(fmt::format(
      "{}: a backward calls this kernel directly, so it has no second derivative; wrap the kernel in an op with a composite", name));
}

}  // namespace detail
}  // namespace retape
