#pragma once

namespace retape::bench {

/// Median seconds in which the host launches a kernel that multiplies 4 floats, without waiting for it: what no op can go below.
/// In builds with CUDA only.
double bare_launch_seconds(int device, int count);

}  // namespace retape::bench
