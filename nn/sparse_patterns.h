// Which blocks of a long sequence attend to which.
#pragma once
#include <functional>

#include <retape/core/tensor.h>

namespace retape::nn {

/// Attention between blocks of block_size positions: AttentionParams::block_mask and block_size for any length.
struct BlockPattern {
  int64_t block_size = 64;
  std::function<bool(int64_t query_block, int64_t key_block)> sees;
  /// bool (1, rows, columns): rows for queries query_offset .. query_offset + queries - 1, those before being false.
  Tensor mask(int64_t queries, int64_t keys, int64_t query_offset = 0, Device device = {}) const;
};

/// At the granularity of blocks, so that what the papers name is seen, and what lies in a block with it. All work with is_causal. Numbers of
/// positions are multiples of block_size, but for a window and global tokens, which are rounded up; else Error.
namespace sparse_patterns {
/// The last `stride` positions, and every stride-th block before, in both directions. Child et al. 2019, both parts merged.
BlockPattern strided(int64_t stride, int64_t block_size = 64);
/// The positions of a query's own stretch of `stride`, and the last `summary` ones of every stretch. Child et al. 2019, both parts merged.
BlockPattern fixed(int64_t stride, int64_t summary = 64, int64_t block_size = 64);
/// window / 2 positions to both sides; the first `global_tokens` see all and are seen by all. Beltagy et al. 2020.
BlockPattern longformer(int64_t window, int64_t global_tokens = 0, int64_t block_size = 64);
}  // namespace sparse_patterns

}  // namespace retape::nn
