// All mixers on the same text, at equal parameters and steps.
#pragma once
#include <string>

#include "train.h"

namespace retape::lm {

struct CompareOptions : examples::RunOptions, TextOptions {
  Config model{.block = 256};
  std::string mixers, contexts = "1024,4096,16384";
  int64_t parameters = 1'000'000, batch = 8, steps = 500, order = 8;
  double lr = 1e-3;
};
void declare_compare(examples::Settings& settings, CompareOptions& options);
/// Trains each mixer in the folder `out`/<mixer>, with the width that comes nearest to the parameters, times generation behind contexts of so many tokens,
/// and writes table.md, table.csv and loss.svg into `out` after each, with an n-gram model as the first row. What is in `out` already is taken as it is;
/// a run that was stopped goes on. Throws Error.
void compare(CompareOptions& options, examples::Settings& settings);

}  // namespace retape::lm
