// Convolution and pooling against the numbers of PyTorch that tests/golden/make_layers_vision.py writes; oneDNN's kernels against ours; and memory
// formats. Derivatives of the ops are in tests/op_cases.h.
#include "golden.h"

#include <omp.h>

#include <set>

using namespace retape;
using namespace retape::testing;

namespace {

const Golden& golden_file() {
  static const Golden file(RETAPE_GOLDEN "/layers_vision.safetensors");
  return file;
}
Tensor golden(const std::string& name) { return golden_file()(name); }
std::set<std::string> compared;

template <class M, class F> void compare_with(const std::string& name, M module, const Shape& shape, F&& run) {
  compared.insert(name);
  for (const DType dtype : {DType::f64, DType::f32}) {
    INFO(name << " in " << name_of(dtype));
    const double most = dtype == DType::f64 ? 1e-12 : 1e-5;
    waved(module);
    module.to(dtype);
    module.zero_grad();
    const Tensor x = Tensor(cast(wave(shape), dtype).detach()).set_requires_grad(), y = run(module, x);
    CHECK(y.dtype() == dtype);
    CHECK(relative_difference(y, golden(name + ".y")) <= most);
    backward(y, {}, cast(wave(y.shape(), 0.5), dtype));
    CHECK(relative_difference(x.grad(), golden(name + ".dx")) <= most);
    for (auto& [key, p] : module.named_parameters()) {
      INFO("gradient of " << key);
      CHECK(relative_difference(p.grad(), golden(name + ".d." + key)) <= most);
    }
  }
}
template <class M> void compare(const std::string& name, M module, const Shape& shape) {
  compare_with(name, std::move(module), shape, [](const M& m, const Tensor& x) { return m(x); });
}
template <class M> void compare_indices(const std::string& name, M module, const Shape& shape) {
  compare_with(name, std::move(module), shape, [&](const M& m, const Tensor& x) {
    const Pooled p = m.with_indices(x);
    CHECK(same_bits(p.indices, golden(name + ".indices")));
    CHECK(same_bits(p.values, m(x)));
    return p.values;
  });
}

}  // namespace

TEST_CASE("layers for images are PyTorch's") {
  const nn::DefaultOptions f64({.dtype = DType::f64});
  compare("conv1d", nn::Conv1d(4, 6, {.kernel_size = 3, .stride = 2, .padding = 1}), {2, 4, 9});
  compare("conv1d_same", nn::Conv1d(2, 3, {.kernel_size = 4, .padding = "same", .dilation = 2}), {2, 2, 9});
  compare("conv2d", nn::Conv2d(3, 4, {.kernel_size = {3, 2}, .stride = {2, 1}, .padding = {1, 0}}), {2, 3, 7, 6});
  compare("conv2d_groups", nn::Conv2d(4, 6, {.kernel_size = 3, .padding = 2, .dilation = 2, .groups = 2, .bias = false}), {2, 4, 6, 5});
  compare("conv2d_depthwise", nn::Conv2d(3, 6, {.kernel_size = 3, .padding = 1, .groups = 3}), {2, 3, 5, 5});
  const std::pair<const char*, PadMode> modes[] = {
      {"reflect", PadMode::reflect}, {"replicate", PadMode::replicate}, {"circular", PadMode::circular}};
  for (auto& [name, mode] : modes)
    compare(std::string("conv2d_") + name, nn::Conv2d(2, 2, {.kernel_size = 3, .padding = {1, 2}, .padding_mode = mode}), {2, 2, 5, 6});
  compare("conv3d", nn::Conv3d(2, 3, {.kernel_size = {2, 3, 1}, .stride = {1, 2, 1}, .padding = {1, 0, 0}}), {1, 2, 3, 5, 3});
  compare("conv_transpose1d", nn::ConvTranspose1d(3, 2, {.kernel_size = 4, .stride = 3, .padding = 1, .output_padding = 2}), {2, 3, 4});
  compare("conv_transpose2d",
          nn::ConvTranspose2d(4, 6, {.kernel_size = {3, 4}, .stride = 2, .padding = 1, .groups = 2, .dilation = {2, 1}}), {2, 4, 3, 4});
  compare("conv_transpose3d", nn::ConvTranspose3d(2, 2, {.kernel_size = 2, .stride = 2, .bias = false}), {1, 2, 2, 1, 3});
  compare("unfold", nn::Unfold({2, 3}, {.dilation = {2, 1}, .padding = 1, .stride = {1, 2}}), {2, 2, 4, 5});
  compare("fold", nn::Fold({4, 5}, 2, {.padding = {0, 1}, .stride = {1, 2}}), {2, 8, 9});
  compare_indices("max_pool1d", nn::MaxPool1d(3, {.stride = 2, .padding = 1}), {2, 2, 8});
  compare_indices("max_pool2d", nn::MaxPool2d({3, 2}, {.stride = PerDim{2, 2}, .padding = {1, 0}, .dilation = {1, 2}, .ceil_mode = true}),
                  {2, 3, 6, 7});
  compare_indices("max_pool3d", nn::MaxPool3d(2), {1, 2, 4, 5, 4});
  compare("avg_pool1d", nn::AvgPool1d(3, {.stride = 2, .padding = 1, .ceil_mode = true}), {2, 2, 8});
  compare("avg_pool2d", nn::AvgPool2d(3, {.stride = 2, .padding = 1, .ceil_mode = true}), {2, 2, 6, 8});
  compare("avg_pool2d_inside", nn::AvgPool2d(3, {.stride = 2, .padding = 1, .ceil_mode = true, .count_include_pad = false}), {2, 2, 6, 8});
  compare("avg_pool3d", nn::AvgPool3d({1, 2, 3}, {.divisor_override = 5}), {1, 2, 2, 4, 6});
  compare("lp_pool1d", nn::LPPool1d(2, 3, {.ceil_mode = true}), {2, 2, 8});
  compare("lp_pool2d", nn::LPPool2d(2, {2, 3}, {.stride = 1}), {1, 2, 4, 5});
  compare("lp_pool3d", nn::LPPool3d(2, 2), {1, 2, 4, 4, 2});
  compare("adaptive_avg_pool1d", nn::AdaptiveAvgPool1d(3), {2, 2, 7});
  compare("adaptive_avg_pool2d", nn::AdaptiveAvgPool2d({3, 7}), {2, 2, 5, 4});
  compare("adaptive_avg_pool3d", nn::AdaptiveAvgPool3d({2, 1, 3}), {1, 2, 3, 4, 5});
  compare_indices("adaptive_max_pool1d", nn::AdaptiveMaxPool1d(3), {2, 2, 7});
  compare_indices("adaptive_max_pool2d", nn::AdaptiveMaxPool2d({3, -1}), {2, 2, 5, 4});
  compare_indices("adaptive_max_pool3d", nn::AdaptiveMaxPool3d({2, 1, 3}), {1, 2, 3, 4, 5});
  compare_with("max_unpool2d", nn::MaxUnpool2d(2, {.output_size = {4, 5}}), {1, 2, 2, 2},
               [](const auto& m, const Tensor& x) { return m(x, golden("max_unpool2d.at")); });
  for (auto& [key, value] : golden_file().all) CHECK(compared.count(key.substr(0, key.find('.'))) == 1);
}

namespace {

struct Sizes {
  const char* name;
  int64_t in, out;
  Shape space;
  PerDim kernel;
  ConvParams options;
  bool transposed = false;
};
const std::vector<Sizes>& sizes() {
  static const std::vector<Sizes> all = {
      {"3 x 3", 16, 32, {13, 12}, 3, {.padding = 1}},
      {"3 x 3, stride 2", 32, 16, {15, 17}, 3, {.stride = 2, .padding = 1}},
      {"7 x 7 of 3 channels, stride 2", 3, 16, {32, 30}, 7, {.stride = 2, .padding = 3}},
      {"3 x 3 of 1 channel", 1, 16, {12, 14}, 3, {.padding = 1}},
      {"dilated", 16, 16, {14, 14}, 3, {.padding = 2, .dilation = 2}},
      {"1 x 1", 16, 48, {11, 9}, 1, {}},
      {"1 x 1, stride 2", 16, 48, {20, 19}, 1, {.stride = 2}},
      {"depthwise", 32, 32, {12, 13}, 3, {.padding = 1, .groups = 32}},
      {"depthwise, stride 2", 32, 32, {12, 13}, 3, {.stride = 2, .padding = 1, .groups = 32}},
      {"depthwise, dilated, more padding on one side", 20, 20, {12, 13}, {2, 4}, {.padding = "same", .dilation = 2, .groups = 20}},
      {"depthwise, more padding than kernel", 16, 16, {9, 8}, 2, {.padding = 2, .groups = 16}},
      {"depthwise, one dim, causal", 40, 40, {70}, 4, {.padding = 3, .groups = 40}},
      {"depthwise, one dim, dilated", 17, 17, {70}, 3, {.padding = 1, .dilation = 3, .groups = 17}},
      {"depthwise, three dims", 16, 16, {5, 6, 7}, {2, 3, 1}, {.padding = {1, 1, 0}, .groups = 16}},
      {"groups of 16", 32, 32, {12, 12}, 3, {.padding = 1, .groups = 2}},
      {"groups of 3", 6, 9, {12, 12}, 3, {.padding = 1, .groups = 3}},
      {"few places", 16, 16, {3, 3}, 3, {.padding = 1}},
      {"even kernel, same", 16, 16, {14, 15}, {2, 4}, {.padding = "same"}},
      {"one dim", 16, 16, {200}, 5, {.padding = 2}},
      {"three dims", 16, 16, {5, 9, 8}, {3, 3, 2}, {.stride = {1, 2, 1}, .padding = {1, 1, 0}}},
      {"transposed 4 x 4, stride 2", 32, 16, {8, 9}, 4, {.stride = 2, .padding = 1}, true},
  };
  return all;
}
// y, and the gradients of x, weight and bias.
std::vector<Tensor> pass(const Sizes& s, DType dtype) {
  const int64_t batch = 5;
  Shape x_shape{batch, s.in}, w_shape = s.transposed ? Shape{s.in, s.out} : Shape{s.out, s.in / s.options.groups};
  for (int d = 0; d < s.space.rank(); ++d) x_shape.push_back(s.space[d]), w_shape.push_back(s.kernel.at(d, s.space.rank(), "", ""));
  std::vector<Tensor> in = {values(x_shape, -1, 1, 1, DType::f32), values(w_shape, -1, 1, 2, DType::f32),
                            values({s.out}, -1, 1, 3, DType::f32)};
  for (Tensor& t : in) t = Tensor(cast(t, dtype).detach()).set_requires_grad();
  const int rank = s.space.rank();
  const Tensor y = s.transposed ? conv_transpose2d(in[0], in[1], in[2], {.stride = s.options.stride, .padding = s.options.padding.amount})
                                : (rank == 1   ? conv1d
                                   : rank == 2 ? conv2d
                                               : conv3d)(in[0], in[1], in[2], s.options);
  backward(y, {}, cast(values(y.shape(), -1, 1, 4, DType::f32), dtype));
  return {y, in[0].grad(), in[1].grad(), in[2].grad()};
}

}  // namespace

TEST_CASE("a convolution in f32 agrees with the one in f64") {
  for (auto& s : sizes()) {
    const auto f32 = pass(s, DType::f32), f64 = pass(s, DType::f64);
    for (size_t i = 0; i < f32.size(); ++i) {
      INFO(s.name << ", " << i);
      CHECK(relative_difference(f32[i], f64[i]) <= 2e-6);
    }
  }
}

TEST_CASE("a convolution does not depend on the number of threads") {
  const int before = omp_get_max_threads();
  for (auto& s : sizes()) {
    omp_set_num_threads(1);
    const auto one = pass(s, DType::f32);
    for (const int threads : {2, 5}) {
      omp_set_num_threads(threads);
      const auto many = pass(s, DType::f32);
      for (size_t i = 0; i < one.size(); ++i) {
        INFO(s.name << ", " << i << ", " << threads << " threads");
        CHECK(same_bits(many[i], one[i]));
      }
    }
  }
  omp_set_num_threads(before);
}

TEST_CASE("a convolution and a product inside a parallel region are the same") {
  const Tensor a = values({40, 50}, -1, 1, 1, DType::f32), b = values({40, 50}, -1, 1, 2, DType::f32);
  const auto both = [&] {
    auto all = pass(sizes()[0], DType::f32);
    all.push_back(matmul(a, transpose(b)));
    return all;
  };
  const auto outside = both();
  std::vector<std::vector<Tensor>> inside(3);
#pragma omp parallel for num_threads(3) schedule(static, 1)
  for (int i = 0; i < 3; ++i) inside[size_t(i)] = both();
  for (auto& all : inside)
    for (size_t i = 0; i < all.size(); ++i) CHECK(same_bits(all[i], outside[i]));
}

TEST_CASE("channels-last tensors stay so, and give the same numbers") {
  const Tensor x = values({2, 3, 4, 5}, -1, 1, 1, DType::f32), last = contiguous(x, MemoryFormat::channels_last);
  CHECK(last.memory_format() == MemoryFormat::channels_last);
  CHECK(last.strides() == Shape{60, 1, 15, 3});
  CHECK(contiguous(last, MemoryFormat::channels_last).shares_storage(last));
  CHECK(x.memory_format() == MemoryFormat::contiguous);
  CHECK(ones({2, 1, 4, 5}).is_contiguous(MemoryFormat::channels_last));
  CHECK(ones({2, 3, 1, 1}).is_contiguous(MemoryFormat::channels_last));
  CHECK_FALSE(transpose(last, 2, 3).is_contiguous(MemoryFormat::channels_last));
  CHECK(same_bits(last, x));

  const Tensor bias = values({3, 1, 1}, -1, 1, 2, DType::f32);
  const auto kept = [&](const Tensor& from_last, const Tensor& from_x) {
    CHECK(from_last.memory_format() == MemoryFormat::channels_last);
    CHECK(same_bits(from_last, from_x));
  };
  kept(relu(last), relu(x));
  kept(last + bias, x + bias);
  kept(bias * last, bias * x);
  kept(last + x, x + x);
  kept(gt(last, 0), gt(x, 0));
  kept(where(gt(last, 0), last, 2), where(gt(x, 0), x, 2));
  kept(cast(last, DType::f64), cast(x, DType::f64));
  const Tensor weight = values({4, 3, 3, 3}, -1, 1, 3, DType::f32);
  kept(conv2d(last, weight), conv2d(x, weight));
  kept(max_pool2d(last, 2), max_pool2d(x, 2));
  CHECK(error_of([] {
          contiguous(ones({2, 3}), MemoryFormat::channels_last);
        }) == "contiguous: a tensor of shape [2, 3] has no channels to put last; it needs 3 dims or more, (N, C, ...)");
}

TEST_CASE("a leaf's gradient lies in memory as the leaf does") {
  for (const MemoryFormat format : {MemoryFormat::contiguous, MemoryFormat::channels_last}) {
    Tensor x = contiguous(values({2, 3, 4, 4}, -1, 1, 1, DType::f32), format);
    x.set_requires_grad();
    const Tensor weight = values({2, 3, 3, 3}, -1, 1, 2, DType::f32);
    for (int i = 0; i < 2; ++i) backward(sum(square(conv2d(x, weight))));
    CHECK(x.grad().memory_format() == format);
  }
}

TEST_CASE("what does not fit a convolution is named") {
  const Tensor x = ones({2, 4, 5, 6});
  CHECK(error_of([&] {
          conv2d(x, ones({3, 4, 6, 3}));
        }) == "conv2d: a kernel of 6 with dilation 1 reaches over 6 and does not fit the 5 of x [2, 4, 5, 6] with padding 0");
  CHECK(error_of([&] {
          conv2d(x, ones({3, 3, 3, 3}));
        }) == "conv2d: x [2, 4, 5, 6] has 4 channels, and weight [3, 3, 3, 3] with groups = 1 is for 3");
  CHECK(error_of([&] {
          conv2d(x, ones({3, 2, 3, 3}), {}, {.groups = 2});
        }) == "conv2d: groups 2 does not divide the 3 channels of weight [3, 2, 3, 3]");
  CHECK(error_of([&] {
          conv2d(x, ones({3, 4, 3, 3}), ones({4}));
        }) == "conv2d: bias [4] does not fit weight [3, 4, 3, 3]; its shape must be [3]");
  CHECK(error_of([&] { conv2d(x, ones({3, 4, 3})); }) == "conv2d: weight [3, 4, 3] has 3 dims; it must have 4, (out, in / groups, kernel)");
  CHECK(error_of([&] {
          conv1d(x, ones({3, 4, 3}));
        }) == "conv1d: x of shape [2, 4, 5, 6] has 4 dims; it must have 3, (N, C, L), or 2 without N");
  CHECK(error_of([&] {
          conv2d(x, ones({3, 4, 3, 3}), {}, {.stride = {1, 2, 3}});
        }) == "conv2d: stride [1, 2, 3] has 3 numbers; it must have one, or 2, one for each dim of space");
  CHECK(error_of([&] { conv2d(x, ones({3, 4, 3, 3}), {}, {.stride = 0}); }) == "conv2d: stride 0 is not valid; it must be at least 1");
  CHECK(error_of([&] { conv2d(x, ones({3, 4, 3, 3}), {}, {.padding = -1}); }) == "conv2d: padding -1 is not valid; it must be at least 0");
  CHECK(error_of([&] {
          conv2d(x, ones({3, 4, 3, 3}), {}, {.stride = 2, .padding = "same"});
        }) == "conv2d: padding \"same\" needs a stride of 1, not 2");
  CHECK(error_of([] { Padding("full"); }) == "padding: \"full\" is not known; it must be \"same\", \"valid\" or numbers");
  CHECK(error_of([&] { conv2d(cast(x, DType::i64), ones({3, 4, 3, 3})); }) == "conv2d: x has dtype i64; it must be floating, use cast()");
  CHECK(error_of([&] {
          conv_transpose2d(x, ones({4, 3, 3, 3}), {}, {.output_padding = 1});
        }) == "conv_transpose2d: output_padding 1 must be smaller than the stride 1 or the dilation 1");
  CHECK(error_of([&] {
          conv_transpose2d(x, ones({4, 3, 3, 3}), {}, {.padding = 4});
        }) == "conv_transpose2d: x [2, 4, 5, 6] with padding 4 gives an output of size -1; it must be at least 1");
  CHECK(error_of([] { nn::Conv2d(4, 6, {.kernel_size = 3, .groups = 4}); }) ==
        "convolution: groups 4 does not divide 6 out_channels; both must be at least 1");
  const nn::ConvTranspose2d up(4, 2, {.kernel_size = 3, .stride = 2});
  CHECK(up.forward(x, {12, 13}).shape() == Shape{2, 2, 12, 13});
  CHECK(error_of([&] {
          up.forward(x, {10, 13});
        }) == "conv_transpose: x [2, 4, 5, 6] cannot become [10, 13]: dim 0 of space must be from 11 to 12");
  CHECK(conv2d(ones({0, 4, 5, 6}), ones({3, 4, 3, 3})).shape() == Shape{0, 3, 3, 4});
  CHECK(
      error_of([] {
        col2im(ones({1, 8, 5}), {3, 4}, 2);
      }) ==
      "col2im: columns [1, 8, 5] do not fit an output of 3 x 4: dim 1 must be a multiple of the 4 elements of a window, and dim 2 the 6 windows");
}

TEST_CASE("what does not fit a pool is named, and nan is the largest") {
  const Tensor x = ones({2, 4, 5, 6});
  CHECK(error_of([&] { max_pool2d(x, 7); }) ==
        "max_pool2d: a kernel of 7 with dilation 1 reaches over 7 and does not fit the 5 of x [2, 4, 5, 6] with padding 0");
  CHECK(error_of([&] { avg_pool2d(x, 2, {.padding = 2}); }) == "avg_pool2d: padding 2 is more than half of the kernel's 2");
  CHECK(error_of([&] { avg_pool2d(x, 0); }) == "avg_pool2d: kernel size 0 is not valid; it must be at least 1");
  CHECK(error_of([&] { adaptive_avg_pool2d(ones({1, 2, 0, 3}), 2); }) == "adaptive_avg_pool2d: x [1, 2, 0, 3] has no elements in dim 2");
  CHECK(error_of([&] {
          max_unpool2d(x, ones({2, 4, 5, 6}), 2);
        }) == "max_unpool2d: indices [2, 4, 5, 6] of f32 do not fit x [2, 4, 5, 6]; they must be i64 of the same shape");
  CHECK(error_of([&] {
          max_unpool2d(x, zeros({2, 4, 5, 6}, {DType::i64}), 2, {.output_size = {8, 12}});
        }) == "max_unpool2d: output_size 8 is not possible for dim 2 of x [2, 4, 5, 6]; it must be between 8 and 12");
  const Pooled p = max_pool1d_with_indices(tensor<float>({1, NAN, 3, 4}, {1, 1, 4}), 2);
  CHECK(std::isnan(p.values.to_vector<double>()[0]));
  CHECK(p.values.to_vector<double>()[1] == 4);
  CHECK(p.indices.to_vector<int64_t>() == std::vector<int64_t>{1, 3});
}

TEST_CASE("convolutions start as PyTorch's do") {
  manual_seed(1);
  const nn::Conv2d m(8, 200, {.kernel_size = 3, .groups = 2});
  const double bound = 1 / std::sqrt(4 * 9.);
  for (const Tensor& p : {m.weight.tensor(), m.bias.tensor()}) {
    const auto v = p.to_vector<double>();
    const auto [low, high] = std::minmax_element(v.begin(), v.end());
    CHECK((*low >= -bound && *low<-0.95 * bound&& * high <= bound&& * high> 0.95 * bound));
  }
  CHECK(m.weight->shape() == Shape{200, 4, 3, 3});
  CHECK(nn::Conv2d(2, 2, {.kernel_size = 1, .bias = false}).state_dict().size() == 1);
}
