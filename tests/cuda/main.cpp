// Runs the CUDA tests: on the emulation here, on a GPU where the library has been built with CUDA.
#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_session.hpp>
#else
#define CATCH_CONFIG_RUNNER
#include <catch2/catch.hpp>
#endif
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <retape/core/device.h>
#include <retape/core/device_runtime.h>

#ifdef RETAPE_EMULATE_CUDA
#include <cuda/emulation.h>

namespace retape::cuda {
extern const DeviceRuntime runtime;
}
#endif

int main(int argc, char** argv) {
#ifdef RETAPE_EMULATE_CUDA
  retape::detail::cuda_runtime = &retape::cuda::runtime;
  if (const char* order = std::getenv("RETAPE_EMULATION_ORDER"))
    emulation::settings.order = !std::strcmp(order, "reverse")  ? emulation::Order::reverse
                                : !std::strcmp(order, "random") ? emulation::Order::random
                                                                : emulation::Order::forward;
#endif
  if (!retape::cuda::is_available()) {
    std::printf("skipped: %s\n", retape::cuda::why_unavailable().c_str());
    return 77;
  }
  return Catch::Session().run(argc, argv);
}
