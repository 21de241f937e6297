// Scaled dot-product attention.
#pragma once
#include <retape/core/random.h>

namespace retape {

/// Query i stands at position i + query_offset, key j at position j. What hides keys may be combined: a key is seen if nothing hides it.
struct AttentionParams {
  Tensor mask = {};                ///< bool (true: attend) or floating (added to the scores); broadcasts to (B, Hq, T, S). No gradient.
                                   ///< false or -infinity hides a key
  bool is_causal = false;          ///< a query sees keys up to its own position
  double dropout_p = 0;            ///< of the attention weights
  double scale = 0;                ///< of the scores; 0: 1 / sqrt(D)
  bool allow_masked_rows = false;  ///< a query that has keys and sees none of them gets 0; else that is an Error

  /// A query sees keys from its position - window_left to its position + window_right; -1: no limit. Tiles of scores outside take no time.
  /// Beltagy et al. 2020; flash-attn: window_size.
  int64_t window_left = -1, window_right = -1;
  int64_t sinks = 0;         ///< so many keys from the first on are not hidden by window_left (Xiao et al. 2023)
  int64_t query_offset = 0;  ///< the position of the first query; how many keys were there before, in generation
  double softcap = 0;        ///< scores become softcap * tanh(scores / softcap) before anything is added to them (Gemma 2); 0: they stay
  Tensor alibi_slopes = {};  ///< (Hq) floating: -slope * distance is added to a score (Press et al. 2021); nn::alibi_slopes() makes them
  /// (Hq, T + S - 1) floating: [j - i + T - 1] is added to the score of query i and key j, whatever query_offset is. Has a gradient.
  /// nn::T5RelativePositionBias makes them.
  Tensor relative_bias = {};
  /// bool (Hq or 1, rows, columns) or (rows, columns): false hides the keys of a block of block_size positions from the queries of another,
  /// and that costs no time. rows = ceil((T + query_offset) / block_size), columns = ceil(S / block_size); block_size is a multiple of 64.
  /// nn::sparse_patterns makes them.
  Tensor block_mask = {};
  int64_t block_size = 64;
  /// Sequences of different lengths, one behind the other: q (T, Hq, D), k (S, Hkv, D), v (S, Hkv, Dv) give (T, Hq, Dv). Sequence n is of
  /// the queries cu_seqlens_q[n] .. below cu_seqlens_q[n + 1], and so its keys; both i32 or i64 (N + 1), and positions count from where it
  /// begins. block_mask is then for sequences of max_seqlen_q and max_seqlen_k, the most there are; 0: T and S. No mask. flash-attn:
  /// flash_attn_varlen_func.
  Tensor cu_seqlens_q = {}, cu_seqlens_k = {};
  int64_t max_seqlen_q = 0, max_seqlen_k = 0;
};
/// softmax(scale q k^T + mask) v, without storing the score matrix. q (B, Hq, T, D), k (B, Hkv, S, D), v (B, Hkv, S, Dv) with Hq a multiple
/// of Hkv: (B, Hq, T, Dv); or all three without B. One floating dtype. Where there are no keys at all the result is 0. It lies in memory as
/// (B, T, Hq, Dv), so that merging the heads is a view. Throws Error if shapes, dtypes or devices do not fit, if the mask wants a gradient,
/// and unless allow_masked_rows if masks, windows or blocks hide all of its keys from a query; on CUDA where the host next waits for the
/// device. FlashAttention-2 (Dao 2023); torch: scaled_dot_product_attention.
Tensor scaled_dot_product_attention(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionParams& params = {},
                                    Generator& generator = default_generator());

}  // namespace retape
