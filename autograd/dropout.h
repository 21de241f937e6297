// Dropout.
#pragma once
#include <retape/core/random.h>

namespace retape {

/// Each element becomes 0 with probability p, else x / (1 - p). Returns x itself unless `training`. The mask is not stored: it is drawn
/// again from the generator's state, so that backward and replay see the same one. x floating. Throws Error unless p is in [0, 1].
/// Srivastava et al. 2014; torch: functional.dropout.
Tensor dropout(const Tensor& x, double p = 0.5, bool training = true, Generator& generator = default_generator());

/// Dropout of whole slices: one choice for each place in the first `dims` dims. x itself unless `training`.
Tensor feature_dropout(const Tensor& x, int64_t dims, double p = 0.5, bool training = true, Generator& generator = default_generator());
/// Each element becomes the least value of selu() with probability p, and all are scaled and shifted so that mean and variance of selu()'s results stay as
/// they are. Klambauer et al. 2017; torch: functional.alpha_dropout.
Tensor alpha_dropout(const Tensor& x, double p = 0.5, bool training = true, Generator& generator = default_generator());
/// The same with one choice for each channel of x (N, C, ...). torch: functional.feature_alpha_dropout.
Tensor feature_alpha_dropout(const Tensor& x, double p = 0.5, bool training = true, Generator& generator = default_generator());

}  // namespace retape
