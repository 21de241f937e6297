// `mistakes NAME [forward|reverse|random]` makes a mistake of CUDA on purpose. A build that finds it says so and fails:
//
//     missing_barrier               race check   "race: a shared array is"
//     missing_warp_fence            race check   "race: a shared array is"
//     non_atomic_update             race check   "race: device memory"
//     uninitialised_shared          race check   "uninitialised: a shared array is read"
//     shared_out_of_bounds          sanitizer    "global-buffer-overflow" or "insufficient space"
//     dynamic_shared_out_of_bounds  sanitizer    "heap-buffer-overflow"
//     global_out_of_bounds          sanitizer    "heap-buffer-overflow"
//     wrong_lane_mask               both         "is in a mask, but has left the kernel or never was"
//     divergent_barrier             both         "divergent barriers"
//     none                          neither      "no mistake was found", exit 0
#include "mistakes.h"

#include <cuda/emulation.h>

#include <cstdio>

int main(int argc, char** argv) {
  const std::string name = argc > 1 ? argv[1] : "none", order = argc > 2 ? argv[2] : "forward";
  if (order == "reverse") emulation::settings.order = emulation::Order::reverse;
  if (order == "random") emulation::settings.order = emulation::Order::random;
  try {
    if (!run_mistake(name)) {
      std::fprintf(stderr, "there is no mistake %s\n", name.c_str());
      return 2;
    }
  } catch (const emulation::Mistake& mistake) {
    std::fprintf(stderr, "%s\n", mistake.what());
    return 1;
  }
  std::printf("no mistake was found\n");
  return 0;
}
