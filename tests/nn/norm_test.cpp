// Normalisation against the numbers of PyTorch that tests/golden/make_layers_norm.py writes, and what is special about running moments.
#include "golden.h"

using namespace retape;
using namespace retape::testing;

namespace {

Tensor golden(const std::string& name) {
  static const Golden file(RETAPE_GOLDEN "/layers_norm.safetensors");
  return file(name);
}

template <class M> void compare(const std::string& name, M module) {
  for (const DType dtype : {DType::f64, DType::f32}) {
    INFO(name << " in " << name_of(dtype));
    const double most = dtype == DType::f64 ? 1e-12 : 1e-5;
    module.to(dtype);
    module.zero_grad();
    NamedTensors state;
    for (auto& [key, value] : module.state_dict()) {
      const Tensor parameter = golden(name + ".p." + key), buffer = golden(name + ".b." + key);
      REQUIRE((parameter || buffer));
      state.emplace_back(key, parameter ? parameter : buffer);
    }
    module.load_state_dict(state, {.convert_dtype = true});
    std::vector<Tensor> inputs;
    std::vector<std::string> names;
    Tensor loss;
    for (int step = 0;; ++step) {
      const bool last = !golden(name + ".x." + std::to_string(step));
      const std::string prefix = name + (last ? ".eval." : "."), end = last ? "" : "." + std::to_string(step);
      INFO(prefix << "y" << end);
      module.train(!last);
      const Tensor x = Tensor(cast(golden(prefix + "x" + end), dtype).detach()).set_requires_grad(), y = module(x);
      CHECK(y.dtype() == dtype);
      CHECK(relative_difference(y, golden(prefix + "y" + end)) <= most);
      const Tensor part = sum(y * cast(wave(y.shape(), step), dtype));
      loss = loss ? loss + part : part;
      inputs.push_back(x), names.push_back(prefix + "d.x" + end);
      if (last) break;
    }
    backward(loss);
    for (size_t i = 0; i < inputs.size(); ++i) {
      INFO(names[i]);
      CHECK(relative_difference(inputs[i].grad(), golden(names[i])) <= most);
    }
    for (auto& [key, p] : module.named_parameters()) {
      INFO("gradient of " << key);
      CHECK(relative_difference(p.grad(), golden(name + ".d.p." + key)) <= most);
    }
    for (auto& [key, b] : module.named_buffers()) {
      INFO("afterwards " << key);
      CHECK(relative_difference(b, golden(name + ".after." + key)) <= most);
    }
  }
}

}  // namespace

TEST_CASE("batch, group, instance and local response norm are PyTorch's", "[nn][norm][golden]") {
  compare("batch_norm_1d", nn::BatchNorm1d(3));
  compare("batch_norm_1d_length", nn::BatchNorm1d(3, {.eps = 1e-3, .momentum = 0.3}));
  compare("batch_norm_2d", nn::BatchNorm2d(4));
  compare("batch_norm_2d_cumulative", nn::BatchNorm2d(4, {.momentum = {}}));
  compare("batch_norm_2d_plain", nn::BatchNorm2d(4, {.affine = false, .track_running_stats = false}));
  compare("batch_norm_3d", nn::BatchNorm3d(2));
  compare("group_norm", nn::GroupNorm(2, 6));
  compare("group_norm_plain", nn::GroupNorm(3, 6, {.eps = 1e-2, .affine = false}));
  compare("instance_norm_1d", nn::InstanceNorm1d(3));
  compare("instance_norm_2d", nn::InstanceNorm2d(3, {.affine = true, .track_running_stats = true}));
  compare("instance_norm_3d", nn::InstanceNorm3d(2, {.affine = true}));
  compare("instance_norm_unbatched", nn::InstanceNorm2d(3, {.track_running_stats = true}));
  compare("local_response_norm", nn::LocalResponseNorm(3, {.alpha = 0.5, .beta = 0.6, .k = 2}));
  compare("local_response_norm_even", nn::LocalResponseNorm(4));
}

TEST_CASE("weights that are computed from others are PyTorch's", "[nn][norm][golden]") {
  compare("weight_norm", nn::WeightNorm<nn::Linear>(nn::Linear(3, 4)));
  compare("weight_norm_columns", nn::WeightNorm<nn::Linear>(nn::Linear(3, 4), {.dim = 1}));
  compare("weight_norm_whole", nn::WeightNorm<nn::Linear>(nn::Linear(3, 4, {.bias = false}), {.dim = {}}));
  compare("spectral_norm", nn::SpectralNorm<nn::Linear>(nn::Linear(3, 4)));
  compare("spectral_norm_columns", nn::SpectralNorm<nn::Linear>(nn::Linear(3, 4, {.bias = false}), {.n_power_iterations = 3, .dim = 1}));
}

TEST_CASE("a layer whose weight is normalised begins as it was", "[nn][norm]") {
  manual_seed(1);
  nn::Linear plain(5, 7);
  const Tensor x = values({3, 5}, -1, 1, 1, DType::f32), y = plain(x);
  CHECK(relative_difference(nn::WeightNorm<nn::Linear>(plain.clone())(x), y) <= 1e-6);
  const auto clone = nn::WeightNorm<nn::Linear>(plain.clone()).clone();
  CHECK(clone.num_parameters() == 7 * 5 + 7 + 7);
  const double sigma = amax(svdvals(plain.weight)).item();
  nn::SpectralNorm<nn::Linear> evaluated(plain.clone());
  evaluated.eval();
  const Tensor before = retape::clone(evaluated.u);
  evaluated(x);
  CHECK(same_bits(evaluated.u, before));
  evaluated.train();
  for (int i = 0; i < 50; ++i) evaluated(x);
  CHECK(relative_difference(evaluated(x), linear(x, plain.weight * (1 / sigma), plain.bias)) <= 1e-5);
}

TEST_CASE("a checkpoint moves running moments once", "[nn][norm][replay]") {
  const Tensor x = values({4, 3, 2, 2}, -1, 1, 1, DType::f32);
  nn::BatchNorm2d plain(3), inside(3);
  const auto gradient = [&](nn::BatchNorm2d& norm, bool again) {
    const Tensor in = Tensor(x.detach()).set_requires_grad();
    backward(sum(tanh(again ? checkpoint([&](const Tensor& h) { return norm(tanh(h)); }, in) : norm(tanh(in)))));
    return in.grad();
  };
  const Tensor expected = gradient(plain, false);
  CHECK(same_bits(gradient(inside, true), expected));
  CHECK(same_bits(inside.running_mean, plain.running_mean));
  CHECK(same_bits(inside.running_var, plain.running_var));
  CHECK(inside.num_batches_tracked.tensor().item<int64_t>() == 1);
}

TEST_CASE("a large mean costs batch and group norm no more than its own rounding", "[nn][norm]") {
  const Tensor x = values({64, 6, 5, 5}, -1, 1, 1, DType::f32), far = x + 4096;  // which rounds to steps of 2^-11
  const Tensor exact = cast(far, DType::f64);
  CHECK(relative_difference(batch_norm_with_moments(far).y, batch_norm_with_moments(exact).y) <= 1e-3);
  CHECK(relative_difference(group_norm(far, 3), group_norm(exact, 3)) <= 1e-3);
}

TEST_CASE("normalisation keeps channels next to each other in memory, and takes any layout", "[nn][norm]") {
  const Tensor x = values({2, 6, 3, 4}, -1, 1, 1, DType::f32), last = movedim(contiguous(movedim(x, 1, -1)), -1, 1);
  const Tensor y = group_norm(last, 2);
  CHECK(movedim(y, 1, -1).is_contiguous());
  CHECK(same_bits(y, group_norm(x, 2)));
}

TEST_CASE("update_bn gives a model the moments of all batches", "[nn][norm]") {
  nn::BatchNorm1d norm(3);
  std::vector<Tensor> batches;
  for (uint64_t i = 0; i < 3; ++i) batches.push_back(values({4, 3}, -1, 2, i + 1, DType::f32));
  norm(batches[2]);
  norm.eval();
  nn::update_bn(batches, norm);
  CHECK(!norm.is_training());
  CHECK(norm.momentum == 0.1);
  CHECK(norm.num_batches_tracked.tensor().item<int64_t>() == 3);
  CHECK(relative_difference(norm.running_mean, mean(stack(batches), {0, 1})) <= 1e-6);
  CHECK(relative_difference(norm.running_var, mean(var(stack(batches), {1}), {0})) <= 1e-6);
}

TEST_CASE("half types are normalised by moments in f32", "[nn][norm]") {
  nn::BatchNorm2d norm(3);
  norm.to(DType::bf16);
  const Tensor x = values({8, 3, 4, 4}, -1, 1, 1, DType::bf16);
  const Tensor y = norm(x);
  CHECK(y.dtype() == DType::bf16);
  CHECK(difference(y, batch_norm_with_moments(cast(x, DType::f64)).y, DType::bf16) <= 1);
  CHECK(norm.running_mean.tensor().dtype() == DType::bf16);
}

TEST_CASE("normalisation names what does not fit", "[nn][norm]") {
  CHECK_THAT(error_of([] {
               nn::BatchNorm2d(3)(zeros({2, 4, 2, 2}));
             }),
             ContainsSubstring("BatchNorm2d: the input is [2, 4, 2, 2], with 4 channels; it must have 3"));
  CHECK_THAT(error_of([] {
               nn::BatchNorm2d(3)(zeros({2, 3}));
             }),
             ContainsSubstring("BatchNorm2d: the input is [2, 3]; it must have 4 dims"));
  CHECK_THAT(error_of([] {
               nn::BatchNorm1d(3)(zeros({1, 3}));
             }),
             ContainsSubstring("[1, 3] has 1 value to take moments of at a time; there must be more than one"));
  CHECK_THAT(error_of([] { nn::InstanceNorm1d(3)(zeros({2, 3, 1})); }), ContainsSubstring("has 1 value to take moments of"));
  CHECK_THAT(error_of([] { nn::GroupNorm(4, 6); }), ContainsSubstring("num_groups 4 does not divide num_channels 6"));
  CHECK_THAT(error_of([] { group_norm(zeros({2, 6}), 4); }), ContainsSubstring("4 groups do not fit x [2, 6]"));
  CHECK_THAT(error_of([] { group_norm(zeros({2, 6}), 2, zeros({5})); }), ContainsSubstring("weight is [5], but x [2, 6] has 6 channels"));
  CHECK_THAT(error_of([] { batch_norm(zeros({2, 6}), {}, {}); }), ContainsSubstring("a running moment is undefined"));
  CHECK_THAT(error_of([] { nn::LocalResponseNorm(0); }), ContainsSubstring("size is 0"));
  CHECK_THAT(error_of([] { local_response_norm(zeros({2, 6}), 2); }), ContainsSubstring("at least 3 dims"));
  CHECK(group_norm(zeros({0, 6, 2}), 2).shape() == Shape{0, 6, 2});
}
