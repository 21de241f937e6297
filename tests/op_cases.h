// The table of ops. A row gives a function of tensors, where its inputs are drawn from and, where there is one, the same function
// written with simpler ops. From each row ops_test.cpp makes: first and second derivatives against differences, the comparison
// with the composite, bit-equality under replay, results for other memory layouts, and half types against float.
//
// To add an op: add a row. {"name", function, {{shape, low, high}, ...}, composite or {}, flags}.
#pragma once
#include "catch.h"

namespace retape::testing {

struct Input {
  Shape shape;
  double low = -1, high = 1;
};
struct OpCase {
  std::string name;
  TensorFunction f;
  std::vector<Input> inputs;
  TensorFunction composite = {};
  bool half = true;  // false: an integer-like or piecewise function whose half result says nothing
};

inline std::vector<OpCase> op_cases() {
  const Tensor ids = tensor<int64_t>({1, 0, 2, 1}), pairs = tensor<int64_t>({0, 2, 1, 1, 0, 0}, {2, 3});
  const Tensor mask = tensor<bool>({true, false, true, true, true, false}, {2, 3});
  std::vector<OpCase> cases;
#define RETAPE_X(name, F, low, high, ...) cases.push_back({#name, [](auto& x) { return name(x[0]); }, {{{2, 3}, low, high}}});
  RETAPE_UNARY_OPS(RETAPE_X)
#undef RETAPE_X
  const std::vector<OpCase> more = {
      {"add, broadcast", [](auto& x) { return x[0] + x[1]; }, {{{2, 3}}, {{3}}}},
      {"add, the same tensor twice", [](auto& x) { return x[0] + x[0]; }, {{{2, 3}}}},
      {"sub, broadcast", [](auto& x) { return x[0] - x[1]; }, {{{2, 3}}, {{2, 1}}}},
      {"mul, broadcast", [](auto& x) { return x[0] * x[1]; }, {{{2, 3}}, {{2, 1}}}},
      {"mul, the same tensor twice", [](auto& x) { return x[0] * x[0]; }, {{{2, 3}}}},
      {"mul by a number", [](auto& x) { return 3 * x[0] * 0.5; }, {{{2, 3}}}},
      {"div", [](auto& x) { return x[0] / x[1]; }, {{{2, 3}}, {{3}, 1, 2}}},
      {"pow", [](auto& x) { return pow(x[0], x[1]); }, {{{2, 3}, 0.5, 2}, {{3}, -2, 2}}},
      {"pow of a number", [](auto& x) { return pow(x[0], 3); }, {{{2, 3}, -1, 1}}},
      {"maximum", [](auto& x) { return maximum(x[0], x[1]); }, {{{2, 3}}, {{3}}}},
      {"minimum", [](auto& x) { return minimum(x[0], x[1]); }, {{{2, 3}}, {{3}}}},
      {"clamp", [](auto& x) { return clamp(x[0], -0.5, 0.5); }, {{{2, 3}}}},
      {"where", [mask](auto& x) { return where(mask, x[0], x[1]); }, {{{2, 3}}, {{3}}}},
      {"masked_fill", [mask](auto& x) { return square(masked_fill(x[0], mask, 2)); }, {{{2, 3}}}},
      {"reshape of a transpose", [](auto& x) { return square(reshape(transpose(x[0]), {6})); }, {{{2, 3}}}},
      {"permute", [](auto& x) { return square(permute(x[0], {2, 0, 1})); }, {{{2, 3, 2}}}},
      {"expand", [](auto& x) { return square(expand(x[0], {2, 3, 2})); }, {{{3, 1}}}},
      {"unsqueeze, squeeze", [](auto& x) { return squeeze(square(unsqueeze(x[0], 1)), 1); }, {{{2, 3}}}},
      {"slice with a step", [](auto& x) { return square(slice(x[0], 1, 0, 5, 2)); }, {{{2, 5}}}},
      {"select", [](auto& x) { return square(select(x[0], 0, -1)); }, {{{2, 3}}}},
      {"split, one part unused", [](auto& x) { auto p = split(tanh(x[0]), 2, 1); return p[0] * p[2]; }, {{{2, 6}}}},
      {"cat, one tensor twice", [](auto& x) { return square(cat({x[0], x[1], x[0]}, 1)); }, {{{2, 3}}, {{2, 1}}}},
      {"stack", [](auto& x) { return square(stack({x[0], x[1]}, 1)); }, {{{2, 3}}, {{2, 3}}}},
      {"clone", [](auto& x) { return square(clone(x[0])); }, {{{2, 3}}}},
      {"sum over a dim", [](auto& x) { return square(sum(x[0], {1})); }, {{{2, 3, 2}}}},
      {"sum over all", [](auto& x) { return square(sum(x[0])); }, {{{2, 3, 2}}}},
      {"mean, keepdim", [](auto& x) { return square(mean(x[0], {0, -1}, true)); }, {{{2, 3, 2}}}},
      {"var", [](auto& x) { return var(x[0], {1}); }, {{{2, 3, 2}}}},
      {"amax", [](auto& x) { return square(amax(x[0], {1})); }, {{{2, 3, 2}}}},
      {"amin", [](auto& x) { return square(amin(x[0], {0, 2})); }, {{{2, 3, 2}}}},
      {"sum_to", [](auto& x) { return square(sum_to(x[0], {3, 1})); }, {{{2, 3, 2}}}},
      {"matmul", [](auto& x) { return matmul(x[0], x[1]); }, {{{2, 3}}, {{3, 4}}}, [](auto& x) { return sum(unsqueeze(x[0], 2) * x[1], {1}); }},
      {"matmul, batches broadcast", [](auto& x) { return matmul(x[0], transpose(x[1])); }, {{{2, 2, 3}}, {{2, 1, 4, 3}}}},
      {"matmul by a vector", [](auto& x) { return matmul(x[0], x[1]); }, {{{2, 2, 3}}, {{3}}}},
      {"matmul of a batch by a matrix", [](auto& x) { return matmul(x[0], x[1]); }, {{{2, 2, 3}}, {{3, 2}}}},
      {"linear", [](auto& x) { return linear(x[0], x[1], x[2]); }, {{{2, 2, 3}}, {{4, 3}}, {{4}}}, [](auto& x) { return matmul(x[0], transpose(x[1])) + x[2]; }},
      {"linear without bias", [](auto& x) { return linear(x[0], x[1]); }, {{{2, 3}}, {{4, 3}}}},
      {"checkpoint", [](auto& x) { return checkpoint([&](const Tensor& h) { return tanh(tanh(h * x[1]) * x[1]); }, x[0]); }, {{{2, 3}}, {{2, 1}}}, [](auto& x) { return tanh(tanh(x[0] * x[1]) * x[1]); }},
  };
  cases.insert(cases.end(), more.begin(), more.end());
  return cases;
}

inline std::vector<Tensor> draw(const OpCase& c, DType dtype = DType::f64) {
  std::vector<Tensor> x;
  for (size_t i = 0; i < c.inputs.size(); ++i) {
    Tensor t = values(c.inputs[i].shape, c.inputs[i].low, c.inputs[i].high, i + 1, dtype);
    x.push_back(t.set_requires_grad());
  }
  return x;
}

}  // namespace retape::testing
