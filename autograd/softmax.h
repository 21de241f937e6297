// Softmax along a dim.
#pragma once
#include <retape/core/tensor.h>

namespace retape {

/// e^x / sum(e^x) along a dim, without overflow. x floating, any shape; -inf elements get 0, and a line that is -inf everywhere
/// gives 0 everywhere (torch gives nan), so that a masked query attends to nothing. torch: softmax.
Tensor softmax(const Tensor& x, int64_t dim);
/// x - log(sum(e^x)) along a dim: the logarithm of softmax, computed without taking one of a small number. A line that is -inf
/// everywhere stays -inf. torch: log_softmax.
Tensor log_softmax(const Tensor& x, int64_t dim);

}  // namespace retape
