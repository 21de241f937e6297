// Activations, gates and bilinear forms: PyTorch's numbers, at kinks too, and what randomness and bad input do.
#include "layer_cases.h"

using namespace retape;
using namespace retape::testing;

namespace {

template <class M> std::function<Tensor(const CaseInputs&)> of_module(std::shared_ptr<M> m) {
  return [m](const CaseInputs& x) { return (*m)(x["input"]); };
}
template <class G> Tensor gated(const CaseInputs& x) {
  G layer(3, 5);
  layer.to(x["x"].dtype());
  // The functions that the module is made of, with the file's tensors, so that these get the gradients.
  const Tensor h = linear(x["x"], x["gw"], x["gb"]);
  const Tensor open = layer.gate == nn::Gate::silu ? silu(h) : layer.gate == nn::Gate::gelu ? gelu(h) : relu(h);
  const Tensor y = linear(open * linear(x["x"], x["uw"], x["ub"]), x["dw"], x["db"]);
  const NoGrad off;
  layer.load_state_dict(NamedTensors{{"gate_proj.weight", x["gw"]},
                                     {"gate_proj.bias", x["gb"]},
                                     {"up_proj.weight", x["uw"]},
                                     {"up_proj.bias", x["ub"]},
                                     {"down_proj.weight", x["dw"]},
                                     {"down_proj.bias", x["db"]}});
  CHECK(same_bits(layer(x["x"]), y));
  return y;
}

std::vector<LayerCase> activation_cases() {
  using In = const CaseInputs&;
  std::vector<LayerCase> cases = {
      {"silu", of_module(std::make_shared<nn::SiLU>())},
      {"gelu", of_module(std::make_shared<nn::GELU>())},
      {"sigmoid", of_module(std::make_shared<nn::Sigmoid>())},
      {"tanh", of_module(std::make_shared<nn::Tanh>())},
      {"mish", of_module(std::make_shared<nn::Mish>())},
      {"softsign", of_module(std::make_shared<nn::Softsign>())},
      {"tanhshrink", of_module(std::make_shared<nn::Tanhshrink>())},
      {"logsigmoid", of_module(std::make_shared<nn::LogSigmoid>())},
      {"softplus", of_module(std::make_shared<nn::Softplus>())},
      {"softmax2d", of_module(std::make_shared<nn::Softmax2d>())},
      {"elu_options", of_module(std::make_shared<nn::ELU>(nn::ELUOptions{0.6}))},
      {"celu_options", of_module(std::make_shared<nn::CELU>(nn::CELUOptions{0.75}))},
      {"leaky_relu_options", of_module(std::make_shared<nn::LeakyReLU>(nn::LeakyReLUOptions{-0.3}))},
      {"hardtanh_options", of_module(std::make_shared<nn::Hardtanh>(nn::HardtanhOptions{-0.5, 2}))},
      {"hardshrink_options", of_module(std::make_shared<nn::Hardshrink>(nn::HardshrinkOptions{1.2}))},
      {"softshrink_options", of_module(std::make_shared<nn::Softshrink>(nn::SoftshrinkOptions{1.2}))},
      {"softplus_options", of_module(std::make_shared<nn::Softplus>(nn::SoftplusOptions{3, 4}))},
      {"threshold", [](In x) { return nn::Threshold(0.4, -7)(x["x"]); }},
      {"glu", [](In x) { return nn::GLU({.dim = 0})(x["x"]); }},
      {"softmin", [](In x) { return nn::Softmin(1)(x["x"]); }},
      {"prelu", [](In x) { return prelu(x["input"], x["weight"]); }},
      {"prelu_one", [](In x) { return prelu(x["input"], x["weight"]); }},
      {"bilinear",
       [](In x) {
         nn::Bilinear layer(3, 4, 5);
         layer.to(x["weight"].dtype());
         {
           const NoGrad off;
           layer.load_state_dict(NamedTensors{{"weight", x["weight"]}, {"bias", x["bias"]}});
         }
         const Tensor y = einsum("...i,oij,...j->...o", {x["input1"], x["weight"], x["input2"]}) + x["bias"];
         CHECK(same_bits(layer(x["input1"], x["input2"]), y));
         return y;
       }},
      {"swiglu", gated<nn::SwiGLU>},
      {"geglu", gated<nn::GEGLU>},
      {"reglu", gated<nn::ReGLU>},
  };
  const auto also = [&](const std::string& name, auto module, bool plain, bool kinks) {
    const auto f = of_module(std::make_shared<decltype(module)>(std::move(module)));
    if (plain) cases.push_back({name, f});
    if (kinks) cases.push_back({name + "_kinks", f});
  };
  also("relu", nn::ReLU(), true, true);
  also("relu6", nn::ReLU6(), true, true);
  also("selu", nn::SELU(), true, true);
  also("hardsigmoid", nn::Hardsigmoid(), true, true);
  also("hardswish", nn::Hardswish(), true, true);
  also("elu", nn::ELU(), true, true);
  also("celu", nn::CELU(), true, true);
  also("leaky_relu", nn::LeakyReLU(), true, true);
  also("hardtanh", nn::Hardtanh(), true, true);
  also("hardshrink", nn::Hardshrink(), true, true);
  also("softshrink", nn::Softshrink(), true, true);
  nn::RReLU rrelu;
  rrelu.eval();
  also("rrelu", std::move(rrelu), true, false);
  return cases;
}

}  // namespace

TEST_CASE("activations and their gradients are PyTorch's, at kinks, too", "[activation][golden]") {
  NamedTensors golden;
  for (auto& entry : SafeTensors::open(RETAPE_GOLDEN "/layers_others.safetensors").tensors())
    if (!entry.first.starts_with("embedding_bag") && !entry.first.starts_with("experts")) golden.push_back(entry);
  check_layer_cases(golden, activation_cases());
}

TEST_CASE("activations do not overflow, and pass nan on", "[activation]") {
  const Tensor x = tensor<float>({-1000, 1000, -INFINITY, INFINITY, NAN});
  const auto v = [](const Tensor& y) { return y.to_vector<double>(); };
  CHECK(v(elu(x, 2))[0] == -2);
  CHECK(v(elu(x, 2))[3] == INFINITY);
  CHECK(v(softplus(x, 2))[1] == 1000);
  CHECK(v(celu(x))[2] == -1);
  for (const Tensor& y : {elu(x), celu(x), leaky_relu(x), hardtanh(x), hardshrink(x), softshrink(x), threshold(x, 0, 1), softplus(x, 2)})
    CHECK(std::isnan(v(y)[4]));
  Tensor far = tensor<double>({1000, -1000}).set_requires_grad();
  backward(sum(grad({sum(elu(far))}, {far}, {.create_graph = true})[0]));
  CHECK(v(far.grad()) == std::vector<double>{0, 0});
}

TEST_CASE("activations refuse options and shapes that have no meaning", "[activation]") {
  const Tensor x = ones({2, 3});
  CHECK_THAT(error_of([&] { prelu(x, ones({2})); }), ContainsSubstring("[2]") && ContainsSubstring("[2, 3]"));
  CHECK_THAT(error_of([&] { glu(x); }), ContainsSubstring("dim 1 of shape [2, 3] has odd size 3"));
  CHECK_THAT(error_of([&] { hardtanh(x, 1, 1); }), ContainsSubstring("min_val 1 is not below max_val 1"));
  CHECK_THAT(error_of([&] { softshrink(x, -1); }), ContainsSubstring("-1"));
  CHECK_THAT(error_of([&] { celu(x, 0); }), ContainsSubstring("alpha is 0"));
  CHECK_THAT(error_of([&] { rrelu(x, 2, 1); }), ContainsSubstring("lower 2 is above upper 1"));
  CHECK_THAT(error_of([&] { gumbel_softmax(x, 0); }), ContainsSubstring("tau 0"));
  CHECK_THAT(error_of([&] { nn::Softmax2d()(x); }), ContainsSubstring("[2, 3]"));
  CHECK_THAT(error_of([&] { nn::Bilinear(3, 4, 2)(x, x); }), ContainsSubstring("[2, 3]; its last size must be 4"));
}

TEST_CASE("rrelu draws a slope for each element while it trains", "[activation]") {
  Generator g(3);
  const auto y = rrelu(full({1000}, -1), 0.2, 0.4, true, g).to_vector<double>();
  CHECK(*std::min_element(y.begin(), y.end()) >= -0.4);
  CHECK(*std::max_element(y.begin(), y.end()) <= -0.2);
  CHECK(*std::min_element(y.begin(), y.end()) < -0.39);
  CHECK(*std::max_element(y.begin(), y.end()) > -0.21);
  CHECK(rrelu(ones({2}), 0.2, 0.4, true, g).to_vector<double>() == std::vector<double>{1, 1});
}

TEST_CASE("gumbel_softmax samples in proportion, and is one-hot where asked", "[activation]") {
  Generator g(5);
  const Tensor logits = expand(log(tensor<double>({0.2, 0.5, 0.3})), {4000, 3});
  const Tensor hard = gumbel_softmax(logits, 0.7, true, -1, g);
  const auto shares = mean(hard, {0}).to_vector<double>();
  CHECK(shares[0] == Approx(0.2).margin(0.03));
  CHECK(shares[1] == Approx(0.5).margin(0.03));
  CHECK(sum(square(hard)).item() == Approx(4000));
  Generator a(9), b(9);
  const Tensor x = leaf({3, 4}), y = leaf({3, 4}), w = values({3, 4});
  backward(sum(gumbel_softmax(x, 0.5, true, 0, a) * w));
  backward(sum(gumbel_softmax(y, 0.5, false, 0, b) * w));
  CHECK(same_bits(x.grad(), y.grad()));  // straight through
}

TEST_CASE("PReLU's weight is trained", "[activation]") {
  nn::PReLU layer({.num_parameters = 3});
  CHECK(layer.weight->to_vector<double>() == std::vector<double>(3, 0.25));
  backward(sum(layer(full({2, 3}, -2))));
  CHECK(layer.weight->grad().to_vector<double>() == std::vector<double>(3, -4));
}

TEST_CASE("dropout of channels and examples keeps or drops them whole", "[dropout]") {
  manual_seed(7);
  const auto whole = [](const Tensor& y, int64_t slices) {
    std::set<double> seen;
    const Tensor rows = reshape(y, {slices, -1});
    CHECK(equal(amin(rows, {1}), amax(rows, {1})));
    for (const double v : amax(rows, {1}).to_vector<double>()) seen.insert(v);
    return seen;
  };
  const std::set<double> both{0, 2};
  CHECK(whole(nn::Dropout1d(0.5)(ones({8, 8, 3})), 64) == both);
  CHECK(whole(nn::Dropout1d(0.5)(ones({32, 3})), 32) == both);
  CHECK(whole(nn::Dropout2d(0.5)(ones({8, 8, 3, 2})), 64) == both);
  CHECK(whole(nn::Dropout3d(0.5)(ones({8, 8, 3, 2, 2})), 64) == both);
  CHECK(whole(nn::DropPath(0.5)(ones({64, 3, 2})), 64) == both);
  CHECK(whole(nn::FeatureAlphaDropout(0.5)(ones({8, 8, 3})), 64).size() == 2);
  nn::DropPath off(0.5);
  off.eval();
  CHECK(sum(off(ones({4, 2}))).item() == 8);
  CHECK_THAT(error_of([] { nn::Dropout2d()(ones({2, 2})); }), ContainsSubstring("[2, 2]"));
  CHECK_THAT(error_of([] { nn::DropPath(1.5); }), ContainsSubstring("1.5"));
}

TEST_CASE("alpha dropout keeps mean and variance", "[dropout]") {
  Generator g(2);
  const Tensor x = normal({40000}, 0, 1, {DType::f64}, g), y = alpha_dropout(x, 0.3, true, g);
  CHECK(mean(y).item() == Approx(0).margin(0.03));
  CHECK(var(y).item() == Approx(1).margin(0.05));
  CHECK(alpha_dropout(x, 0.3, false).shares_storage(x));
  CHECK(norm(alpha_dropout(x, 1)).item() == 0);
}

TEST_CASE("Flatten and Unflatten undo each other", "[layers]") {
  const Tensor x = values({2, 3, 4});
  CHECK(nn::Flatten()(x).shape() == Shape{2, 12});
  CHECK(same_bits(nn::Unflatten(1, {3, -1})(nn::Flatten()(x)), x));
}
