// Channels that become places as modules; autograd/pixel_shuffle.h says what each does and what it throws.
#pragma once
#include <retape/autograd/pixel_shuffle.h>
#include <retape/nn/module.h>

namespace retape::nn {

/// torch: nn.PixelShuffle.
struct PixelShuffle : Module {
  int64_t upscale_factor;
  explicit PixelShuffle(int64_t factor) : upscale_factor(factor) {}
  Tensor forward(const Tensor& x) const { return pixel_shuffle(x, upscale_factor); }
  RETAPE_FIELDS()
};
/// torch: nn.PixelUnshuffle.
struct PixelUnshuffle : Module {
  int64_t downscale_factor;
  explicit PixelUnshuffle(int64_t factor) : downscale_factor(factor) {}
  Tensor forward(const Tensor& x) const { return pixel_unshuffle(x, downscale_factor); }
  RETAPE_FIELDS()
};
/// torch: nn.ChannelShuffle.
struct ChannelShuffle : Module {
  int64_t groups;
  explicit ChannelShuffle(int64_t groups) : groups(groups) {}
  Tensor forward(const Tensor& x) const { return channel_shuffle(x, groups); }
  RETAPE_FIELDS()
};

}  // namespace retape::nn
