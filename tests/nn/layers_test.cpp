// Layers against numbers from PyTorch. Inputs and parameters are `wave(shape, k)`, in Python
//     def wave(*shape, k=0.): n = math.prod(shape); return torch.sin(torch.arange(n, dtype=torch.float64) * 0.7 + k).reshape(shape)
// and the i-th entry of a module's state_dict is wave(..., k=0.3 * (i + 1)).
#include "golden.h"

#include <cmath>
#include <limits>

using namespace retape;
using namespace retape::testing;

TEST_CASE("Linear is PyTorch's") {
  const nn::DefaultOptions f64({.dtype = DType::f64});
  nn::Linear m(3, 2), without(3, 2, {.bias = false});
  CHECK(matches(waved(m)(wave({2, 3})), {2, 2}, {2.08396878481, 0.387389990183, 0.753761709433, 1.77518284476}));  // nn.Linear(3, 2)
  CHECK(matches(waved(without)(wave({2, 3})), {2, 2}, {1.51932631141, -0.576168195234, 0.189119236038, 0.811624659341}));
  CHECK(without.state_dict().size() == 1);
  CHECK(m(wave({2, 5, 3})).shape() == Shape{2, 5, 2});
  CHECK_THROWS_AS(m(wave({2, 4})), Error);
  CHECK_THROWS_AS(nn::Linear(3, -1), Error);
}

TEST_CASE("Linear starts uniform within 1 / sqrt(in_features)") {
  manual_seed(1);
  const nn::Linear m(100, 400);
  for (const Tensor& p : m.parameters()) {
    const auto v = p.to_vector<double>();
    const auto [low, high] = std::minmax_element(v.begin(), v.end());
    CHECK((*low >= -0.1 && *low < -0.098 && *high <= 0.1 && *high > 0.098));
  }
  CHECK_NOTHROW(nn::Linear(0, 3));
}

TEST_CASE("Embedding is PyTorch's") {
  const nn::DefaultOptions f64({.dtype = DType::f64});
  nn::Embedding m(4, 2);
  const Tensor ids = tensor<int64_t>({1, 3, 0, 0}, {2, 2});
  CHECK(matches(waved(m)(ids), {2, 2, 2},
                {0.991664810452, 0.675463180551, -0.977530117665, -0.88345465572, 0.295520206661, 0.841470984808, 0.295520206661,
                 0.841470984808}));  // nn.Embedding(4, 2)
  CHECK_THROWS_AS(m(tensor<int64_t>({4})), Error);
  CHECK_THROWS_AS(m(tensor<int64_t>({-1})), Error);
}

TEST_CASE("the padding row of an Embedding starts at 0 and gets no gradient") {
  nn::Embedding m(4, 2, {.padding_idx = -2});
  CHECK(m.padding_idx == 2);
  CHECK(select(m.weight, 0, 2).to_vector<double>() == std::vector<double>{0, 0});
  backward(sum(m(tensor<int64_t>({2, 1, 2}))));
  CHECK(m.weight->grad().to_vector<double>() == std::vector<double>{0, 0, 1, 1, 0, 0, 0, 0});
  CHECK_THROWS_AS(nn::Embedding(4, 2, {.padding_idx = 4}), Error);
}

TEST_CASE("Embedding starts with standard deviation 1") {
  const auto v = nn::Embedding(200, 50).weight->to_vector<double>();
  double squares = 0;
  for (double u : v) squares += u * u / double(v.size());
  CHECK(squares == Approx(1).epsilon(0.05));
}

TEST_CASE("LayerNorm is PyTorch's") {
  const nn::DefaultOptions f64({.dtype = DType::f64});
  nn::LayerNorm m(3, {.eps = 0.1}), two({2, 3}), plain(3, {.elementwise_affine = false}), no_bias(3, {.bias = false});
  CHECK(m.weight->to_vector<double>() == std::vector<double>{1, 1, 1});
  CHECK(m.bias->to_vector<double>() == std::vector<double>{0, 0, 0});
  CHECK(
      matches(waved(m)(wave({2, 3})), {2, 3},
              {0.253937346835, 1.12804210715, 1.75807504621, 0.855980527106, 1.03857637487, -0.15674166434}));  // nn.LayerNorm(3, eps=0.1)
  CHECK(matches(waved(two)(wave({2, 2, 3})), {2, 2, 3},
                {0.306853796884, 1.37493058245, 2.10908933135, 1.07014365704, -0.262381583772, 0.168959431121, 0.277147615817,
                 0.0213391836165, 0.260261204672, 0.565214386592, -0.211792671807, -1.73047769553}));  // nn.LayerNorm([2, 3])
  CHECK(
      matches(plain(wave({2, 3})), {2, 3}, {-1.32944099526, 0.247167938991, 1.08227305627, 1.16846391649, 0.10566537668, -1.27412929317}));
  CHECK(plain.state_dict().empty());
  CHECK(no_bias.state_dict().size() == 1);
  CHECK_THROWS_AS(m(wave({2, 4})), Error);
}

TEST_CASE("RMSNorm divides by the root of the mean square") {
  const nn::DefaultOptions f64({.dtype = DType::f64});
  nn::RMSNorm m(3, {.eps = 0.1});
  CHECK(matches(
      waved(m)(wave({2, 3})), {2, 3},
      {0, 0.72308141401, 1.30351125713, 0.390473657691, 0.431476358375, -0.53246631301}));  // x * rsqrt((x * x).mean(-1) + 0.1) * weight
  const nn::RMSNorm plain(2, {.elementwise_affine = false});
  const Tensor tiny = tensor<double>({1e-8, 0}, {1, 2});  // about the machine epsilon of f64, far below that of f32
  CHECK(plain(tiny).to_vector<double>()[0] == Approx(1e-8 / std::sqrt(0.5e-16 + 2.220446049250313e-16)));
  CHECK(plain(cast(tiny, DType::f32)).to_vector<double>()[0] == Approx(1e-8 / std::sqrt(0.5e-16 + 1.1920929e-07)));
}

TEST_CASE("activations are PyTorch's") {
  const Tensor x = 3 * wave({2, 3});
  CHECK(matches(nn::Identity()(x), {2, 3}, x.to_vector<double>()));
  CHECK(matches(nn::ReLU()(x), {2, 3}, {0, 1.93265306171, 2.95634918997, 2.58962809995, 1.00496445047, 0}));
  CHECK(matches(nn::GELU()(x), {2, 3}, {0, 1.88116819773, 2.95174756699, 2.57718756953, 0.84672577905, -0.153979355717}));
  CHECK(matches(nn::GELU({.approximate = nn::Approximate::tanh})(x), {2, 3},
                {0, 1.88120826893, 2.95217489396, 2.57765093287, 0.84657128142, -0.15415016099}));
  CHECK(matches(nn::SiLU()(x), {2, 3}, {0, 1.68825513409, 2.81019530496, 2.40884893686, 0.73566767268, -0.272320897374}));
  CHECK(matches(nn::Tanh()(x), {2, 3}, {0, 0.958947308625, 0.994604836776, 0.98879869973, 0.763671227516, -0.78271818791}));
  CHECK(matches(nn::Sigmoid()(x), {2, 3}, {0.5, 0.873542782994, 0.95056271245, 0.930191071418, 0.732033528487, 0.258774152504}));
  CHECK(matches(nn::Softplus({.beta = 2})(x), {2, 3},
                {0.34657359028, 1.94302303123, 2.95769980329, 2.59243629624, 1.06783926012, 0.0575039545925}));
  CHECK(matches(nn::Softmax(0)(x), {2, 3},
                {0.069808928582, 0.716606119632, 0.982166793173, 0.930191071418, 0.283393880368, 0.0178332068267}));
  CHECK(matches(nn::LogSoftmax(1)(x), {2, 3},
                {-3.30084135159, -1.36818828988, -0.344492161629, -0.208003283988, -1.79266693347, -3.849981067}));
  CHECK(matches(nn::Softplus()(tensor<double>({-800, 0, 800})), {3}, {0, 0.69314718056, 800}));
}

TEST_CASE("Dropout drops while training only") {
  nn::Dropout m(0.25);
  const Tensor x = ones({10000});
  const auto v = m(x).to_vector<double>();
  const auto zeros = std::count(v.begin(), v.end(), 0.0);
  CHECK(std::abs(double(zeros) - 2500) < 200);
  CHECK(std::all_of(v.begin(), v.end(), [](double u) { return u == 0 || u == Approx(4 / 3.0); }));
  m.eval();
  CHECK(m(x).to_vector<double>() == x.to_vector<double>());
  for (double p : {-0.1, 1.1, double(NAN)}) CHECK_THROWS_AS(nn::Dropout(p), Error);
}

TEST_CASE("losses are PyTorch's") {
  const Tensor x = wave({2, 3}), y = wave({2, 3}, 1), target = tensor<int64_t>({2, 0});
  // nn.CrossEntropyLoss(reduction=..., label_smoothing=0.1), nn.MSELoss(reduction=...)
  CHECK(matches(nn::CrossEntropyLoss({.label_smoothing = 0.1})(x, target), {}, {0.735737025474}));
  CHECK(matches(nn::CrossEntropyLoss({.label_smoothing = 0.1, .reduction = Reduction::sum})(x, target), {}, {1.47147405095}));
  CHECK(matches(nn::CrossEntropyLoss({.label_smoothing = 0.1, .reduction = Reduction::none})(x, target), {2},
                {0.778591140728, 0.692882910219}));
  CHECK(matches(nn::CrossEntropyLoss({.ignore_index = 0})(x, target), {}, {0.73436841497}));
  CHECK(matches(nn::MSELoss()(x, y), {}, {0.481547899961}));
  CHECK(matches(nn::MSELoss({.reduction = Reduction::sum})(x, y), {}, {2.88928739976}));
  CHECK(matches(nn::MSELoss({.reduction = Reduction::none})(x, y), {2, 3},
                {0.708073418274, 0.12071950343, 0.096091660832, 0.675073727591, 0.896517425544, 0.392811664094}));
  CHECK_THROWS_AS(mse_loss(x, wave({2, 1})), Error);
}

TEST_CASE("RotaryEmbedding turns pairs of features by position times frequency") {
  // angles (start + t) / 10000^(2i / 4), written out in PyTorch
  const Tensor x = wave({1, 3, 4});
  const nn::RotaryEmbedding m(4), interleaved(4, {.interleaved = true});
  CHECK(difference(m(x, 5),
                   tensor<double>({0.944971667546, 0.600270095828, 0.279534824073, 0.894328044554, 0.0781138894926, -0.291240212451,
                                   -0.930462040102, -1.00171909612, -0.90754473228, -0.0523425766795, 0.0805699565471, 0.986924222197},
                                  {1, 3, 4}),
                   DType::f32) <= 1);
  CHECK(difference(interleaved(x, 5),
                   tensor<double>({0.61775597846, 0.182740197076, 0.94107568738, 0.911382538579, 0.223631397835, -0.430412513149,
                                   -0.811095611789, -1.03294790365, -0.486959848674, -0.402057683821, 0.586262338779, 1.0316997235},
                                  {1, 3, 4}),
                   DType::f32) <= 1);
  CHECK(m.state_dict().empty());
  CHECK_THROWS_AS(nn::RotaryEmbedding(5), Error);
  CHECK_THROWS_AS(m(wave({3, 6})), Error);
  CHECK_THROWS_AS(m(x, -1), Error);
}

TEST_CASE("RotaryEmbedding's tables grow with the positions asked for, in a checkpoint too") {
  const nn::RotaryEmbedding m(4), fresh(4);
  const Tensor x = leaf({200, 4}), early = m(slice(x, 0, 0, 3));
  const Tensor all = checkpoint([&](const Tensor& v) { return m(v); }, x);
  CHECK(same_bits(slice(all, 0, 0, 3), early));
  CHECK(same_bits(fresh(x), all));
  CHECK(difference(m(slice(x, 0, 150, 152), 150), slice(all, 0, 150, 152), DType::f64) <= 1);
  backward(sum(square(all)));
  CHECK(difference(x.grad(), 2 * x.detach(), DType::f32) <= 1);  // a rotation keeps lengths
  CHECK(difference(sum(m(x)), sum(m.clone()(x)), DType::f64) <= 1);
}
