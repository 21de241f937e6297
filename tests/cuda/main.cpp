// Runs the CUDA tests: on the emulation here, on a GPU where the library has been built with CUDA.
#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_session.hpp>
#else
#define CATCH_CONFIG_RUNNER
#include <catch2/catch.hpp>
#endif
#include <cstdio>

#include <retape/core/device.h>

int main(int argc, char** argv) {
  if (!retape::cuda::is_available()) {
    std::printf("skipped: %s\n", retape::cuda::why_unavailable().c_str());
    return 77;
  }
  return Catch::Session().run(argc, argv);
}
