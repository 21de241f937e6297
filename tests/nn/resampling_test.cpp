// Images on other grids: PyTorch's numbers, which tests/golden/make_layers_resampling.py writes, and what bad input does. Derivatives are
// in tests/op_cases.h.
#include "layer_cases.h"

#include <fmt/format.h>
#include <omp.h>

using namespace retape;
using namespace retape::testing;

namespace {

using In = const CaseInputs&;
LayerCase resized(const std::string& name, const InterpolateOptions& options) {
  return {name, [=](In x) { return nn::Upsample(options)(x["x"]); }};
}
std::vector<LayerCase> cases() {
  using Mode = InterpolateMode;
  std::vector<LayerCase> all;
  const PerDim sizes[] = {7, {3, 9}, {5, 2, 4}};
  for (auto& [name, mode] :
       {std::pair("nearest", Mode::nearest), std::pair("nearest_exact", Mode::nearest_exact), std::pair("area", Mode::area)})
    for (int rank = 1; rank <= 3; ++rank) all.push_back(resized(fmt::format("{}{}d", name, rank), {.size = sizes[rank - 1], .mode = mode}));
  struct Weighted {
    std::string name;
    Mode mode;
    PerDim size;
    ScaleFactor factor;
  };
  for (auto& w :
       {Weighted{"linear", Mode::linear, 8, 2.3}, Weighted{"bilinear", Mode::bilinear, {7, 3}, {2.3, 0.7}},
        Weighted{"bicubic", Mode::bicubic, {3, 11}, {2.3, 0.7}}, Weighted{"trilinear", Mode::trilinear, {5, 3, 1}, {2.3, 0.7, 1.5}}}) {
    all.push_back(resized(w.name, {.size = w.size, .mode = w.mode}));
    all.push_back(resized(w.name + "_corners", {.size = w.size, .mode = w.mode, .align_corners = true}));
    all.push_back(resized(w.name + "_factor", {.scale_factor = w.factor, .mode = w.mode}));
    all.push_back(resized(w.name + "_recomputed", {.scale_factor = 2.3, .mode = w.mode, .recompute_scale_factor = true}));
  }
  all.push_back(resized("nearest_factor", {.scale_factor = {2.3, 0.7}}));
  all.push_back(resized("nearest_exact_factor", {.scale_factor = {2.3, 0.7}, .mode = Mode::nearest_exact}));
  all.push_back(resized("bilinear_same_size", {.scale_factor = {1.2, 2}, .mode = Mode::bilinear}));
  all.push_back(resized("bicubic_same_size", {.scale_factor = {1.2, 2}, .mode = Mode::bicubic}));
  all.push_back(resized("bilinear_far_down", {.size = {1, 2}, .mode = Mode::bilinear}));
  all.push_back({"upsampling_nearest2d", [](In x) { return nn::UpsamplingNearest2d({.scale_factor = 2})(x["input"]); }});
  all.push_back({"upsampling_bilinear2d", [](In x) { return nn::UpsamplingBilinear2d({.size = {5, 9}})(x["input"]); }});
  all.push_back({"pixel_shuffle", [](In x) { return nn::PixelShuffle(2)(x["input"]); }});
  all.push_back({"pixel_unshuffle", [](In x) { return nn::PixelUnshuffle(3)(x["input"]); }});
  all.push_back({"channel_shuffle", [](In x) { return nn::ChannelShuffle(3)(x["input"]); }});
  for (auto& [mode, kind] : {std::pair("bilinear", GridSampleMode::bilinear), std::pair("nearest", GridSampleMode::nearest),
                             std::pair("bicubic", GridSampleMode::bicubic)})
    for (auto& [padding, how] : {std::pair("zeros", GridSamplePadding::zeros), std::pair("border", GridSamplePadding::border),
                                 std::pair("reflection", GridSamplePadding::reflection)})
      for (const bool corners : {false, true}) {
        const GridSampleOptions options{kind, how, corners};
        const std::string name = fmt::format("{}_{}{}", mode, padding, corners ? "_corners" : "");
        const auto f = [=](In x) { return grid_sample(x["x"], x["grid"], options); };
        all.push_back({"grid_sample_" + name, f});
        if (kind != GridSampleMode::bicubic) all.push_back({"grid_sample_3d_" + name, f});
      }
  all.push_back({"grid_sample_far", [](In x) { return grid_sample(x["x"], x["grid"], {.padding_mode = GridSamplePadding::reflection}); }});
  for (const bool corners : {false, true}) {
    const std::string name = corners ? "_corners" : "";
    all.push_back({"affine_grid" + name, [=](In x) { return affine_grid(x["theta"], {2, 1, 3, 4}, corners); }});
    all.push_back({"affine_grid_3d" + name, [=](In x) { return affine_grid(x["theta"], {1, 2, 2, 1, 3}, corners); }});
  }
  return all;
}

// Element k of arange(size) at another size.
double element(int64_t size, int64_t to, int64_t k, InterpolateMode mode, DType dtype) {
  const Tensor x = reshape(cast(arange(size), dtype), {1, 1, size});
  return interpolate(x, {.size = to, .mode = mode}).to_vector<double>()[size_t(k)];
}

}  // namespace

TEST_CASE("images on other grids are PyTorch's") {
  check_layer_cases(SafeTensors::open(RETAPE_GOLDEN "/layers_resampling.safetensors").tensors(), cases());
}

// Where the place is a whole number but for roundings; PyTorch 2.15's functional.interpolate(torch.arange(size, dtype=...)[None, None],
// size=to, mode=...)
TEST_CASE("interpolate rounds to the nearest place as PyTorch does") {
  using Mode = InterpolateMode;
  CHECK(element(26, 22, 11, Mode::nearest, DType::f32) == 12);
  CHECK(element(26, 22, 11, Mode::nearest, DType::f64) == 13);
  CHECK(element(14, 23, 11, Mode::nearest_exact, DType::f32) == 6);
  CHECK(element(14, 23, 11, Mode::nearest_exact, DType::f64) == 7);
  CHECK(element(30, 22, 11, Mode::nearest, DType::f64) == 15);
  CHECK(element(30, 11, 5, Mode::nearest_exact, DType::f64) == 15);
}

TEST_CASE("interpolation goes dim by dim, whatever the sizes and the number of channels") {
  for (auto& [from, to] : {std::pair<int64_t, int64_t>{9, 40}, {40, 3}, {7, 7}, {1, 5}})
    for (const int64_t channels : {1, 3, 70})
      for (const auto mode : {InterpolateMode::bilinear, InterpolateMode::bicubic}) {
        INFO(from << " to " << to << ", " << channels << " channels");
        const Tensor x = Tensor(values({2, channels, from, 6}, -1, 1, 1, DType::f32)).set_requires_grad();
        const auto matrix = [&](int64_t in, int64_t out) {  // what becomes of each place alone
          const Tensor eye = reshape(cast(eq(unsqueeze(arange(in), 1), arange(in)), DType::f64), {in, 1, in, 1});
          return reshape(interpolate(eye, {.size = {out, 1}, .mode = mode}), {in, out});
        };
        const Tensor y = interpolate(x, {.size = {to, 11}, .mode = mode}), dy = values(y.shape(), -1, 1, 2, DType::f32);
        backward(y, {}, dy);
        const std::vector<Tensor> m = {matrix(from, to), matrix(6, 11)};
        CHECK(relative_difference(y.detach(), einsum("nchw,hi,wj->ncij", {cast(x.detach(), DType::f64), m[0], m[1]})) < 1e-6);
        CHECK(relative_difference(x.grad(), einsum("ncij,hi,wj->nchw", {cast(dy, DType::f64), m[0], m[1]})) < 1e-6);
        CHECK(y.is_contiguous(MemoryFormat::channels_last));
      }
}

TEST_CASE("interpolation does not depend on the number of threads") {
  const int before = omp_get_max_threads();
  std::vector<Tensor> results[2];
  for (const int threads : {1, 3}) {
    omp_set_num_threads(threads);
    const Tensor x = Tensor(values({3, 20, 17, 19}, -1, 1, 1, DType::f32)).set_requires_grad();
    const Tensor y = interpolate(x, {.size = {40, 9}, .mode = InterpolateMode::bicubic});
    backward(sum(square(y)));
    results[threads > 1] = {y.detach(), x.grad()};
  }
  omp_set_num_threads(before);
  for (int i = 0; i < 2; ++i) CHECK(same_bits(results[0][size_t(i)], results[1][size_t(i)]));
}

TEST_CASE("interpolate takes batches and channels of none, and refuses what does not fit") {
  using Mode = InterpolateMode;
  for (const Shape& shape : {Shape{0, 2, 3, 4}, Shape{2, 0, 3, 4}}) {
    Tensor x = zeros(shape).set_requires_grad();
    const Tensor y = interpolate(x, {.scale_factor = 2, .mode = Mode::bilinear});
    CHECK(y.shape() == Shape{shape[0], shape[1], 6, 8});
    backward(sum(y));
    CHECK(x.grad().shape() == shape);
  }
  const Tensor x = wave({1, 2, 3, 4});
  const auto error = [&](const InterpolateOptions& options) { return error_of([&] { interpolate(x, options); }); };
  CHECK(error({}) == "interpolate: none is of size and scale_factor given; it must be one of them");
  CHECK(error({.size = 2, .scale_factor = 2}) == "interpolate: both are of size and scale_factor given; it must be one of them");
  CHECK(error({.size = 2, .recompute_scale_factor = true}) ==
        "interpolate: recompute_scale_factor is given with size; it is for scale_factor");
  CHECK(error({.size = {2, 0}}) == "interpolate: x [1, 2, 3, 4] would become of size 0 in dim 3; sizes must be at least 1");
  CHECK(error({.size = -1}) == "interpolate: x [1, 2, 3, 4] would become of size -1 in dim 2; sizes must be at least 1");
  CHECK(error({.scale_factor = 0.3}) == "interpolate: x [1, 2, 3, 4] would become of size 0 in dim 2; sizes must be at least 1");
  CHECK(error({.size = {2, 3, 4}}) == "interpolate: size [2, 3, 4] has 3 numbers; it must have one, or 2, one for each dim of space");
  CHECK(error({.scale_factor = {1, 2, 3}}) == "interpolate: scale_factor has 3 numbers; it must have one, or 2, one for each dim of space");
  for (const double factor : {-1., 0., double(INFINITY), double(NAN)})
    CHECK(error({.scale_factor = factor}) ==
          fmt::format("interpolate: scale_factor {} is not valid; it must be finite and above 0", factor));
  CHECK(error({.scale_factor = 1e30}) == "interpolate: scale_factor 1e+30 is too large for dim 2 of x [1, 2, 3, 4]");
  CHECK(error({.size = 2, .align_corners = true}) ==
        "interpolate: align_corners is given with mode nearest; it is for linear, bilinear, bicubic and trilinear");
  CHECK(error({.size = 2, .mode = Mode::linear}) ==
        "interpolate: mode linear does not fit x [1, 2, 3, 4] with 2 dims of space; it is for 1");
  CHECK(error_of([&] {
          interpolate(zeros({2, 3}), {.size = 2});
        }) == "interpolate: x of shape [2, 3] has 2 dims; it must have 3, 4 or 5, (N, C, space)");
  CHECK(error_of([&] {
          interpolate(zeros({1, 2, 0, 3}), {.size = 2});
        }) == "interpolate: x [1, 2, 0, 3] has no elements in dim 2; there must be at least one");
  CHECK(error_of([&] { interpolate(arange(3), {.size = 2}); }).starts_with("interpolate: "));
  CHECK(error_of([&] { interpolate({}, {.size = 2}); }).starts_with("interpolate: "));
}

TEST_CASE("pixel_shuffle takes any dims in front and any dtype, and unshuffle undoes it") {
  const Tensor x = reshape(arange(2 * 3 * 18 * 2 * 2), {2, 3, 18, 2, 2}), y = pixel_shuffle(x, 3);
  CHECK(y.shape() == Shape{2, 3, 2, 6, 6});
  CHECK(same_bits(pixel_unshuffle(y, 3), x));
  CHECK(same_bits(select(select(y, 0, 1), 0, 2), pixel_shuffle(select(select(x, 0, 1), 0, 2), 3)));
  CHECK(pixel_shuffle(zeros({0, 4, 2, 2}), 2).shape() == Shape{0, 1, 4, 4});
  const Tensor images = wave({2, 8, 3, 3}), last = contiguous(images, MemoryFormat::channels_last);
  CHECK(pixel_shuffle(images, 2).is_contiguous(MemoryFormat::channels_last));
  CHECK(same_bits(pixel_shuffle(last, 2), pixel_shuffle(images, 2)));
  CHECK(error_of([&] { pixel_shuffle(images, 3); }) == "pixel_shuffle: dim 1 of x [2, 8, 3, 3] is of size 8; it must be a multiple of 9");
  CHECK(error_of([&] { pixel_shuffle(images, 0); }) == "pixel_shuffle: upscale_factor 0 is not valid; it must be at least 1");
  CHECK(error_of([&] { pixel_shuffle(images, int64_t{1} << 33); }) ==
        "pixel_shuffle: upscale_factor 8589934592 is not valid; it must be at most 1048576");
  CHECK(error_of([&] { pixel_unshuffle(images, 2); }) ==
        "pixel_unshuffle: dim 2 of x [2, 8, 3, 3] is of size 3; it must be a multiple of 2");
  CHECK(error_of([&] {
          pixel_shuffle(zeros({4, 4}), 2);
        }) == "pixel_shuffle: x of shape [4, 4] has 2 dims; it must have at least 3, (..., C, H, W)");
  CHECK(error_of([&] { channel_shuffle(images, 3); }) ==
        "channel_shuffle: dim 1 of x [2, 8, 3, 3] is of size 8; it must be a multiple of 3");
  CHECK(error_of([&] { channel_shuffle(images, 0); }) == "channel_shuffle: groups 0 is not valid; it must be at least 1");
  CHECK(error_of([&] {
          channel_shuffle(zeros({4, 4}), 2);
        }) == "channel_shuffle: x of shape [4, 4] has 2 dims; it must have at least 3, (N, C, ...)");
}

namespace {

Tensor at_positions(const Tensor& x, const std::vector<double>& positions, const GridSampleOptions& options) {
  const int64_t n = int64_t(positions.size());
  const Tensor along = reshape(tensor<double>(positions), {1, 1, n, 1});
  return grid_sample(x, cast(cat({along, zeros_like(along)}, 3), x.dtype()), options);
}

}  // namespace

// PyTorch 2.15 reads outside of its memory for nan on the CPU; these are its CUDA kernel's numbers, but for bicubic with zeros, where nan
// is 0.
TEST_CASE("positions that are nan, infinite or far away read what the padding says, and nothing crashes") {
  const double nan = NAN, inf = INFINITY;
  const std::vector<double> far = {nan, inf, -inf, 1e30, -1e30};
  const Tensor x = reshape(cast(arange(3), DType::f32) + 1, {1, 1, 1, 3});
  using Mode = GridSampleMode;
  using Padding = GridSamplePadding;
  for (const Mode mode : {Mode::bilinear, Mode::nearest}) {
    CHECK(at_positions(x, far, {mode, Padding::zeros}).to_vector<double>() == std::vector<double>{0, 0, 0, 0, 0});
    CHECK(at_positions(x, far, {mode, Padding::border}).to_vector<double>() == std::vector<double>{1, 3, 1, 3, 1});
    const auto reflected = at_positions(x, far, {mode, Padding::reflection}).to_vector<double>();
    for (int i = 0; i < 3; ++i) CHECK(reflected[size_t(i)] == 1);
    for (const double v : reflected) CHECK((v >= 1 && v <= 3));
  }
  CHECK(at_positions(x, far, {Mode::bicubic, Padding::zeros}).to_vector<double>() == std::vector<double>{0, 0, 0, 0, 0});
  for (const Padding padding : {Padding::border, Padding::reflection}) {
    const auto v = at_positions(x, far, {Mode::bicubic, padding}).to_vector<double>();
    for (int i = 0; i < 3; ++i) CHECK(std::isnan(v[size_t(i)]));
  }
  for (const Mode mode : {Mode::bilinear, Mode::nearest, Mode::bicubic})
    for (const Padding padding : {Padding::zeros, Padding::border}) {
      const Tensor image = Tensor(clone(x)).set_requires_grad(), grid = full({1, 1, 4, 2}, 1e30, {DType::f32}).set_requires_grad();
      backward(sum(grid_sample(image, grid, {mode, padding})));
      CHECK(grid.grad().to_vector<double>() == std::vector<double>(8, 0));
    }
}

TEST_CASE("what positions of one place add to its gradient does not depend on the number of threads") {
  const int before = omp_get_max_threads();
  std::vector<Tensor> results[2];
  for (const int threads : {1, 3}) {
    omp_set_num_threads(threads);
    const Tensor x = Tensor(values({2, 37, 4, 5}, -1, 1, 1, DType::f32)).set_requires_grad(),
                 grid = Tensor(values({2, 30, 31, 2}, -1.2, 1.2, 2, DType::f32)).set_requires_grad();
    const Tensor y = grid_sample(x, grid);
    backward(sum(square(y)));
    results[threads > 1] = {y.detach(), x.grad(), grid.grad()};
    CHECK(y.is_contiguous(MemoryFormat::channels_last));
  }
  omp_set_num_threads(before);
  for (size_t i = 0; i < 3; ++i) CHECK(same_bits(results[0][i], results[1][i]));
}

TEST_CASE("grid_sample and affine_grid take batches, channels and grids of none, and refuse what does not fit") {
  CHECK(grid_sample(zeros({0, 2, 3, 3}), zeros({0, 4, 5, 2})).shape() == Shape{0, 2, 4, 5});
  CHECK(grid_sample(zeros({2, 0, 3, 3}), zeros({2, 4, 5, 2})).shape() == Shape{2, 0, 4, 5});
  const Tensor x = zeros({2, 1, 3, 3}).set_requires_grad();
  backward(sum(grid_sample(x, zeros({2, 0, 5, 2}))));
  CHECK(x.grad().to_vector<double>() == std::vector<double>(18, 0));
  const auto error = [](const Tensor& x, const Tensor& grid, const GridSampleOptions& options = {}) {
    return error_of([&] { grid_sample(x, grid, options); });
  };
  CHECK(error(x, zeros({2, 4, 5, 3})) == "grid_sample: grid [2, 4, 5, 3] does not fit x [2, 1, 3, 3]; its shape must be [2, OH, OW, 2]");
  CHECK(error(x, zeros({1, 4, 5, 2})) == "grid_sample: grid [1, 4, 5, 2] does not fit x [2, 1, 3, 3]; its shape must be [2, OH, OW, 2]");
  CHECK(error(x, zeros({2, 5, 2})) == "grid_sample: grid [2, 5, 2] does not fit x [2, 1, 3, 3]; its shape must be [2, OH, OW, 2]");
  CHECK(error(zeros({2, 1, 3, 3, 3}), zeros({2, 4, 5, 2})) ==
        "grid_sample: grid [2, 4, 5, 2] does not fit x [2, 1, 3, 3, 3]; its shape must be [2, OD, OH, OW, 3]");
  CHECK(error(zeros({2, 3, 3}), zeros({2, 4, 5, 2})) ==
        "grid_sample: x of shape [2, 3, 3] has 3 dims; it must have 4, (N, C, H, W), or 5, (N, C, D, H, W)");
  CHECK(error(zeros({2, 1, 0, 3}), zeros({2, 4, 5, 2})) ==
        "grid_sample: x [2, 1, 0, 3] has no elements in dim 2; there must be at least one");
  CHECK(error(x, zeros({2, 4, 5, 2}, {DType::f64})) ==
        "grid_sample: x is f32 and grid f64; they must be floating and of one dtype, use cast()");
  CHECK(error(zeros({1, 1, 2, 2, 2}), zeros({1, 1, 1, 1, 3}), {GridSampleMode::bicubic}) ==
        "grid_sample: mode bicubic does not fit x [1, 1, 2, 2, 2] with 3 dims of space; it is for 2");
  CHECK(error(x, {}).starts_with("grid_sample: "));

  CHECK(affine_grid(zeros({0, 2, 3}), {0, 1, 2, 2}).shape() == Shape{0, 2, 2, 2});
  const auto affine_error = [](const Tensor& theta, const Shape& size) { return error_of([&] { affine_grid(theta, size); }); };
  CHECK(affine_error(zeros({2, 2, 3}), {3, 1, 4, 4}) ==
        "affine_grid: theta [2, 2, 3] does not fit size [3, 1, 4, 4]; its shape must be [3, 2, 3]");
  CHECK(affine_error(zeros({2, 2, 3}), {2, 1, 4, 4, 4}) ==
        "affine_grid: theta [2, 2, 3] does not fit size [2, 1, 4, 4, 4]; its shape must be [2, 3, 4]");
  CHECK(affine_error(zeros({2, 2, 3}), {2, 1, 4}) ==
        "affine_grid: size [2, 1, 4] has 3 numbers; it must have 4, (N, C, H, W), or 5, (N, C, D, H, W)");
  CHECK(affine_error(zeros({2, 2, 3}), {2, 1, 0, 4}) == "affine_grid: size [2, 1, 0, 4] has 0 in dim 2; sizes of space must be at least 1");
  CHECK(affine_error(ones({2, 2, 3}, {DType::i64}), {2, 1, 4, 4}) == "affine_grid: theta has dtype i64; it must be floating, use cast()");
}

TEST_CASE("the identity's grid reads an image as it is") {
  const Tensor x = wave({2, 3, 4, 5}), theta = expand(tensor<double>({1, 0, 0, 0, 1, 0}, {1, 2, 3}), {2, 2, 3});
  for (const bool corners : {false, true})
    CHECK(relative_difference(grid_sample(x, affine_grid(theta, x.shape(), corners), {.align_corners = corners}), x) < 1e-14);
}
