// ResNets, and state dicts, against PyTorch's; tests/golden/make_resnet.py wrote the files.
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <fstream>

#include "golden.h"

using namespace retape;
using namespace retape::testing;

namespace {

nn::ResNetConfig with_classes(nn::ResNetConfig config, int64_t classes) {
  config.num_classes = classes;
  return config;
}
std::vector<std::string> described(const NamedTensors& state) {
  std::vector<std::string> lines;
  for (auto& [name, t] : state)
    lines.push_back(fmt::format("{} {} {}", name, t.shape().str(), t.dtype() == DType::i64 ? "int64" : "float32"));
  return lines;
}
std::vector<std::string> of_pytorch(const std::string& name) {
  const auto all = nlohmann::json::parse(std::ifstream(RETAPE_GOLDEN "/state_dicts.json"));
  std::vector<std::string> lines;
  for (auto& entry : all.at(name))
    lines.push_back(fmt::format("{} {} {}", entry[0].get<std::string>(), Shape(entry[1].get<std::vector<int64_t>>()).str(),
                                entry[2].get<std::string>()));
  return lines;
}

}  // namespace

TEST_CASE("state dicts have PyTorch's names, order, shapes and dtypes", "[resnet]") {
  CHECK(described(nn::ResNet(nn::resnet18()).state_dict()) == of_pytorch("resnet18"));
  CHECK(described(nn::ResNet(with_classes(nn::resnet34(), 10)).state_dict()) == of_pytorch("resnet34"));
  CHECK(described(nn::ResNet(with_classes(nn::resnet50(), 10)).state_dict()) == of_pytorch("resnet50"));
  CHECK(described(nn::LSTM(3, 5, {.num_layers = 2, .bidirectional = true, .proj_size = 2}).state_dict()) == of_pytorch("lstm"));
  nn::TransformerOptions options;
  options.dim_feedforward = 16, options.num_encoder_layers = 2, options.num_decoder_layers = 1;
  CHECK(described(nn::Transformer(8, 2, options).state_dict()) == of_pytorch("transformer"));
}

TEST_CASE("ResNets give torchvision's logits and gradients", "[resnet]") {
  const nn::DefaultOptions f64({.dtype = DType::f64});
  const Golden golden(RETAPE_GOLDEN "/resnet.safetensors");
  for (const bool deep : {false, true}) {
    nn::ResNet model(with_classes(deep ? nn::resnet50() : nn::resnet18(), 4));
    waved(model);
    for (const bool training : {true, false}) {
      model.train(training);
      model.zero_grad();
      const Tensor x = wave(deep ? Shape{3, 3, 40, 33} : Shape{3, 3, 33, 40}, 0.1).set_requires_grad();
      const Tensor y = model(x);
      backward(sum(y * wave(y.shape(), 0.5)));
      std::vector<double> numbers;
      for (const Tensor& p : model.parameters())
        for (const Tensor& number : {sqrt(sum(square(p.grad()))), sum(p.grad()), sum(p.grad() * wave(p.shape(), 0.2))})
          numbers.push_back(number.item());
      const std::string tag = fmt::format("{}.{}", deep ? "resnet50" : "resnet18", training ? "train" : "eval");
      CAPTURE(tag);
      const Tensor gradients = tensor(numbers, {int64_t(numbers.size()) / 3, 3});
      const double precision = deep ? 1e-8 : 1e-12;  // batch norm over batch norm enlarges what rounding does
      CHECK(relative_difference(y, golden(tag + ".y")) < precision);
      CHECK(relative_difference(x.grad().at({Slice(), Slice(), Slice(None, None, 7), Slice(None, None, 7)}), golden(tag + ".dx")) <
            10 * precision);
      CHECK(relative_difference(gradients, golden(tag + ".gradients")) < 10 * precision);
      if (!training) break;
      const NoGrad off;
      for (auto& [name, t] : model.state_dict()) {
        if (name.ends_with("running_var")) copy_into(square(wave(t.shape())) * 100 + 50, t);
        if (name.ends_with("running_mean")) copy_into(wave(t.shape()) * 10, t);
      }
    }
  }
}

TEST_CASE("a Transformer is PyTorch's", "[transformer]") {
  const nn::DefaultOptions f64({.dtype = DType::f64});
  const Golden golden(RETAPE_GOLDEN "/resnet.safetensors");
  nn::TransformerOptions options;
  options.dim_feedforward = 16, options.num_encoder_layers = 2, options.num_decoder_layers = 1, options.batch_first = true;
  nn::Transformer model(8, 2, options);
  waved(model).eval();
  const Tensor y =
      model(wave({2, 3, 8}, 0.1), wave({2, 4, 8}, 0.2), nn::MultiheadAttentionInputs{}, nn::MultiheadAttentionInputs{.is_causal = true});
  CHECK(relative_difference(y, golden("transformer.y")) < 1e-12);
  const Tensor other = model(wave({2, 3, 8}, 0.1), wave({2, 4, 8}, 0.2));  // every position sees all
  CHECK(relative_difference(other, golden("transformer.y")) > 1e-9);
}

TEST_CASE("a ResNet starts as torchvision's does, and as the identity if so asked", "[resnet]") {
  manual_seed(1);
  const nn::ResNet model({.blocks = {1, 1, 1, 1}, .num_channels = 1, .num_classes = 7, .zero_init_residual = true});
  const double std = std::sqrt(2.0 / (64 * 49));  // by fan_out
  const auto w = model.conv1.weight->to_vector<double>();
  double squares = 0;
  for (const double v : w) squares += v * v;
  CHECK(std::sqrt(squares / double(w.size())) == Approx(std).epsilon(0.05));
  CHECK(same_bits(model.layer1[0].bn2.weight, zeros({64})));
  CHECK(model.layer3[0].downsample->at<nn::Conv2d>(0).weight->shape() == Shape{256, 128, 1, 1});
  CHECK_FALSE(model.layer1[0].downsample.has_value());
}

TEST_CASE("a ResNet says what does not fit", "[resnet]") {
  CHECK_THAT(error_of([] { nn::ResNet({.blocks = {2, 0, 2, 2}}); }), ContainsSubstring("ResNet: blocks 0"));
  CHECK_THAT(error_of([] { nn::ResNet({.num_classes = 0}); }), ContainsSubstring("ResNet: num_classes 0"));
  nn::ResNet model({.blocks = {1, 1, 1, 1}});
  CHECK_THAT(error_of([&] { model(zeros({1, 1, 32, 32})); }), ContainsSubstring("[1, 1, 32, 32] do not fit; expected (B, 3, H, W)"));
  CHECK_THAT(error_of([&] { model(zeros({1, 3, 32, 32})); }), ContainsSubstring("layer4"));  // batch norm of one value, by its path
}

TEST_CASE("a ResNet whose blocks are replayed has the same gradients and running moments", "[resnet]") {
  manual_seed(1);
  nn::ResNet model({.blocks = {2, 1, 1, 1}, .num_channels = 1, .num_classes = 3});
  nn::ResNet replayed = model.clone();
  replayed.run_blocks = [](auto& blocks, const Tensor& x) { return checkpoint_sequential(blocks, 1, x); };
  const Tensor x = randn({2, 1, 40, 40});
  backward(sum(square(model(x))));
  backward(sum(square(replayed(x))));
  const auto a = model.named_parameters(), b = replayed.named_parameters();
  for (size_t i = 0; i < a.size(); ++i) CHECK(same_bits(a[i].second.grad(), b[i].second.grad()));
  const auto s = model.state_dict(), t = replayed.state_dict();
  for (size_t i = 0; i < s.size(); ++i) CHECK(same_bits(s[i].second, t[i].second));
}
