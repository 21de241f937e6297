// Residual networks (He et al. 2016), with the names of torchvision's: a state_dict() goes there and comes back as it is.
#pragma once
#include <array>
#include <functional>
#include <optional>
#include <vector>

#include <retape/nn/batch_norm.h>
#include <retape/nn/convolution.h>
#include <retape/nn/linear.h>
#include <retape/nn/sequential.h>

namespace retape::nn {

struct ResNetConfig {
  std::array<int64_t, 4> blocks = {2, 2, 2, 2};  ///< of layer1 to layer4
  bool bottleneck = false;   ///< blocks of 1x1, 3x3 and 1x1 convolutions, the last with four times the channels, instead of two of 3x3
  int64_t num_channels = 3;  ///< of the images
  int64_t num_classes = 1000;
  bool zero_init_residual = false;  ///< the last norm of each block starts at 0, so that a block starts as the identity (Goyal et al. 2017)
};
/// Throws Error, naming the field, for numbers below 1.
void check(const ResNetConfig& config);
/// torchvision: resnet18, resnet34, resnet50, resnet101, resnet152; the 3x3 convolution of a bottleneck has the stride.
ResNetConfig resnet18();
ResNetConfig resnet34();
ResNetConfig resnet50();
ResNetConfig resnet101();
ResNetConfig resnet152();

/// relu(x + convolutions of x), where x goes through `downsample`, a 1x1 convolution and a norm, if its shape has to change. torchvision: BasicBlock, and
/// Bottleneck, which has the third convolution.
struct ResNetBlock : Module {
  Conv2d conv1;
  BatchNorm2d bn1;
  Conv2d conv2;
  BatchNorm2d bn2;
  std::optional<Conv2d> conv3;
  std::optional<BatchNorm2d> bn3;
  std::optional<Sequential> downsample;
  /// From `in` channels to `width`, or four times as many with `bottleneck`.
  ResNetBlock(int64_t in, int64_t width, int64_t stride, bool bottleneck);
  Tensor forward(const Tensor& x);
  RETAPE_FIELDS(conv1, bn1, conv2, bn2, conv3, bn3, downsample)
};
/// Runs the blocks of one layer in some other way than one after the other, such as with checkpoints. Empty: one after the other.
using RunResNetBlocks = std::function<Tensor(std::vector<ResNetBlock>& blocks, const Tensor& x)>;

/// A stem, a 7x7 convolution and max pooling with a stride of 2 each; four layers, of which all but the first halve height and width and double the channels;
/// the mean over what is left of the image; a linear layer. Convolutions start kaiming_normal by fan_out. torchvision: ResNet.
struct ResNet : Module {
  ResNetConfig config;
  RunResNetBlocks run_blocks;
  Conv2d conv1;
  BatchNorm2d bn1;
  std::vector<ResNetBlock> layer1, layer2, layer3, layer4;
  Linear fc;

  /// Throws Error as check() does.
  explicit ResNet(const ResNetConfig& config = {});
  /// images (B, num_channels, H, W): logits (B, num_classes). Throws Error for another number of channels.
  Tensor forward(const Tensor& images);
  /// What layer4 gives: (B, 512, H / 32, W / 32), sizes rounded up, or 2048 channels with bottlenecks.
  Tensor feature_maps(const Tensor& images);
  /// Their mean over all places, which is classified: (B, 512), or (B, 2048) with bottlenecks.
  Tensor features(const Tensor& images);
  RETAPE_FIELDS(conv1, bn1, layer1, layer2, layer3, layer4, fc)
};

}  // namespace retape::nn
