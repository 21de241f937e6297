// Channels of an image that become places, or other channels.
#pragma once
#include <retape/core/tensor.h>

namespace retape {

/// x (..., C r r, H, W) as (..., C, H r, W r): channel c r r + i r + j goes to the places i, j of each square of r by r. Of images (N, C,
/// H, W) the result lies channels-last in memory. Any dtype. Throws Error for fewer than 3 dims, a factor below 1, and channels that r r
/// does not divide. Shi et al. 2016; torch: functional.pixel_shuffle.
Tensor pixel_shuffle(const Tensor& x, int64_t upscale_factor);
/// The way back: x (..., C, H r, W r) as (..., C r r, H, W). torch: functional.pixel_unshuffle.
Tensor pixel_unshuffle(const Tensor& x, int64_t downscale_factor);
/// Channel g C / groups + c of x (N, C, ...) becomes channel c groups + g. Zhang et al. 2017; torch: functional.channel_shuffle.
Tensor channel_shuffle(const Tensor& x, int64_t groups);

}  // namespace retape
