// Augmentations. Expected numbers without a remark are torchvision's (0.29), for image() below.

#include <cmath>
#include <set>

#include <retape/data/augment.h>

#include "../catch.h"

using namespace retape;
using namespace retape::testing;
using namespace retape::transforms;

namespace {

using Values = std::vector<int>;

// torch: c, y, x = meshgrid(arange(3), arange(4), arange(5), indexing="ij"); ((c*70 + y*53 + x*x*17 + (c+1)*x*y*9) % 256).to(torch.uint8)
Tensor image(int64_t height = 4, int64_t width = 5) {
  const Tensor out = empty({3, height, width}, {DType::u8});
  uint8_t* p = out.mutable_data<uint8_t>();
  for (int64_t c = 0; c < 3; ++c)
    for (int64_t y = 0; y < height; ++y)
      for (int64_t x = 0; x < width; ++x) *p++ = uint8_t(c * 70 + y * 53 + x * x * 17 + (c + 1) * x * y * 9);
  return out;
}
Values green(const Tensor& x) { return x.at({1}).to_vector<int>(); }
int largest_difference(const Values& a, const Values& b) {
  REQUIRE(a.size() == b.size());
  int largest = 0;
  for (size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::abs(a[i] - b[i]));
  return largest;
}
Tensor gray(const Values& values, int64_t width) {
  return reshape(cast(tensor(values), DType::u8), {1, int64_t(values.size()) / width, width});
}

}  // namespace

TEST_CASE("RandAugment's operations are torchvision's", "[augment]") {
  using Op = RandAugment::Op;
  const RandAugment augment{.magnitude = 20};
  struct Row {
    Op op;
    bool negative;
    Values expected;
  };
  for (const auto& [op, negative, expected] : std::vector<Row>{
           {Op::identity, false, {70, 87, 138, 223, 86, 123, 158, 227, 74, 211, 176, 229, 60, 181, 80, 229, 44, 149, 32, 205}},
           {Op::identity, true, {70, 87, 138, 223, 86, 123, 158, 227, 74, 211, 176, 229, 60, 181, 80, 229, 44, 149, 32, 205}},
           {Op::shear_x, false, {70, 87, 138, 223, 86, 123, 158, 227, 74, 211, 176, 229, 60, 80, 80, 44, 149, 32, 205, 0}},
           {Op::shear_x, true, {70, 87, 138, 223, 86, 123, 158, 227, 74, 211, 176, 176, 60, 60, 80, 0, 229, 44, 149, 32}},
           {Op::shear_y, false, {70, 87, 138, 74, 211, 123, 158, 60, 181, 80, 176, 229, 60, 32, 205, 229, 44, 0, 0, 0}},
           {Op::shear_y, true, {70, 87, 138, 0, 0, 123, 158, 138, 223, 86, 176, 229, 60, 74, 211, 229, 44, 60, 181, 80}},
           {Op::translate_x, false, {0, 70, 87, 138, 223, 0, 123, 158, 227, 74, 0, 176, 229, 60, 181, 0, 229, 44, 149, 32}},
           {Op::translate_x, true, {87, 138, 223, 86, 0, 158, 227, 74, 211, 0, 229, 60, 181, 80, 0, 44, 149, 32, 205, 0}},
           {Op::translate_y, false, {0, 0, 0, 0, 0, 70, 87, 138, 223, 86, 123, 158, 227, 74, 211, 176, 229, 60, 181, 80}},
           {Op::translate_y, true, {123, 158, 227, 74, 211, 176, 229, 60, 181, 80, 229, 44, 149, 32, 205, 0, 0, 0, 0, 0}},
           {Op::rotate, false, {0, 138, 223, 223, 211, 70, 158, 227, 74, 80, 123, 229, 60, 181, 205, 176, 44, 44, 149, 0}},
           {Op::rotate, true, {123, 87, 87, 138, 0, 176, 158, 227, 74, 86, 229, 229, 60, 181, 211, 0, 149, 32, 32, 80}},
           {Op::brightness, false, {111, 139, 220, 255, 137, 196, 252, 255, 118, 255, 255, 255, 95, 255, 127, 255, 70, 238, 51, 255}},
           {Op::brightness, true, {28, 34, 55, 89, 34, 49, 63, 90, 29, 84, 70, 91, 24, 72, 32, 91, 17, 59, 12, 82}},
           {Op::color, false, {77, 94, 145, 248, 93, 130, 167, 254, 39, 240, 183, 255, 26, 212, 50, 254, 9, 180, 3, 242}},
           {Op::color, true, {62, 79, 130, 197, 78, 115, 149, 199, 108, 181, 168, 201, 93, 149, 110, 203, 78, 117, 60, 167}},
           {Op::contrast, false, {35, 62, 143, 255, 60, 119, 175, 255, 41, 255, 204, 255, 19, 212, 51, 255, 0, 161, 0, 251}},
           {Op::contrast, true, {104, 111, 132, 166, 111, 126, 140, 167, 106, 161, 147, 168, 100, 149, 108, 168, 94, 136, 89, 158}},
           {Op::sharpness, false, {70, 87, 138, 223, 85, 122, 165, 255, 45, 210, 175, 255, 31, 200, 80, 228, 43, 148, 31, 204}},
           {Op::sharpness, true, {70, 87, 138, 223, 86, 123, 150, 196, 102, 211, 176, 198, 88, 161, 80, 229, 44, 149, 32, 205}},
           {Op::posterize, false, {64, 80, 136, 216, 80, 120, 152, 224, 72, 208, 176, 224, 56, 176, 80, 224, 40, 144, 32, 200}},
           {Op::solarize, false, {70, 168, 117, 32, 169, 132, 97, 28, 74, 44, 79, 26, 60, 74, 80, 26, 44, 106, 32, 50}},
           {Op::auto_contrast, false, {49, 71, 137, 247, 69, 117, 163, 252, 54, 231, 186, 254, 36, 192, 62, 254, 15, 151, 0, 223}},
           {Op::equalize, false, {70, 87, 138, 223, 86, 123, 158, 227, 74, 211, 176, 229, 60, 181, 80, 229, 44, 149, 32, 205}},
       }) {
    INFO(int(op) << (negative ? " negative" : ""));
    CHECK(green(augment.apply(image(), op, negative)) == expected);
  }
  // 20 values, 20 times each, of which each step of 380 / 255 pixels gets one.
  Values values, flat;
  for (int i = 0; i < 400; ++i) values.push_back(100 + i % 20), flat.push_back(std::min(20 * (i % 20), 255));
  CHECK(equalize(gray(values, 20)).to_vector<int>() == flat);
  CHECK(autocontrast(gray({7, 7, 7, 7}, 2)).to_vector<int>() == Values{7, 7, 7, 7});
}

TEST_CASE("colours change as in torchvision", "[augment]") {
  using Function = Tensor (*)(const Tensor&, double);
  struct Row {
    Function function;
    double factor;
    Values expected;
  };
  for (const auto& [function, factor, expected] : std::vector<Row>{
           {adjust_brightness, 0.5, {35, 43, 69, 111, 43, 61, 79, 113, 37, 105, 88, 114, 30, 90, 40, 114, 22, 74, 16, 102}},
           {adjust_contrast, 0.5, {99, 107, 133, 175, 107, 125, 143, 177, 101, 169, 152, 178, 94, 154, 104, 178, 86, 138, 80, 166}},
           {adjust_saturation, 0.5, {63, 80, 131, 201, 79, 116, 150, 204, 103, 186, 169, 206, 88, 154, 105, 207, 73, 122, 56, 173}},
           {adjust_sharpness, 0.5, {70, 87, 138, 223, 86, 123, 152, 201, 97, 211, 176, 203, 83, 165, 80, 229, 44, 149, 32, 205}},
           {adjust_brightness, 1.7, {119, 147, 234, 255, 146, 209, 255, 255, 125, 255, 255, 255, 102, 255, 136, 255, 74, 253, 54, 255}},
           {adjust_contrast, 1.7, {29, 58, 144, 255, 56, 119, 178, 255, 36, 255, 209, 255, 12, 217, 46, 255, 0, 163, 0, 255}},
           {adjust_saturation, 1.7, {79, 96, 147, 253, 95, 132, 168, 255, 33, 245, 185, 255, 20, 218, 45, 255, 3, 186, 0, 249}},
           {adjust_sharpness, 1.7, {70, 87, 138, 223, 86, 123, 166, 255, 41, 211, 176, 255, 27, 203, 80, 229, 44, 149, 32, 205}},
           {adjust_hue, -0.3, {140, 157, 208, 37, 156, 193, 237, 59, 139, 61, 246, 61, 136, 67, 222, 43, 109, 35, 183, 163}},
           {adjust_hue, 0.2, {0, 17, 68, 223, 16, 53, 79, 227, 168, 211, 106, 229, 134, 163, 80, 229, 138, 131, 32, 69}},
       }) {
    INFO(factor << " gives " << expected[1]);
    CHECK(green(function(image(), factor)) == expected);
    CHECK(same_bits(function(image(), function == adjust_hue ? 0 : 1), image()));
  }
  const Tensor one = slice(image(), 0, 0, 1);
  CHECK(same_bits(adjust_saturation(one, 0), one));
  CHECK(same_bits(adjust_hue(one, 0.5), one));
  CHECK(adjust_contrast(gray({0, 100, 101, 201}, 2), 0).to_vector<int>() == Values{100, 100, 100, 100});
  CHECK(solarize(gray({99, 100, 101, 255}, 2), 100).to_vector<int>() == Values{99, 155, 154, 0});
  CHECK(posterize(gray({255, 130, 127, 1}, 2), 1).to_vector<int>() == Values{128, 128, 0, 0});
  CHECK(posterize(gray({255, 130, 127, 1}, 2), 0).to_vector<int>() == Values{0, 0, 0, 0});
}

TEST_CASE("resizing averages over what a pixel covers", "[augment]") {
  const Values bilinear = {86, 99, 124, 165, 174, 155, 124, 150, 175, 179, 144, 132, 135, 146, 213, 148, 106, 122, 90, 116, 168};
  const Values bicubic = {79, 87, 118, 170, 184, 156, 121, 146, 183, 193, 144, 128, 134, 147, 226, 147, 92, 117, 79, 112, 172};
  CHECK(largest_difference(green(resize(image(), 3, 7)), bilinear) <= 1);
  CHECK(largest_difference(green(resize(image(), 3, 7, InterpolationMode::bicubic)), bicubic) <= 1);
  CHECK(green(resize(image(), 3, 7, InterpolationMode::nearest)) ==
        Values{70, 70, 87, 138, 138, 223, 86, 123, 123, 158, 227, 227, 74, 211, 176, 176, 229, 60, 60, 181, 80});
  CHECK(largest_difference(green(resize(image(), 2)), {135, 151, 150, 124}) <= 1);
  CHECK(resize(image(3, 8), 5).shape() == Shape{3, 5, 13});
  CHECK(resize(image(8, 3), 5).shape() == Shape{3, 13, 5});
  CHECK(same_bits(resize(image(), 4, 5), image()));
  // One pixel is the mean, up to the borders of the triangle.
  CHECK(resize(to_float(gray({10, 10, 10, 10}, 2)), 1, 1).item() == Approx(10 / 255.));
  const Tensor ramp = to_float(gray({0, 51, 102, 153, 204, 255}, 6));
  CHECK(amax(abs(resize(ramp, 1, 3) - tensor<float>({1 / 7.f, 0.5f, 6 / 7.f}))).item() < 1e-6);
}

TEST_CASE("pixels move where they should", "[augment]") {
  CHECK(green(center_crop(image(), 3, 2)) == Values{138, 223, 227, 74, 60, 181});
  CHECK(green(center_crop(image(), 5, 4)) == Values{70, 87, 138, 223, 123, 158, 227, 74, 176, 229, 60, 181, 229, 44, 149, 32, 0, 0, 0, 0});
  CHECK(same_bits(crop(image(), 1, 2, 2, 3), contiguous(image().at({Slice(), Slice(1, 3), Slice(2, 5)}))));
  CHECK(same_bits(horizontal_flip(image()), flip(image(), {2})));
  CHECK(gray({1, 2, 3, 4}, 2).shape() == Shape{1, 2, 2});
  CHECK(pad(gray({1, 2, 3, 4}, 2), 1, 0, 2, 1, 9).to_vector<int>() == Values{9, 1, 2, 9, 9, 9, 3, 4, 9, 9, 9, 9, 9, 9, 9});
  CHECK(green(affine(image(), {.angle = -30, .interpolation = InterpolationMode::bilinear})) ==
        Values{18, 93, 184, 152, 96, 83, 151, 182, 135, 90, 120, 184, 109, 110, 117, 86, 185, 94, 95, 7});
  CHECK(same_bits(affine(image(), {}), image()));
  CHECK(same_bits(affine(image(), {.interpolation = InterpolationMode::bilinear}), image()));
  CHECK(affine(gray({1, 2, 3, 4}, 2), {.translate_x = 1, .fill = 7}).to_vector<int>() == Values{7, 1, 7, 3});
  CHECK(affine(gray({1, 2, 3, 4}, 2), {.translate_x = 1e30, .fill = 7}).to_vector<int>() == Values{7, 7, 7, 7});
  CHECK(affine(gray({1, 2, 3, 4}, 2), {.scale = 2}).to_vector<int>() == Values{1, 2, 3, 4});
  // Half of a pixel between 100 and the 7 around the image.
  CHECK(affine(gray({100, 100}, 2), {.translate_x = 0.5, .interpolation = InterpolationMode::bilinear, .fill = 50}).to_vector<int>() ==
        Values{75, 100});
}

TEST_CASE("samples become normalised floats", "[augment]") {
  CHECK(to_float(gray({0, 51, 255, 1}, 2)).to_vector<double>()[1] == Approx(0.2));
  const Tensor x = normalize(to_float(image()), {0.485, 0.456, 0.406}, {0.229, 0.224, 0.225}).at({1, 1});
  const double expected[] = {0.11764705926179886, 0.7303922176361084, 1.9383753538131714, -0.7401959896087646, 1.6582633256912231};
  for (size_t i = 0; i < 5; ++i) CHECK(x.to_vector<double>()[i] == Approx(expected[i]).epsilon(1e-6));
}

TEST_CASE("random numbers belong to a sample", "[augment]") {
  SampleRandom a(1, 5), same(1, 5), other(1, 6), batch(1, 5, SampleRandom::Of::batch), seed(2, 5);
  const uint32_t first = a.bits();
  CHECK(first == same.bits());
  CHECK(std::set<uint32_t>{first, other.bits(), batch.bits(), seed.bits()}.size() == 4);

  SampleRandom random(3, 0);
  double sum = 0, squares = 0, uniform = 0, beta = 0, beta_squares = 0;
  int64_t counts[5] = {};
  constexpr int n = 20000;
  for (int i = 0; i < n; ++i) {
    const double z = random.normal(), b = random.beta(0.4, 0.4);
    sum += z, squares += z * z, uniform += random.uniform(2, 4), beta += b, beta_squares += b * b;
    ++counts[random.integer(5)];
  }
  CHECK(sum / n == Approx(0).margin(0.03));
  CHECK(squares / n == Approx(1).margin(0.05));
  CHECK(uniform / n == Approx(3).margin(0.02));
  CHECK(beta / n == Approx(0.5).margin(0.02));
  CHECK(beta_squares / n - 0.25 == Approx(1 / (4 * 1.8)).margin(0.01));  // a Beta(a, a) has variance 1 / (4 (2 a + 1))
  for (const int64_t count : counts) CHECK(std::abs(double(count) - n / 5.) < 250);
  CHECK_THAT(error_of([&] { random.integer(0); }), ContainsSubstring("no integer in [0, 0)"));
}

TEST_CASE("a random crop may be anywhere, and no place else", "[augment]") {
  const Tensor x = gray({1, 2, 3, 4, 5, 6, 7, 8, 9}, 3);
  std::set<Values> seen;
  for (int64_t i = 0; i < 200; ++i) {
    SampleRandom random(0, i), again(0, i);
    const Tensor part = RandomCrop{2, 2}(x, random);
    CHECK(same_bits(part, RandomCrop{2, 2}(x, again)));
    seen.insert(part.to_vector<int>());
  }
  CHECK(seen == std::set<Values>{{1, 2, 4, 5}, {2, 3, 5, 6}, {4, 5, 7, 8}, {5, 6, 8, 9}});
  std::set<int> corners;
  for (int64_t i = 0; i < 300; ++i) {
    SampleRandom random(0, i);
    corners.insert(RandomCrop{.height = 3, .width = 3, .padding = 1, .fill = 77}(x, random).at({0, 0, 0}).item<int>());
  }
  CHECK(corners == std::set<int>{77, 1, 2, 4, 5});
  SampleRandom random(0, 0);
  CHECK(RandomCrop{.height = 4, .width = 2, .pad_if_needed = true}(x, random).shape() == Shape{1, 4, 2});
  CHECK_THAT(error_of([&] { RandomCrop{4, 2}(x, random); }), ContainsSubstring("random_crop: 4 x 2 pixels do not fit into 3 x 3"));
}

TEST_CASE("a random resized crop has the area and the shape that were asked for", "[augment]") {
  // A pixel's value is its place, so that the corners say which part it was.
  const Tensor x = to_float(image(60, 60));
  const Tensor places = x.at({Slice(0, 1)});
  float* p = places.mutable_data<float>();
  for (int i = 0; i < 3600; ++i) p[i] = float(i % 60);
  double least = 1e9, most = 0;
  for (int64_t i = 0; i < 300; ++i) {
    SampleRandom random(0, i);
    const RandomResizedCrop crop{.height = 1, .width = 60, .scale = {0.25, 0.25}, .ratio = {0.5, 2}};
    const Tensor part = crop(places, random);
    REQUIRE(part.shape() == Shape{1, 1, 60});
    const double width = (part.at({0, 0, 40}).item() - part.at({0, 0, 20}).item()) * 3;
    least = std::min(least, width), most = std::max(most, width);
  }
  CHECK(least == Approx(30 * std::sqrt(0.5)).margin(1.5));
  CHECK(most == Approx(30 * std::sqrt(2.)).margin(1.5));
  // What cannot fit is the middle: of 2 x 60 no part has ratio 1 and the area of all.
  SampleRandom random(0, 0);
  const Tensor wide = places.at({Slice(), Slice(0, 2)});
  const Tensor middle = RandomResizedCrop{.height = 2, .width = 2, .scale = {1, 1}, .ratio = {1, 1}}(contiguous(wide), random);
  CHECK(middle.to_vector<int>() == Values{29, 30, 29, 30});
  CHECK_THAT(error_of([&] {
               RandomResizedCrop{.height = 2, .width = 2, .scale = {1, 0.5}}(image(), random);
             }),
             ContainsSubstring("random_resized_crop: scale from 1 to 0.5 is not valid"));
}

TEST_CASE("chances are kept", "[augment]") {
  int flipped = 0, erased = 0;
  for (int64_t i = 0; i < 2000; ++i) {
    SampleRandom random(0, i);
    flipped += !same_bits(RandomHorizontalFlip{.p = 0.3}(image(), random), image());
    erased += !same_bits(RandomErasing{.p = 0.25, .value = 3}(image(9, 9), random), image(9, 9));
  }
  CHECK(flipped == Approx(600).margin(80));
  CHECK(erased == Approx(500).margin(80));
  SampleRandom random(0, 1);
  CHECK_THAT(error_of([&] { RandomHorizontalFlip{.p = 1.5}(image(), random); }), ContainsSubstring("p 1.5 is not valid"));
  CHECK_THAT(error_of([&] { RandomErasing{.p = -1}(image(), random); }), ContainsSubstring("p -1 is not valid"));
}

TEST_CASE("random erasing overwrites one rectangle in all channels", "[augment]") {
  double area = 0;
  constexpr int n = 300;
  for (int64_t i = 0; i < n; ++i) {
    SampleRandom random(0, i);
    const Tensor out = RandomErasing{.p = 1, .scale = {0.1, 0.3}, .value = -1}(ones({2, 20, 30}), random);
    const Tensor hole = lt(out.at({0}), 0);
    CHECK(same_bits(hole, lt(out.at({1}), 0)));
    const Tensor rows = amax(cast(hole, DType::i64), {1}), columns = amax(cast(hole, DType::i64), {0});
    const int64_t count = sum(cast(hole, DType::i64)).item<int64_t>();
    CHECK(count == sum(rows).item<int64_t>() * sum(columns).item<int64_t>());
    area += double(count) / 600;
  }
  CHECK(area / n == Approx(0.2).margin(0.02));
  SampleRandom random(0, 2);
  const Tensor noise = RandomErasing{.p = 1, .scale = {0.9, 0.9}, .ratio = {1, 1}, .random = true}(zeros({1, 100, 100}), random);
  CHECK(mean(square(noise)).item() == Approx(0.9).margin(0.05));
  CHECK_THAT(error_of([&] { RandomErasing{.random = true}(image(), random); }),
             ContainsSubstring("random values ask for an image of f32, not u8"));
}

TEST_CASE("colour jitter draws factors from its ranges, in any order", "[augment]") {
  const Tensor x = gray({100, 100, 100, 100}, 2);
  int least = 255, most = 0;
  for (int64_t i = 0; i < 500; ++i) {
    SampleRandom random(0, i);
    const int v = ColorJitter{.brightness = 0.4}(x, random).at({0, 0, 0}).item<int>();
    least = std::min(least, v), most = std::max(most, v);
  }
  CHECK(least == Approx(60).margin(1));
  CHECK(most == Approx(139).margin(1));
  SampleRandom random(0, 0);
  CHECK(same_bits(ColorJitter{}(image(), random), image()));
  CHECK_FALSE(same_bits(ColorJitter{0.4, 0.4, 0.4, 0.1}(image(), random), image()));
  CHECK_THAT(error_of([&] { ColorJitter{.hue = 0.6}(image(), random); }), ContainsSubstring("hue 0.6 is not valid; expected 0 to 0.5"));
  CHECK_THAT(error_of([&] { ColorJitter{.contrast = -1}(image(), random); }), ContainsSubstring("-1 is not valid"));
}

TEST_CASE("RandAugment draws every operation, in both directions", "[augment]") {
  const RandAugment one{.num_ops = 1};
  std::set<Values> seen, possible;
  for (int op = 0; op < RandAugment::ops; ++op)
    for (const bool negative : {false, true}) possible.insert(one.apply(image(), RandAugment::Op(op), negative).to_vector<int>());
  for (int64_t i = 0; i < 600; ++i) {
    SampleRandom random(0, i);
    seen.insert(one(image(), random).to_vector<int>());
  }
  CHECK(seen == possible);
  SampleRandom random(0, 0);
  CHECK(same_bits(RandAugment{.num_ops = 0}(image(), random), image()));
  CHECK_THAT(error_of([&] { RandAugment{.magnitude = 31}(image(), random); }),
             ContainsSubstring("rand_augment: magnitude 31 of 31 bins is not possible; expected 0 <= magnitude < bins"));
  CHECK_THAT(error_of([&] { RandAugment{.num_ops = -1}(image(), random); }), ContainsSubstring("num_ops -1 is not valid"));
}

TEST_CASE("mixup and cutmix mix an image with the one before it, and targets alike", "[augment]") {
  const Tensor images = reshape(arange(0, 3, 1, {DType::f32}), {3, 1, 1, 1}) * ones({3, 2, 8, 6});
  const Tensor labels = tensor<int64_t>({4, 0, 2});
  for (int64_t i = 0; i < 50; ++i) {
    SampleRandom random(0, i, SampleRandom::Of::batch);
    const auto [mixed, targets] = mixup(images, labels, 5, random, 0.8);
    const double lambda = targets.at({0, 4}).item();
    CHECK(lambda >= 0);
    CHECK(targets.at({0, 2}).item() == Approx(1 - lambda).margin(1e-6));
    CHECK(targets.at({1, 0}).item() == Approx(lambda));
    CHECK(targets.at({1, 4}).item() == Approx(1 - lambda).margin(1e-6));
    CHECK(sum(targets).item() == Approx(3));
    CHECK(difference(mixed, images * lambda + roll(images, Shape{1}, Shape{0}) * (1 - lambda), DType::f32) <= 1);

    const auto [cut, shares] = cutmix(images, labels, 5, random);
    CHECK(sum(shares).item() == Approx(3));
    // Of the first image, all 0, what is not 0 comes from the last one.
    CHECK(shares.at({0, 2}).item() == Approx(mean(cast(ne(cut.at({0}), 0), DType::f32)).item()).margin(1e-6));
    CHECK(same_bits(eq(cut.at({0}), 2), eq(cut.at({1}), 0)));
    CHECK(same_bits(eq(cut.at({0}), 0), eq(cut.at({2}), 2)));
  }
  SampleRandom random(0, 0);
  const Tensor same = tensor<int64_t>({1, 1, 1});
  CHECK(difference(mixup(images, same, 2, random).targets, tensor<float>({0, 1, 0, 1, 0, 1}, {3, 2}), DType::f32) <= 1);
  CHECK_THAT(error_of([&] { mixup(images, labels, 4, random); }), ContainsSubstring("mixup: label 4 of image 0 is out of range"));
  CHECK_THAT(error_of([&] { cutmix(images, tensor<int64_t>({0}), 4, random); }),
             ContainsSubstring("cutmix: labels are i64 [1]; expected i64 (3)"));
  CHECK_THAT(error_of([&] { cutmix(image(), labels, 4, random); }), ContainsSubstring("cutmix: images are u8 [3, 4, 5]"));
  CHECK_THAT(error_of([&] { mixup(images, labels, 5, random, 0); }), ContainsSubstring("alpha 0 is not valid"));
}

TEST_CASE("what is no image is refused", "[augment]") {
  SampleRandom random(0, 0);
  struct Row {
    std::function<void()> f;
    const char* message;
  };
  for (const auto& [f, message] : std::vector<Row>{
           {[] {
              resize(ones({4, 4}), 2, 2);
            },
            "resize: f32 [4, 4] is no image; expected u8 or f32 (channels, height, width)"},
           {[] { resize({}, 2, 2); }, "resize: an undefined tensor is no image"},
           {[] { resize(image(), 0, 2); }, "resize: 0 x 2 is no size"},
           {[] { crop(image(), 3, 0, 2, 2); }, "crop: 2 x 2 pixels at (3, 0) do not lie in an image of 4 x 5"},
           {[] { pad(image(), -1, 0, 0, 0); }, "pad: padding -1 is not valid"},
           {[] { pad(image(), 1, 0, 0, 0, 256); }, "pad: fill 256 does not fit u8"},
           {[] { adjust_hue(to_float(image()), 0); }, "adjust_hue: f32 [3, 4, 5] is no image; expected u8 (channels"},
           {[] { adjust_hue(image(), 0.6); }, "adjust_hue: factor 0.6 is not valid"},
           {[] { adjust_contrast(image(), -1); }, "adjust_contrast: factor -1 is not valid"},
           {[] {
              equalize(cat({image(), image()}, 0));
            },
            "equalize: u8 [6, 4, 5] has 6 channels; expected 1, gray, or 3, RGB"},
           {[] { posterize(image(), 9); }, "posterize: 9 bits are not possible"},
           {[] { affine(image(), {.scale = 0}); }, "affine: scale 0 is not valid"},
           {[] { affine(image(), {.interpolation = InterpolationMode::bicubic}); }, "affine: bicubic interpolation is not supported"},
           {[] { normalize(image(), {0.5}, {0.5}); }, "normalize: the image is u8 [3, 4, 5]; expected f32"},
           {[] { normalize(to_float(image()), {0.5}, {0.5}); }, "normalize: 1 means and 1 stds do not fit 3 channels"},
           {[] {
              normalize(to_float(image()), {0, 0, 0}, {1, 0, 1});
            },
            "normalize: std 0 of channel 1 is not valid"},
           {[] { horizontal_flip(movedim(image(), 0, 2)); }, "horizontal_flip: the image is not contiguous"},
       }) {
    INFO(message);
    CHECK_THAT(error_of(f), ContainsSubstring(message));
  }
}
