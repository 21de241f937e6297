// Scaled dot-product attention.
#pragma once
#include <retape/core/random.h>

namespace retape {

struct AttentionParams {
  Tensor mask = {};        ///< bool (true: attend) or floating (added to the scores); broadcasts to (B, Hq, T, S). No gradient.
                           ///< false or -infinity hides a key
  bool is_causal = false;  ///< query t attends to keys 0 .. t
  double dropout_p = 0;    ///< of the attention weights
  double scale = 0;        ///< of the scores; 0: 1 / sqrt(D)
};
/// softmax(scale q k^T + mask) v, without storing the score matrix. q (B, Hq, T, D), k (B, Hkv, S, D), v (B, Hkv, S, Dv) with Hq a
/// multiple of Hkv: (B, Hq, T, Dv); or all three without B. One floating dtype. A query that sees no key gets 0. The result lies in memory
/// as (B, T, Hq, Dv), so that merging the heads is a view. Throws Error if shapes, dtypes or devices do not fit, and if the mask
/// wants a gradient. FlashAttention-2 (Dao 2023); torch: scaled_dot_product_attention.
Tensor scaled_dot_product_attention(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionParams& params = {},
                                    Generator& generator = default_generator());

}  // namespace retape
