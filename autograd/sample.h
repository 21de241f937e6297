// Random numbers whose distribution is given by a tensor. Samples have no gradient.
#pragma once
#include <retape/core/random.h>

namespace retape {

/// Uniform in [0, 1), or normal, in x's shape, dtype and device. torch: rand_like, randn_like.
Tensor rand_like(const Tensor& x, Generator& generator = default_generator());
Tensor randn_like(const Tensor& x, Generator& generator = default_generator());
/// 1 with the probability that p gives, else 0, in p's shape and dtype. Throws Error unless 0 <= p <= 1. torch: bernoulli.
Tensor bernoulli(const Tensor& p, Generator& generator = default_generator());
/// Normal with a mean and standard deviation for each element; the two broadcast. torch: normal(mean, std).
Tensor normal(const Tensor& mean, const Tensor& std, Generator& generator = default_generator());
/// `count` indices (i64) for each row of weights (n) or (rows, n), drawn in proportion to the weights, which are finite, not
/// negative and not all 0. Without replacement, an index comes at most once: Error if fewer weights are above 0. torch: multinomial.
Tensor multinomial(const Tensor& weights, int64_t count, bool replacement = false, Generator& generator = default_generator());

}  // namespace retape
