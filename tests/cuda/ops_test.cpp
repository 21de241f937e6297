// Every op of the table on CUDA against the CPU: all floating dtypes, memory layouts, first and second derivatives.
#include "../op_cases.h"

using namespace retape;
using namespace retape::testing;

namespace {

const Device gpu = Device::cuda();

Tensor plain(const Tensor& x) { return x; }
// Leaves with c's inputs on a device, in a layout.
std::vector<Tensor> leaves(const OpCase& c, DType dtype, Device device, Tensor (*layout)(const Tensor&)) {
  const NoGrad off;
  std::vector<Tensor> x;
  for (auto& t : draw(c, dtype)) x.push_back(Tensor(layout(to(t.detach(), device)).detach()).set_requires_grad());
  return x;
}
// One row that throws does not hide the others.
template <class F> void each_case(const F& f) {
  for (auto& c : op_cases()) try {
      INFO(c.name);
      f(c);
    } catch (const Error& e) {
      FAIL_CHECK(c.name << ": " << e.what());
    }
}
void compare(const OpCase& c, DType dtype, Tensor (*layout)(const Tensor&)) {
  INFO(name_of(dtype));
  std::vector<Tensor> results[2], inputs[2];
  for (int k = 0; k < 2; ++k) {
    inputs[k] = leaves(c, dtype, k ? gpu : Device::cpu(), k ? layout : plain);
    manual_seed(3);
    const Tensor y = c.f(inputs[k]);
    CHECK(y.device() == (k ? gpu : Device::cpu()));
    backward(sum(y));
    results[k].push_back(y);
    for (auto& x : inputs[k]) results[k].push_back(x.grad());
  }
  for (size_t i = 0; i < results[0].size(); ++i) {
    CHECK(bool(results[0][i]) == bool(results[1][i]));
    if (!results[0][i] || !results[1][i]) continue;
    CHECK(results[1][i].dtype() == dtype);
    INFO((i ? "gradient " + std::to_string(i) : std::string("value")) << "\n" << results[0][i].shape().str());
    CHECK(difference(results[1][i], results[0][i], dtype) <= (i ? 4 : 1));
  }
}

}  // namespace

TEST_CASE("ops on CUDA agree with the CPU", "[cuda][ops]") {
  each_case([](const OpCase& c) {
    for (const DType dtype : {DType::f64, DType::f32, DType::f16, DType::bf16})
      if (c.half || size_of(dtype) > 2) compare(c, dtype, plain);
  });
}

TEST_CASE("strides do not matter on CUDA", "[cuda][ops]") {
  each_case([](const OpCase& c) {
    for (const auto layout : {stored_transposed, sliced_out}) compare(c, DType::f32, layout);
  });
}

TEST_CASE("second derivatives on CUDA agree with the CPU", "[cuda][ops]") {
  each_case([](const OpCase& c) {
    if (!c.second) return;
    std::vector<Tensor> second[2];
    for (int k = 0; k < 2; ++k) {
      const auto x = leaves(c, DType::f64, k ? gpu : Device::cpu(), plain);
      manual_seed(3);
      const auto first = grad({sum(tanh(c.f(x)))}, x, {.create_graph = true});
      Tensor total;
      for (auto& g : first)
        if (g && g.requires_grad()) total = total ? total + sum(square(g)) : sum(square(g));
      if (!total) continue;
      backward(total);
      for (auto& t : x) second[k].push_back(t.grad());
    }
    for (size_t i = 0; i < second[0].size(); ++i)
      if (second[0][i]) CHECK(difference(second[1][i], second[0][i], DType::f64) <= 100);
  });
}

TEST_CASE("a box of an image that is not there is an error on CUDA", "[cuda]") {
  const Tensor x = ones({1, 1, 2, 2}, {.device = gpu}), boxes = to(tensor<double>({0, 0, 0, 1, 1, 1, 0, 0, 1, 1}, {2, 5}), gpu);
  CHECK_THAT(error_of([&] { roi_align(x, boxes, 1).to_vector<float>(); }), ContainsSubstring("roi_align: index 1 is out of range"));
  CHECK(roi_align(x, narrow(boxes, 0, 0, 1), 1).to_vector<float>() == std::vector<float>{1});
}
