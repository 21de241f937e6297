// DetectAnomaly: the op that makes the first nan is named, and nothing else.
#include "../catch.h"

using namespace retape;
using namespace retape::testing;

namespace {
struct Root : nn::Module {
  Tensor forward(const Tensor& x) { return sqrt(x); }
  RETAPE_FIELDS()
};
struct Net : nn::Module {
  Root root;
  Tensor forward(const Tensor& x) { return root(x - 1) + 1; }
  RETAPE_FIELDS(root)
};
struct Broken {
  static constexpr auto name = "broken";
  Tensor forward(const Tensor& x) { return clone(x); }
  void backward(const Tensor&, Grads& dx) { dx.set(0, tensor<float>({0, NAN})); }
};
}  // namespace

TEST_CASE("the op that makes a nan is named", "[anomaly]") {
  Net net;
  const Tensor x = tensor<float>({2, 0, 5});
  CHECK(std::isnan(net(x).to_vector<float>()[1]));
  const DetectAnomaly guard;
  CHECK_THAT(error_of([&] { net(x); }),
             ContainsSubstring("sqrt: 1 of the 3 values of its result (f32 [3] on cpu) are nan, though its inputs "
                               "(f32 [3] on cpu) are finite (in root)"));
  Tensor w = tensor<float>({1, 0, 0}).set_requires_grad();
  CHECK_THAT(error_of([&] { log(w - 1 - w); }), ContainsSubstring("log: 3 of the 3"));  // recorded, too
  CHECK(exp(tensor<float>({1000})).item() == INFINITY);                                 // f32 is not looked at for infinities
  CHECK(std::isnan(exp(tensor<float>({NAN})).item()));                                  // it came from elsewhere
}

TEST_CASE("an overflow of f16 is named", "[anomaly]") {
  const Tensor x = cast(tensor<float>({1, 12}), DType::f16);
  CHECK(exp(x).to_vector<float>()[1] == INFINITY);
  const DetectAnomaly guard;
  CHECK_THAT(error_of([&] { exp(x); }), ContainsSubstring("exp: 1 of the 2 values") && ContainsSubstring("f16 ends at 65504"));
  CHECK(exp(cast(x, DType::bf16)).to_vector<float>()[1] > 1e5);
}

TEST_CASE("a backward that makes a nan of finite gradients is named", "[anomaly]") {
  Tensor x = tensor<float>({0, 4}).set_requires_grad();
  const auto loss = [&] { return sum(sqrt(x) * tensor<float>({0, 1})); };  // 0 times the infinite slope at 0
  backward(loss());
  CHECK(std::isnan(x.grad().to_vector<float>()[0]));
  const DetectAnomaly guard;
  CHECK_THAT(error_of([&] { backward(loss()); }), ContainsSubstring("in the backward of sqrt: 1 of the 2 values"));
  Tensor y = tensor<float>({1, 2}).set_requires_grad();
  CHECK_THAT(error_of([&] { backward(sum(record(Broken{}, y))); }),
             ContainsSubstring("backward of broken: 1 of the 2 values of a gradient (f32 [2] on cpu) are nan"));
}
