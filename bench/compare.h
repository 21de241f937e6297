#pragma once

namespace retape::bench {

/// `bench --peer PYTHON [--filter WORD] [--rounds N] [--csv FILE]`: times every work on Retape and on the PyTorch of this Python in
/// turn, next to the roofs of the machine, and prints a table. Returns the exit status: 1 if a row falls short of its goal.
int compare(int argc, char** argv);

}  // namespace retape::bench
