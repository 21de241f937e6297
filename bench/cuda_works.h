// What `bench --cuda` times on a GPU, next to PyTorch's. Every work takes the device and says its sizes, so that tiny ones run on a CPU.
#pragma once
#include <string>
#include <vector>

#include "works.h"

namespace retape::bench {

struct DeviceWork {
  std::string name;
  std::string peer;     ///< what the peer is asked
  double at_least = 0;  ///< how many times faster than the peer Retape should be
  std::function<Step()> make;
  double flops = 0;    ///< of a repetition; shown as TFLOP/s
  double bytes = 0;    ///< read and written by a repetition; shown as a fraction of the copy bandwidth
  double of_copy = 0;  ///< the fraction to reach
};
/// tiny: sizes that say nothing about speed, to see that every work runs.
std::vector<DeviceWork> device_works(Device device, bool tiny);

/// Bytes read and written by the copy that stands for what the memory can do.
int64_t copied_bytes(bool tiny);
Step device_copy(Device device, bool tiny);

/// The GPT-2 whose training step is timed, for a batch.
StepSettings gpt2_settings(int64_t batch, bool tiny);
/// FLOPs of a token, forward and backward: 6 N + 12 layers width block, with N the parameters but for the positions (PaLM, appendix B; nanoGPT).
double flops_per_token(const StepSettings& settings);
/// The largest power of two up to `most` with which the step fits the device's memory; 0: not even 1.
int64_t largest_batch(Device device, int64_t most, bool tiny);

/// Median seconds in which the host hands an op of a chain of multiplications of 4 floats to the device, without waiting for it.
double issue_seconds(Device device, int64_t count, bool recorded);

}  // namespace retape::bench
