// nn/receptive_field.h against what gradients of all units say, and against published numbers.
#include <retape/retape.h>

#include "../catch.h"

#include <algorithm>

using namespace retape;
using namespace retape::testing;
using Dim = nn::ReceptiveField::Dim;

namespace {

// The smallest intervals around the pixels that have a gradient, one for each dim of space.
std::vector<Interval> support(const Tensor& gradient) {
  std::vector<Interval> all;
  for (int d = 2; d < gradient.dim(); ++d) {
    Shape others;
    for (int e = 0; e < gradient.dim(); ++e)
      if (e != d) others.push_back(e);
    const auto seen = sum(abs(gradient), others).to_vector<double>();
    const double least = 1e-5 * *std::max_element(seen.begin(), seen.end());  // weights that are 0 but for rounding
    Interval i{int64_t(seen.size()), 0};
    for (int64_t at = 0; at < int64_t(seen.size()); ++at)
      if (seen[size_t(at)] > least) i = {std::min(i.begin, at), at + 1};
    all.push_back(i);
  }
  return all;
}

template <class Model> void check_by_gradients(Model&& model, const Tensor& input) {
  const nn::ReceptiveField field = nn::receptive_field(model, input);
  const Tensor x = input.detach().set_requires_grad();
  const Tensor y = model(x);
  const int64_t units = y.numel() / (y.size(0) * y.size(1));
  for (int64_t u = 0; u < units; ++u) {
    std::vector<int64_t> place(size_t(y.dim() - 2));
    int64_t rest = u;
    for (int d = y.dim() - 1; d >= 2; --d) place[size_t(d - 2)] = rest % y.size(d), rest /= y.size(d);
    Tensor unit = y;
    for (const int64_t i : place) unit = select(unit, 2, i);
    const auto dx = grad({sum(unit)}, {x}, {.retain_graph = true})[0];
    CAPTURE(place);
    const auto expected = support(dx), found = field.of(place);
    REQUIRE(found.size() == expected.size());
    for (size_t d = 0; d < found.size(); ++d) {
      CAPTURE(d, found[d].begin, found[d].end, expected[d].begin, expected[d].end);
      CHECK(found[d] == expected[d]);
    }
  }
}

Tensor image(int64_t height, int64_t width) { return randn({1, 2, height, width}); }
Tensor kernel(int64_t height, int64_t width) { return uniform({2, 2, height, width}, 0.5, 1); }

}  // namespace

TEST_CASE("the receptive fields of all units are the supports of their gradients", "[receptive_field]") {
  manual_seed(1);
  const Tensor w8 = uniform({8, 2, 3, 3}, 0.5, 1), w = kernel(3, 2), w5 = kernel(5, 3), up = kernel(4, 3);
  SECTION("stride, padding and two sizes") {
    check_by_gradients(
        [&](const Tensor& x) {
          return conv2d(conv2d(x, w, {}, {.stride = {2, 1}, .padding = {1, 0}}), w5, {}, {.padding = 2});
        },
        image(11, 9));
  }
  SECTION("dilation") {
    check_by_gradients([&](const Tensor& x) { return conv2d(x, w, {}, {.padding = {2, 3}, .dilation = {2, 3}}); }, image(9, 8));
  }
  SECTION("pooling, and the mean of windows that part the image") {
    check_by_gradients(
        [&](const Tensor& x) {
          return adaptive_avg_pool2d(avg_pool2d(conv2d(x, w), 3, {.stride = 2, .padding = 1}), {2, 3});
        },
        image(13, 12));
  }
  SECTION("a transposed convolution") {
    check_by_gradients(
        [&](const Tensor& x) {
          return conv2d(conv_transpose2d(x, up, {}, {.stride = {2, 3}, .padding = 1}), w);
        },
        image(5, 4));
  }
  SECTION("a branch that sees more than the other, joined by a sum and by channels") {
    check_by_gradients(
        [&](const Tensor& x) {
          const Tensor y = conv2d(x, w5, {}, {.padding = {2, 1}});
          return cat({x + y, conv2d(x, kernel(1, 1))}, 1);
        },
        image(8, 7));
  }
  SECTION("padding of another kind, shifts and pieces") {
    check_by_gradients(
        [&](const Tensor& x) {
          const Tensor y = conv2d(pad(x, {1, 0, 2, 1}), w);
          return cat({narrow(y, 2, 0, 3), narrow(y, 2, 5, 2)}, 2);
        },
        image(8, 7));
  }
  SECTION("channels moved behind and back, a linear layer and a norm of each pixel") {
    const Tensor matrix = uniform({2, 2}, 0.5, 1);
    check_by_gradients(
        [&](const Tensor& x) {
          const Tensor rows = linear(permute(conv2d(x, w), {0, 2, 3, 1}), matrix);
          return gelu(permute(rows * softmax(rows, -1), {0, 3, 1, 2}));
        },
        image(6, 5));
  }
  SECTION("pixels made of channels by a reshape") {
    check_by_gradients([&](const Tensor& x) { return pixel_shuffle(conv2d(x, w8), 2); }, image(6, 5));
  }
  SECTION("an image that grows and shrinks") {
    for (const auto mode : {InterpolateMode::nearest, InterpolateMode::nearest_exact, InterpolateMode::bilinear, InterpolateMode::bicubic})
      for (const bool corners : {false, true}) {
        if (corners && mode != InterpolateMode::bilinear && mode != InterpolateMode::bicubic) continue;
        CAPTURE(int(mode), corners);
        InterpolateOptions options{.size = {9, 4}, .mode = mode};
        if (corners) options.align_corners = true;
        check_by_gradients([&](const Tensor& x) { return conv2d(interpolate(x, options), w); }, image(5, 6));
      }
  }
  SECTION("one dim and three") {
    check_by_gradients(
        [&](const Tensor& x) {
          return conv1d(x, uniform({2, 2, 3}, 0.5, 1), {}, {.stride = 2, .padding = 1});
        },
        randn({1, 2, 9}));
    check_by_gradients(
        [&](const Tensor& x) {
          return conv3d(x, uniform({1, 2, 2, 3, 1}, 0.5, 1), {}, {.padding = {1, 1, 0}});
        },
        randn({1, 2, 4, 3, 3}));
  }
  SECTION("what sees all of the image") {
    check_by_gradients([&](const Tensor& x) { return group_norm(x, 1) * x; }, image(4, 3));
    check_by_gradients([&](const Tensor& x) { return x + mean(x, {2}, true); }, image(4, 3));
    check_by_gradients([&](const Tensor& x) { return linear(flatten(x, 1), uniform({3, 24}, 0.5, 1)); }, image(4, 3));
  }
}

TEST_CASE("receptive fields have the size, stride and offset that are published", "[receptive_field]") {
  // Added up by hand: each 3 x 3 convolution adds twice the stride of its input. Araujo et al. 2019 have 435 for ResNet-18; in ResNet-50 it matters that
  // torchvision's 3 x 3 convolutions have the stride.
  const nn::DefaultOptions on_meta({.device = Device::meta()});
  const Tensor images = zeros({1, 3, 224, 224}, {DType::f32, Device::meta()});
  for (const bool deep : {false, true}) {
    nn::ResNet model(deep ? nn::resnet50() : nn::resnet18());
    const auto maps = nn::receptive_field([&](const Tensor& x) { return model.feature_maps(x); }, (model.eval(), images));
    const Dim expected = deep ? Dim{427, 32, -213} : Dim{435, 32, -217};
    REQUIRE(maps.dims.size() == 2);
    for (const Dim& d : maps.dims) {
      CAPTURE(d.size, d.stride, d.offset);
      CHECK(d == expected);
    }
    CHECK(maps.of({3, 0}) == std::vector<Interval>{{0, 224}, {0, deep ? 214 : 218}});
  }
}

TEST_CASE("a network that is no function of places sees the whole image, and trains afterwards as before", "[receptive_field]") {
  manual_seed(1);
  nn::Sequential net(nn::Conv2d(2, 3, {.kernel_size = 3}), nn::BatchNorm2d(3), nn::ReLU());
  net.at<nn::BatchNorm2d>(1).eval();
  const auto field = nn::receptive_field(net, image(6, 5));
  CHECK(field.dims == std::vector<Dim>{{3, 1, 0}, {3, 1, 0}});
  CHECK(net.is_training());
  CHECK_FALSE(net.at<nn::BatchNorm2d>(1).is_training());

  nn::ResNet classifier(nn::resnet18());
  const auto logits = nn::receptive_field(classifier, randn({1, 3, 33, 64}));
  CHECK(logits.dims == std::vector<Dim>{{467, 0, -217}, {467, 0, -217}});
  CHECK(logits.of({}) == std::vector<Interval>{{0, 33}, {0, 64}});
}

TEST_CASE("from an op that says nothing of itself, everything depends on everything", "[receptive_field]") {
  const auto field = nn::receptive_field([](const Tensor& x) { return cumsum(x, 2) * 2; }, image(4, 3));
  CHECK(field.dims == std::vector<Dim>{{4, 0, 0}, {3, 0, 0}});
  CHECK(field.of({0, 2}) == std::vector<Interval>{{0, 4}, {0, 3}});
}

TEST_CASE("an upsampled image has units between pixels", "[receptive_field]") {
  manual_seed(1);
  const auto field = nn::receptive_field(
      [w = kernel(4, 4)](const Tensor& x) { return conv_transpose2d(x, w, {}, {.stride = 2, .padding = 1}); }, image(4, 4));
  CHECK(field.dims == std::vector<Dim>{{2, 0.5, -1}, {2, 0.5, -1}});
}

TEST_CASE("receptive_field says what it cannot answer", "[receptive_field]") {
  const auto same = [](const Tensor& x) { return x * 2; };
  CHECK_THAT(error_of([&] { nn::receptive_field(same, randn({4, 3})); }), ContainsSubstring("input [4, 3] has no dims of space"));
  CHECK_THAT(error_of([&] { nn::receptive_field([](const Tensor& x) { return sum(x, {3}); }, image(4, 3)); }),
             ContainsSubstring("output [1, 2, 4] has 1 dims of space, and the input [1, 2, 4, 3] has 2"));
  CHECK_THAT(error_of([&] { nn::receptive_field([](const Tensor& x) { return zeros_like(x); }, image(4, 3)); }),
             ContainsSubstring("does not depend on the input"));
  const auto field = nn::receptive_field(same, image(4, 3));
  CHECK_THAT(error_of([&] { field.of({0}); }), ContainsSubstring("a place of 1 numbers"));
  CHECK_THAT(error_of([&] { field.of({4, 0}); }), ContainsSubstring("unit 4 is not in dim 2 of the output [1, 2, 4, 3]"));
}
