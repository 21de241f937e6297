// Finding the op that makes the first nan, or that overflows a half type.
#pragma once
#include <vector>

#include <retape/core/context.h>
#include <retape/core/tensor.h>

namespace retape {

namespace detail {
inline thread_local constinit bool detecting_anomalies = false;
/// Throws Error if a result has values that are not to be there while all inputs are finite.
void check_results(const char* op, const Tensor* const* in, int n, const std::vector<Tensor>& out);
void check_gradient(const char* op, const std::vector<Tensor>& dy, const Tensor& dx);
}  // namespace detail

/// While it lives, every op on this thread looks at what it has made, for which it waits for the device: slow, to find a mistake with. Throws
/// Error with the op, its module, shapes, dtype and device if finite inputs give a nan or, in f16, an infinity (its numbers end at 65504), and if
/// a backward makes a nan of a finite gradient. An infinity that an op was told to write, such as masked_fill's, counts, too.
/// torch: autograd.detect_anomaly.
struct DetectAnomaly {
  Scoped<bool> scope{detail::detecting_anomalies, true};
};

}  // namespace retape
