// Dropout.
#pragma once
#include <retape/core/random.h>

namespace retape {

/// Each element becomes 0 with probability p, else x / (1 - p). Returns x itself unless `training`. The mask is not stored: it is drawn
/// again from the generator's state, so that backward and replay see the same one. x floating. Throws Error unless p is in [0, 1].
/// Srivastava et al. 2014; torch: functional.dropout.
Tensor dropout(const Tensor& x, double p = 0.5, bool training = true, Generator& generator = default_generator());

}  // namespace retape
