// Sequential: names, access, nesting, clones, training.
#include "../catch.h"

#include <memory>

using namespace retape;
using namespace retape::testing;

namespace {
struct Stages : nn::Module {
  std::vector<nn::AnyModule> stages;
  RETAPE_FIELDS(stages)
};
struct NotCopyable : nn::Module {
  std::unique_ptr<nn::Linear> inner = std::make_unique<nn::Linear>(2, 2);
  Tensor forward(const Tensor& x) { return (*inner)(x); }
  RETAPE_FIELDS(inner)
};
}  // namespace

TEST_CASE("Sequential runs its modules in order, under PyTorch's names") {
  nn::Sequential net(nn::Linear(2, 8), nn::ReLU(), nn::Linear(8, 1));
  std::string names;
  for (auto& [name, t] : net.state_dict()) names += name + " ";
  CHECK(names == "0.weight 0.bias 2.weight 2.bias ");  // nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1)).state_dict()
  const Tensor x = values({3, 2}, -1, 1, 4, DType::f32);
  auto &first = net.at<nn::Linear>(0), &last = net.at<nn::Linear>(2);
  CHECK(same_bits(net(x), linear(relu(linear(x, first.weight, first.bias)), last.weight, last.bias)));
  CHECK(net.size() == 3);
  CHECK(net[1].type_name() == "nn::ReLU");
  CHECK_THAT(error_of([&] { net.at<nn::Linear>(1); }), ContainsSubstring("module 1 is a nn::ReLU"));
  CHECK_THROWS_AS(net[3], Error);
  CHECK_THAT(error_of([&] { net(values({3, 3}, -1, 1, 4, DType::f32)); }), ContainsSubstring("(in 0)"));
}

TEST_CASE("Sequential may be empty, grow, nest and move") {
  nn::Sequential net;
  const Tensor x = values({3, 2}, -1, 1, 4, DType::f32);
  CHECK(same_bits(net(x), x));
  net.add(nn::Linear(2, 3)).add(nn::Sequential(nn::Linear(3, 4, {.bias = false}), nn::Tanh()));
  const Tensor y = net(x);
  const nn::Sequential moved = std::move(net);
  CHECK(same_bits(moved(x), y));
  CHECK(moved.state_dict().back().first == "1.0.weight");
}

TEST_CASE("a clone of a Sequential has its own modules") {
  const nn::Sequential net(nn::Linear(2, 2), nn::GELU({.approximate = nn::Approximate::tanh}));
  const nn::Sequential copy = net.clone();
  const Tensor x = values({3, 2}, -1, 1, 4, DType::f32);
  CHECK(same_bits(copy(x), net(x)));
  nn::init::zeros(copy.at<nn::Linear>(0).weight);
  CHECK(!same_bits(copy(x), net(x)));
  CHECK_THAT(error_of([&] { const nn::Sequential wrong = net; }), ContainsSubstring("copied by accident"));
  nn::Sequential fixed{NotCopyable()};
  CHECK_THAT(error_of([&] { fixed.clone(); }), ContainsSubstring("NotCopyable: cannot be cloned"));
}

TEST_CASE("modules of any type may be a field") {
  Stages m;
  m.stages.emplace_back(nn::Linear(2, 2));
  m.stages.emplace_back(nn::Identity());
  CHECK(m.named_parameters()[1].first == "stages.0.bias");
  m.eval();
  CHECK(!m.stages[1].module().is_training());
}

TEST_CASE("a Sequential learns xor") {
  manual_seed(1);
  nn::Sequential net(nn::Linear(2, 8), nn::Tanh(), nn::Linear(8, 1));
  const Tensor x = tensor<float>({0, 0, 0, 1, 1, 0, 1, 1}, {4, 2}), y = tensor<float>({0, 1, 1, 0}, {4, 1});
  const auto parameters = net.parameters();
  double loss = 1;
  for (int step = 0; step < 2000 && loss > 1e-3; ++step) {
    const Tensor l = mean(square(net(x) - y));
    loss = l.item();
    net.zero_grad();
    backward(l);
    const NoGrad off;
    for (auto& p : parameters) copy_into(p - 0.3 * p.grad(), p);
  }
  CHECK(loss <= 1e-3);
}
