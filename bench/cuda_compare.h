#pragma once

namespace retape::bench {

/// `bench --cuda [--peer PYTHON] [--device NAME] [--filter WORD] [--rounds N] [--peak-tflops N] [--smoke] [--csv FILE]`: times every work of
/// cuda_works.h on a device, and on the PyTorch of this Python in turn, and prints a table. Returns the exit status: 1 if a row falls short
/// of its goal or fails, 2 if nothing could be measured.
int compare_on_device(int argc, char** argv);

}  // namespace retape::bench
