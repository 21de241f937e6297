// Bags of embeddings and mixtures of experts: numbers of PyTorch and of a plain transcription, routing, and bad input.
#include "layer_cases.h"

using namespace retape;
using namespace retape::testing;
namespace init = retape::nn::init;

namespace {

std::vector<LayerCase> cases() {
  using In = const CaseInputs&;
  std::vector<LayerCase> all;
  const std::pair<const char*, BagMode> modes[] = {{"sum", BagMode::sum}, {"mean", BagMode::mean}, {"max", BagMode::max}};
  for (auto& [name, mode] : modes) {
    const std::string begin = std::string("embedding_bag_") + name;
    all.push_back({begin, [mode](In x) { return embedding_bag(x["i"], x["w"], {.offsets = x["o"], .mode = mode}); }});
    all.push_back(
        {begin + "_padding", [mode](In x) { return embedding_bag(x["i"], x["w"], {.offsets = x["o"], .mode = mode, .padding_idx = 4}); }});
    all.push_back({begin + "_rows", [mode](In x) { return embedding_bag(x["i"], x["w"], {.mode = mode}); }});
  }
  all.push_back({"embedding_bag_weights", [](In x) {
                   return embedding_bag(
                       x["i"], x["w"],
                       {.offsets = x["o"], .mode = BagMode::sum, .per_sample_weights = x["s"], .include_last_offset = true});
                 }});
  return all;
}
nn::MixtureOfExperts experts(nn::MixtureOfExpertsOptions options = {}) {
  nn::MixtureOfExperts layer(3, 6, 4, options);
  layer.to(DType::f64);
  const NoGrad off;
  double k = 1;
  for (auto& [name, p] : layer.named_parameters()) copy_into(wave(p.shape(), k++), p);
  copy_into(2 * layer.gate.weight.tensor(), layer.gate.weight);
  return layer;
}

}  // namespace

TEST_CASE("bags of embeddings and their gradients are PyTorch's", "[embedding][golden]") {
  NamedTensors golden;
  for (auto& entry : SafeTensors::open(RETAPE_GOLDEN "/layers_others.safetensors").tensors())
    if (entry.first.starts_with("embedding_bag")) golden.push_back(entry);
  check_layer_cases(golden, cases());
}

TEST_CASE("a bag may leave sparse gradients, and has its padding row at 0", "[embedding]") {
  nn::EmbeddingBag bag(5, 2, {.mode = BagMode::sum, .sparse = true, .padding_idx = -1});
  CHECK(norm(select(bag.weight, 0, 4)).item() == 0);
  backward(sum(bag(tensor<int64_t>({1, 1, 4, 3}, {2, 2}))));
  CHECK(!bag.weight->grad());
  const auto rows = sparse_grad(bag.weight);
  REQUIRE(rows);
  CHECK(to_dense(*rows).to_vector<double>() == std::vector<double>{0, 0, 2, 2, 0, 0, 1, 1, 0, 0});
}

TEST_CASE("bags of embeddings refuse what does not fit", "[embedding]") {
  const Tensor w = ones({4, 2}), ids = tensor<int64_t>({0, 1, 2});
  const auto error = [&](const EmbeddingBagFunctionOptions& o) { return error_of([&] { embedding_bag(ids, w, o); }); };
  CHECK_THAT(error({}), ContainsSubstring("ids have shape [3]; they must be (B, n)"));
  CHECK_THAT(error({.offsets = tensor<int64_t>({1})}), ContainsSubstring("the first offset is 1; it must be 0"));
  CHECK_THAT(error({.offsets = tensor<int64_t>({0, 4})}), ContainsSubstring("the last offset is 4; there are 3 ids"));
  CHECK_THAT(error({.offsets = tensor<int64_t>({0, 2, 1})}), ContainsSubstring("offset 1 follows 2"));
  CHECK_THAT(error({.offsets = tensor<int64_t>({0}), .per_sample_weights = ones({3})}), ContainsSubstring("mode sum"));
  CHECK_THAT(error({.offsets = tensor<int64_t>({0}), .mode = BagMode::sum, .per_sample_weights = ones({2})}), ContainsSubstring("[2]"));
  CHECK_THAT(error_of([&] { embedding_bag(ids + 2, w, {.offsets = tensor<int64_t>({0})}); }), ContainsSubstring("index 4 is out of range"));
}

TEST_CASE("rows above max_norm are scaled to it where they are read", "[embedding]") {
  nn::Embedding layer(3, 2, {.max_norm = 1});
  init::constant(layer.weight, 3);
  const Tensor y = layer(tensor<int64_t>({1, 1}));
  CHECK(norm(select(y, 0, 0)).item() == Approx(1).epsilon(1e-5));
  CHECK(norm(select(layer.weight, 0, 1)).item() == Approx(1).epsilon(1e-5));
  CHECK(norm(select(layer.weight, 0, 0)).item() == Approx(std::sqrt(18)));
}

TEST_CASE("a mixture of experts is what its experts give token by token", "[moe][golden]") {
  NamedTensors golden;
  CaseInputs in;
  Tensor expected;
  std::map<std::string, Tensor> gradients;
  for (auto& [name, value] : SafeTensors::open(RETAPE_GOLDEN "/layers_others.safetensors").tensors()) {
    if (name == "experts.y") expected = value;
    if (name.starts_with("experts.x.")) in.all[name.substr(10)] = value;
    if (name.starts_with("experts.d.")) gradients[name.substr(10)] = value;
  }
  REQUIRE(expected);
  const auto layer = experts();
  CHECK(relative_difference(layer.gate.weight, in["gate"]) <= 1e-12);
  CHECK(relative_difference(layer.up, in["up"]) <= 1e-12);
  Tensor x = Tensor(in["x"]).set_requires_grad();
  for (const nn::MixtureOfExpertsOptions& o : {nn::MixtureOfExpertsOptions{}, {.capacity_factor = 4}}) {
    auto m = experts(o);
    x.set_grad({});
    const Tensor y = m(x).output;
    CHECK(relative_difference(y.detach(), expected) <= 1e-12);
    backward(sum(y * wave(y.shape(), 0.5)));
    CHECK(relative_difference(x.grad(), gradients["x"]) <= 1e-12);
    CHECK(relative_difference(m.gate.weight->grad(), gradients["gate"]) <= 1e-12);
    CHECK(relative_difference(m.up->grad(), gradients["up"]) <= 1e-12);
    CHECK(relative_difference(m.down->grad(), gradients["down"]) <= 1e-12);
    CHECK(relative_difference(m.down_bias->grad(), gradients["down_bias"]) <= 1e-12);
  }
}

TEST_CASE("an expert takes no more tokens than its capacity, and the balance is 1 where all is even", "[moe]") {
  auto layer = experts({.top_k = 1, .capacity_factor = 1});
  init::constant(layer.gate.weight, 0);
  const NoGrad off;
  const auto even = layer(values({8, 3}));
  CHECK(even.balance.item() == Approx(1));
  // Equal scores go to one expert: 2 of 8 tokens find room.
  const auto rows = sum(abs(even.output), {1}).to_vector<double>();
  CHECK(std::count(rows.begin(), rows.end(), 0.0) == 6);
  CHECK(rows[0] > 0);
  CHECK(layer(to(values({2, 4, 3}), Device::cpu())).output.shape() == Shape{2, 4, 3});
  CHECK_THAT(error_of([&] { layer(ones({2, 4})); }), ContainsSubstring("[2, 4]; its last size must be 3"));
  CHECK_THAT(error_of([] { nn::MixtureOfExperts(3, 4, 2, {.top_k = 3}); }), ContainsSubstring("top_k 3 of 2 experts"));
}
