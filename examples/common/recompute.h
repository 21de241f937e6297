// What --recompute says, and blocks that do it.
#pragma once
#include <cstdint>
#include <string>

#include <retape/autograd/checkpoint.h>
#include <retape/core/tensor.h>

namespace retape::examples {

/// What backward computes again instead of finding it in memory; the numbers are the same.
struct Recomputation {
  enum class Kind : uint8_t { none, segments, pointwise };
  Kind kind = Kind::none;
  int64_t segments = 1;  ///< of blocks, each a checkpoint
};
/// `none`; `sqrt`: about sqrt(layers) segments; `every:N`: segments of at most N blocks; `pointwise`: in each block all but matrix products
/// and attention. Throws Error for anything else.
Recomputation parse_recomputation(const std::string& text, int64_t layers);

/// x through all blocks, one after the other.
template <class Blocks> Tensor run_blocks(Blocks& blocks, const Recomputation& recompute, Tensor x) {
  if (recompute.kind != Recomputation::Kind::pointwise) return checkpoint_sequential(blocks, recompute.segments, x);
  for (auto& block : blocks) x = checkpoint({.recompute = Recompute::cheap}, block, x);
  return x;
}

}  // namespace retape::examples
