// Deformable convolution and pooling of regions against the numbers of torchvision that tests/golden/make_layers_regions.py writes; bad input. Derivatives of
// the ops are in tests/op_cases.h.
#include <omp.h>

#include <memory>

#include "layer_cases.h"

using namespace retape;
using namespace retape::testing;

namespace {

std::vector<double> numbers(const Tensor& t) { return t.to_vector<double>(); }
const Options f64{.dtype = DType::f64};
Tensor box(std::initializer_list<double> values) { return tensor(std::vector<double>(values), {1, 5}); }

}  // namespace

TEST_CASE("deformable convolution and pooling of regions are torchvision's") {
  const nn::DefaultOptions options(f64);
  const auto deform = [](auto... o) {
    return [=](const CaseInputs& in) { return deform_conv2d(in["x"], in["offset"], in["weight"], in["bias"], o..., in["mask"]); };
  };
  std::vector<LayerCase> cases = {
      {"deform", deform(DeformConvParams{.padding = 1})},
      {"deform_mask", deform(DeformConvParams{.stride = 2, .padding = {1, 0}, .dilation = {1, 2}})},
      {"deform_groups", deform(DeformConvParams{})},
      {"deform_depthwise", deform(DeformConvParams{.padding = 1})},
      {"deform_zero_offsets", deform(DeformConvParams{.padding = 1})},
  };
  for (const double scale : {1., 0.5}) {
    const std::string tag = scale == 1 ? "" : "_half";
    const auto add = [&](const char* name, auto module) {
      const auto shared = std::make_shared<const decltype(module)>(std::move(module));
      cases.push_back({name + tag, [=](const CaseInputs& in) { return (*shared)(in["x"], in["boxes"]); }});
    };
    add("roi_align", nn::RoIAlign({3, 2}, {.spatial_scale = scale}));
    add("roi_align_samples", nn::RoIAlign(2, {.spatial_scale = scale, .sampling_ratio = 2}));
    add("roi_align_aligned", nn::RoIAlign({2, 3}, {.spatial_scale = scale, .aligned = true}));
    add("roi_align_aligned_samples", nn::RoIAlign({2, 3}, {.spatial_scale = scale, .sampling_ratio = 3, .aligned = true}));
    add("roi_pool", nn::RoIPool({3, 2}, scale));
    add("ps_roi_align", nn::PSRoIAlign({3, 2}, {.spatial_scale = scale}));
    add("ps_roi_align_samples", nn::PSRoIAlign({1, 3}, {.spatial_scale = scale, .sampling_ratio = 2}));
    add("ps_roi_pool", nn::PSRoIPool({2, 3}, scale));
  }
  check_layer_cases(SafeTensors::open(RETAPE_GOLDEN "/layers_regions.safetensors").tensors(), cases);
}

TEST_CASE("a deformable convolution starts as a convolution does and is one without offsets") {
  manual_seed(1);
  const nn::DeformConv2d deformable(4, 6, {.kernel_size = 3, .stride = 2, .padding = 1, .groups = 2});
  manual_seed(1);
  const nn::Conv2d plain(4, 6, {.kernel_size = 3, .stride = 2, .padding = 1, .groups = 2});
  CHECK(deformable.state_dict().size() == 2);
  CHECK(same_bits(deformable.weight, plain.weight));
  CHECK(same_bits(deformable.bias, plain.bias));
  const Tensor x = cast(wave({2, 4, 7, 6}), DType::f32), offset = zeros({2, 18, 4, 3}), mask = full({2, 9, 4, 3}, 1);
  CHECK(relative_difference(deformable(x, offset), plain(x)) < 1e-6);
  CHECK(relative_difference(deformable(x, offset, mask), plain(x)) < 1e-6);
  CHECK(relative_difference(deformable(x, offset, 0 * mask), reshape(plain.bias, {6, 1, 1}) + zeros({2, 6, 4, 3})) == 0);
  CHECK(nn::DeformConv2d(2, 2, {.kernel_size = 1, .bias = false}).state_dict().size() == 1);
}

TEST_CASE("an offset that is nan gives nan there, an infinite one samples nothing") {
  const Tensor x = full({1, 1, 3, 3}, 2, f64), weight = ones({1, 1, 1, 1}, f64);
  std::vector<double> by(18, 0.);
  by[0] = NAN, by[1] = INFINITY, by[9 + 2] = -INFINITY, by[9 + 3] = 1e300;
  Tensor offset = tensor(by, {1, 2, 3, 3}).set_requires_grad(), image = clone(x).set_requires_grad();
  const Tensor y = deform_conv2d(image, offset, weight);
  const auto v = numbers(y);
  CHECK(std::isnan(v[0]));
  CHECK(std::vector<double>(v.begin() + 1, v.end()) == std::vector<double>{0, 0, 0, 2, 2, 2, 2, 2});
  backward(sum(y));
  CHECK(numbers(image.grad()) == std::vector<double>{0, 0, 0, 0, 1, 1, 1, 1, 1});
  const auto d = numbers(offset.grad());
  CHECK((std::isnan(d[0]) && std::isnan(d[9])));
  for (const size_t i : {1, 2, 3, 10, 11, 12}) CHECK(d[i] == 0);
}

TEST_CASE("deformable convolution and pooling of regions do not depend on the number of threads") {
  const int before = omp_get_max_threads();
  std::vector<Tensor> results[2];
  for (const int threads : {1, 3}) {
    omp_set_num_threads(threads);
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const auto leaf = [&](const Shape& shape, double scale, double k) {
        return Tensor(cast(scale * wave(shape, k), dtype).detach()).set_requires_grad();
      };
      Tensor x = leaf({2, 72, 20, 19}, 1, 0), offset = leaf({2, 36, 20, 19}, 3, 1), mask = leaf({2, 18, 20, 19}, 1, 2),
             w = leaf({8, 72, 3, 3}, 1, 3);
      const Tensor rows = wave({40, 5});
      const Tensor boxes = cat({full({40, 1}, 1, f64), 10 + 8 * narrow(rows, 1, 1, 2), 14 + 8 * narrow(rows, 1, 3, 2)}, 1);
      for (const Tensor& y : {deform_conv2d(x, offset, w, {}, {.padding = 1}, mask), roi_align(x, boxes, 3), roi_pool(x, boxes, 3)}) {
        results[threads > 1].push_back(y);
        for (Tensor* t : {&x, &offset, &mask, &w}) t->set_grad({});
        backward(sum(square(y)));
        for (Tensor* t : {&x, &offset, &mask, &w})
          if (t->grad()) results[threads > 1].push_back(t->grad());
      }
    }
  }
  omp_set_num_threads(before);
  REQUIRE(results[0].size() == results[1].size());
  CHECK(results[0].size() > 12);
  for (size_t i = 0; i < results[0].size(); ++i) CHECK(same_bits(results[0][i], results[1][i]));
}

TEST_CASE("what does not fit a deformable convolution is an error") {
  const Tensor x = zeros({2, 4, 5, 5}), offset = zeros({2, 18, 3, 3}), weight = zeros({2, 4, 3, 3}), mask = zeros({2, 9, 3, 3});
  CHECK(deform_conv2d(x, offset, weight, {}, {}, mask).shape() == Shape{2, 2, 3, 3});
  const auto error = [](const std::string& message, auto... in) {
    CHECK_THAT(error_of([&] { deform_conv2d(in...); }), ContainsSubstring(message));
  };
  error("deform_conv2d: x of shape [4, 5, 5] has 3 dims; it must have 4", zeros({4, 5, 5}), offset, weight);
  error("deform_conv2d: weight [2, 3, 3, 3] does not fit x [2, 4, 5, 5]", x, offset, zeros({2, 3, 3, 3}));
  error("deform_conv2d: offset [2, 17, 3, 3] does not fit", x, zeros({2, 17, 3, 3}), weight);
  error("it must be (2, offset groups * 18, 3, 3)", x, zeros({2, 18, 3, 4}), weight);
  error("deform_conv2d: offset [1, 18, 3, 3] does not fit", x, zeros({1, 18, 3, 3}), weight);
  error("deform_conv2d: offset [2, 54, 3, 3] has 3 groups, which do not divide the 4 channels", x, zeros({2, 54, 3, 3}), weight);
  error("deform_conv2d: mask [2, 18, 3, 3] is for 2 groups of channels, and offset [2, 18, 3, 3] for 1", x, offset, weight, Tensor{},
        DeformConvParams{}, zeros({2, 18, 3, 3}));
  error("deform_conv2d: bias [3] does not fit", x, offset, weight, zeros({3}));
  error("deform_conv2d: stride 0 is not valid", x, offset, weight, Tensor{}, DeformConvParams{.stride = 0});
  error("does not fit a size of 5", x, offset, weight, Tensor{}, DeformConvParams{.dilation = 3});
  CHECK_THAT(error_of([] { nn::DeformConv2d(3, 4, {.kernel_size = 3, .groups = 2}); }),
             ContainsSubstring("groups 2 does not divide 3 in_channels"));
}

TEST_CASE("an empty batch goes through deformable convolution") {
  const Tensor x = zeros({0, 4, 5, 5}).set_requires_grad(), weight = ones({2, 4, 3, 3}).set_requires_grad();
  const Tensor y = deform_conv2d(x, zeros({0, 18, 3, 3}), weight);
  CHECK(y.shape() == Shape{0, 2, 3, 3});
  backward(sum(y));
  CHECK(numbers(weight.grad()) == std::vector<double>(72, 0.));
}

TEST_CASE("boxes are rows with the number of their image, or a tensor for every image") {
  const Tensor x = wave({2, 2, 6, 6}), a = tensor<double>({0, 1, 4, 5}, {1, 4}), b = tensor<double>({1, 1, 3, 3, 2, 0, 5, 5}, {2, 4});
  const Tensor rows = tensor<double>({0, 0, 1, 4, 5, 1, 1, 1, 3, 3, 1, 2, 0, 5, 5}, {3, 5});
  CHECK(same_bits(roi_align(x, rows, 2), roi_align(x, std::vector<Tensor>{a, b}, 2)));
  CHECK(same_bits(roi_pool(x, cast(rows, DType::f32), 2), roi_pool(x, rows, 2)));
}

TEST_CASE("no boxes and no images are no regions") {
  const Tensor x = wave({2, 4, 6, 6}).set_requires_grad();
  const Tensor y = roi_align(x, zeros({0, 5}), 2) + roi_pool(x, zeros({0, 5}), 2);
  CHECK(y.shape() == Shape{0, 4, 2, 2});
  CHECK(ps_roi_pool(x, zeros({0, 5}), 2).shape() == Shape{0, 1, 2, 2});
  backward(sum(y));
  CHECK(numbers(x.grad()) == std::vector<double>(288, 0.));
  CHECK(roi_align(zeros({0, 4, 6, 6}), std::vector<Tensor>{}, 2).shape() == Shape{0, 4, 2, 2});
  CHECK(numbers(roi_align(zeros({1, 1, 0, 3}), zeros({1, 5}), 1)) == std::vector<double>{0});
}

TEST_CASE("boxes without a size, of any size, or that are no numbers") {
  const Tensor x = full({1, 1, 4, 5}, 3, f64);
  const double huge = 1e30;
  CHECK(numbers(roi_align(x, box({0, 2, 2, 2, 2}), 1)) == std::vector<double>{3});
  CHECK(numbers(roi_align(x, box({0, 2, 2, 2, 2}), 1, {.aligned = true})) == std::vector<double>{0});
  CHECK(numbers(roi_align(x, box({0, 2, 2, 2, 2}), 1, {.sampling_ratio = 2, .aligned = true})) == std::vector<double>{3});
  CHECK(numbers(ps_roi_align(x, box({0, 2, 2, 2, 2}), 1)) == std::vector<double>{0});
  CHECK(numbers(ps_roi_pool(x, box({0, 1, 1, 1, 1}), 1)) == std::vector<double>{3});
  CHECK(numbers(roi_pool(x, box({0, 3, 3, 1, 1}), 1)) == std::vector<double>{3});
  CHECK(numbers(roi_align(x, box({0, -1e6, -1e6, 1e6, 1e6}), 1))[0] < 1e-9);
  CHECK(numbers(roi_pool(x, box({0, -huge, -huge, huge, huge}), 1)) == std::vector<double>{3});
  CHECK(std::isnan(numbers(roi_align(x, box({0, -huge, -huge, huge, huge}), 1))[0]));
  CHECK(numbers(roi_align(x, box({0, 0, 0, huge, huge}), 1, {.sampling_ratio = 1})) == std::vector<double>{0});
  for (const double odd : {double(NAN), double(INFINITY), -double(INFINITY)}) {
    CHECK(std::isnan(numbers(roi_align(x, box({0, odd, 0, 2, 2}), 1))[0]));
    CHECK(std::isnan(numbers(ps_roi_align(x, box({0, 0, 0, 2, odd}), 1))[0]));
    CHECK(std::isnan(numbers(roi_pool(x, box({0, odd, 0, 2, 2}), 1))[0]) == std::isnan(odd));
    CHECK(std::isnan(numbers(ps_roi_pool(x, box({0, odd, 0, 2, 2}), 1))[0]) == std::isnan(odd));
  }
}

TEST_CASE("the largest element of a region is nan if there is one, and the first of equals gets the gradient") {
  Tensor x = tensor<double>({1, 2, NAN, 0, 2, 2, 0, 0, 0}, {1, 1, 3, 3});
  CHECK(std::isnan(numbers(roi_pool(x, box({0, 0, 0, 2, 2}), 1))[0]));
  x = tensor<double>({1, 2, -INFINITY, 0, 2, 2, 0, 0, 0}, {1, 1, 3, 3}).set_requires_grad();
  CHECK(numbers(roi_pool(x.detach(), box({0, 2, 0, 2, 0}), 1)) == std::vector<double>{-INFINITY});
  backward(sum(roi_pool(x, cat({box({0, 0, 0, 2, 2}), box({0, 1, 1, 2, 2})}), 1)));
  CHECK(numbers(x.grad()) == std::vector<double>{0, 1, 0, 0, 1, 0, 0, 0, 0});
}

TEST_CASE("what does not fit pooling of regions is an error") {
  const Tensor x = zeros({2, 4, 5, 5}), boxes = zeros({3, 5});
  const auto error = [](const std::string& message, auto f) { CHECK_THAT(error_of(f), ContainsSubstring(message)); };
  error("roi_align: index 2 is out of range; expected 0 <= index < 2", [&] { roi_align(x, box({2, 0, 0, 1, 1}), 2); });
  error("roi_pool: index -1 is out of range", [&] { roi_pool(x, box({-1, 0, 0, 1, 1}), 2); });
  error("ps_roi_pool: index -1 is out of range", [&] { ps_roi_pool(x, box({NAN, 0, 0, 1, 1}), 2); });
  error("roi_align: boxes [3, 4] of f32 are not valid", [&] { roi_align(x, zeros({3, 4}), 2); });
  error("roi_align: boxes [3, 5] of i64 are not valid", [&] { roi_align(x, cast(boxes, DType::i64), 2); });
  error("roi_align: boxes [3, 5] of f32 are not valid", [&] { roi_align(x, std::vector<Tensor>{boxes, boxes}, 2); });
  error("roi_align: there are boxes for 1 images, and x [2, 4, 5, 5] has 2", [&] { roi_align(x, std::vector<Tensor>{zeros({1, 4})}, 2); });
  error("ps_roi_align: the 3 bins of output_size do not divide the 4 channels", [&] { ps_roi_align(x, boxes, {1, 3}); });
  error("roi_pool: output_size 0 is not valid", [&] { roi_pool(x, boxes, 0); });
  error("roi_pool: spatial_scale nan is not valid", [&] { roi_pool(x, boxes, 2, NAN); });
  error("roi_align: x [4, 5, 5] of f32 is not valid", [&] { roi_align(zeros({4, 5, 5}), boxes, 2); });
}
