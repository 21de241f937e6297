#include <retape/nn/resnet.h>

#include <fmt/format.h>

#include <retape/autograd/pool.h>
#include <retape/autograd/unary.h>
#include <retape/autograd/views.h>
#include <retape/nn/init.h>

namespace retape::nn {
namespace {

constexpr int64_t widths[] = {64, 128, 256, 512};
int64_t expansion(bool bottleneck) { return bottleneck ? 4 : 1; }

Conv2d conv3x3(int64_t in, int64_t out, int64_t stride) {
  return Conv2d(in, out, {.kernel_size = 3, .stride = stride, .padding = 1, .bias = false});
}
Conv2d conv1x1(int64_t in, int64_t out, int64_t stride = 1) { return Conv2d(in, out, {.kernel_size = 1, .stride = stride, .bias = false}); }

void init_convolutions(ResNetBlock& block) {
  const auto start = [](const Conv2d& conv) {
    init::kaiming_normal(conv.weight, {.fan = init::Fan::out, .nonlinearity = init::Nonlinearity::relu});
  };
  start(block.conv1), start(block.conv2);
  if (block.conv3) start(*block.conv3);
  if (block.downsample) start(block.downsample->at<Conv2d>(0));
}

}  // namespace

void check(const ResNetConfig& c) {
  const auto positive = [](const char* name, int64_t value) {
    if (value < 1) throw Error(fmt::format("ResNet: {} {} is not valid; it must be at least 1", name, value));
  };
  for (const int64_t n : c.blocks) positive("blocks", n);
  positive("num_channels", c.num_channels), positive("num_classes", c.num_classes);
}
ResNetConfig resnet18() { return {.blocks = {2, 2, 2, 2}}; }
ResNetConfig resnet34() { return {.blocks = {3, 4, 6, 3}}; }
ResNetConfig resnet50() { return {.blocks = {3, 4, 6, 3}, .bottleneck = true}; }
ResNetConfig resnet101() { return {.blocks = {3, 4, 23, 3}, .bottleneck = true}; }
ResNetConfig resnet152() { return {.blocks = {3, 8, 36, 3}, .bottleneck = true}; }

ResNetBlock::ResNetBlock(int64_t in, int64_t width, int64_t stride, bool bottleneck)
    : conv1(bottleneck ? conv1x1(in, width) : conv3x3(in, width, stride)),
      bn1(width),
      conv2(conv3x3(width, width, bottleneck ? stride : 1)),
      bn2(width) {
  const int64_t out = width * expansion(bottleneck);
  if (bottleneck) conv3.emplace(conv1x1(width, out)), bn3.emplace(out);
  if (stride != 1 || in != out) downsample.emplace(conv1x1(in, out, stride), BatchNorm2d(out));
  init_convolutions(*this);
}
Tensor ResNetBlock::forward(const Tensor& x) {
  Tensor y = bn2(conv2(relu(bn1(conv1(x)))));
  if (conv3) y = (*bn3)((*conv3)(relu(y)));
  return relu(y + (downsample ? (*downsample)(x) : x));
}

ResNet::ResNet(const ResNetConfig& c)
    : config((check(c), c)),
      conv1(c.num_channels, widths[0], {.kernel_size = 7, .stride = 2, .padding = 3, .bias = false}),
      bn1(widths[0]),
      fc(widths[3] * expansion(c.bottleneck), c.num_classes) {
  init::kaiming_normal(conv1.weight, {.fan = init::Fan::out, .nonlinearity = init::Nonlinearity::relu});
  int64_t in = widths[0];
  int at = 0;
  for (auto* layer : {&layer1, &layer2, &layer3, &layer4}) {
    for (int64_t i = 0; i < c.blocks[size_t(at)]; ++i) {
      ResNetBlock& block = layer->emplace_back(in, widths[at], i == 0 && at > 0 ? 2 : 1, c.bottleneck);
      if (c.zero_init_residual) init::zeros(block.bn3 ? block.bn3->weight : block.bn2.weight);
      in = widths[at] * expansion(c.bottleneck);
    }
    ++at;
  }
}

Tensor ResNet::feature_maps(const Tensor& images) {
  if (images.dim() != 4 || images.size(1) != config.num_channels)
    throw Error(fmt::format("ResNet: images of shape {} do not fit; expected (B, {}, H, W)", images.shape().str(), config.num_channels));
  Tensor x = max_pool2d(relu(bn1(conv1(images))), 3, {.stride = 2, .padding = 1});
  for (auto* layer : {&layer1, &layer2, &layer3, &layer4}) {
    if (run_blocks) x = run_blocks(*layer, x);
    else
      for (auto& block : *layer) x = block(x);
  }
  return x;
}
Tensor ResNet::features(const Tensor& images) { return flatten(adaptive_avg_pool2d(feature_maps(images), 1), 1); }
Tensor ResNet::forward(const Tensor& images) { return fc(features(images)); }

}  // namespace retape::nn
