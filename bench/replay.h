#pragma once

namespace retape::bench {

/// `bench --replay [--layers N] [--width N] [--block N] [--batch N] [--rounds N] [--csv FILE] [--svg FILE]`: the peak of tensor memory and the time of
/// a GPT's training step, plain, with each --recompute of the trainer, and under memory budgets. All ways take turns; medians of the rounds.
/// Prints a table and returns the exit status: 1 if a budget was exceeded.
int replay(int argc, char** argv);

}  // namespace retape::bench
