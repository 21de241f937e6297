// Recurrences and depthwise convolutions on CUDA over sequences of several chunks, against the CPU.
#include <array>
#include <cmath>
#include <functional>

#include "../catch.h"

using namespace retape;
using namespace retape::testing;

namespace {

using Function = std::function<std::vector<Tensor>(const std::vector<Tensor>&)>;
struct Uniform {
  Shape shape;
  double low = -1, high = 1;
};

// Values and gradients on both devices.
void compare(const Function& f, const std::vector<Uniform>& inputs, DType dtype) {
  std::vector<Tensor> results[2];
  for (int k = 0; k < 2; ++k) {
    const Device device = k ? Device::cuda() : Device::cpu();
    std::vector<Tensor> x, dy;
    for (size_t i = 0; i < inputs.size(); ++i)
      x.push_back(Tensor(to(values(inputs[i].shape, inputs[i].low, inputs[i].high, i + 1, dtype), device)).set_requires_grad());
    const std::vector<Tensor> y = f(x);
    for (size_t i = 0; i < y.size(); ++i) dy.push_back(to(values(y[i].shape(), -1, 1, 20 + i, y[i].dtype()), device));
    results[k] = y;
    for (Tensor& d : grad(y, x, {}, dy)) results[k].push_back(d);
  }
  for (size_t i = 0; i < results[0].size(); ++i) {
    INFO(name_of(dtype) << ", result or gradient " << i << ", " << results[0][i].shape().str());
    CHECK(difference(to(results[1][i], Device::cpu()), results[0][i], dtype) <= (dtype == DType::f64 ? 1 : 4));
  }
}
void compare_all(const Function& f, const std::vector<Uniform>& inputs) {
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16}) compare(f, inputs, dtype);
}

}  // namespace

TEST_CASE("a long linear recurrence on CUDA agrees with the CPU", "[cuda][linear_recurrence]") {
  for (const bool reverse : {false, true}) {
    const auto f = [=](bool complex) {
      return [=](const std::vector<Tensor>& x) -> std::vector<Tensor> {
        return {linear_recurrence(x[0], x[1], {.initial = x[2], .reverse = reverse, .complex = complex})};
      };
    };
    compare_all(f(false), {{{2, 150, 5}}, {{2, 150, 5}}, {{2, 5}}});
    compare_all(f(false), {{{5}, -0.9, 0.9}, {{2, 150, 5}}, {{2, 5}}});
    compare_all(f(false), {{{2, 70, 1}}, {{2, 70, 1}}, {{2, 1}}});  // along a block
    compare_all(f(true), {{{2, 150, 3, 2}, -0.6, 0.6}, {{2, 150, 3, 2}}, {{2, 3, 2}}});
    compare_all(f(true), {{{3, 2}, -0.6, 0.6}, {{2, 150, 3, 2}}, {{2, 3, 2}}});
  }
}

TEST_CASE("a selective scan of several chunks on CUDA agrees with the CPU", "[cuda][selective_scan]") {
  struct Size {
    int64_t T, D, G, N;
  };
  for (const auto& [T, D, G, N] : {Size{64, 3, 1, 2}, Size{130, 66, 2, 3}, Size{70, 4, 4, 18}}) {
    INFO("T " << T << ", D " << D << ", groups " << G << ", N " << N);
    compare_all(
        [](const std::vector<Tensor>& x) -> std::vector<Tensor> {
          const auto r = selective_scan_with_state(x[0], x[1], x[2], x[3], x[4],
                                                   {.D = x[5], .z = x[6], .delta_bias = x[7], .delta_softplus = true, .initial = x[8]});
          return {r.y, r.last_state};
        },
        {{{2, T, D}},
         {{2, T, D}, -2, 1},
         {{D, N}, -2, -0.01},
         {{2, T, G, N}},
         {{2, T, G, N}},
         {{D}},
         {{2, T, D}, -2, 2},
         {{D}},
         {{2, D, N}}});
    compare_all([](const std::vector<Tensor>& x) -> std::vector<Tensor> { return {selective_scan(x[0], x[1], x[2], x[3], x[4])}; },
                {{{2, T, D}}, {{2, T, D}, 0.01, 1}, {{D, N}, -2, -0.01}, {{2, T, G, N}}, {{2, T, G, N}}});
  }
}

TEST_CASE("linear attention of several chunks on CUDA agrees with the CPU", "[cuda][gated_linear_attention]") {
  for (const auto& [T, K, V] : {std::array<int64_t, 3>{130, 5, 3}, {64, 18, 20}})
    for (const int gate : {0, 1, 2}) {
      INFO("T " << T << ", K " << K << ", V " << V << ", gate " << gate);
      std::vector<Uniform> inputs = {{{2, T, 2, K}}, {{2, T, 2, K}}, {{2, T, 2, V}}, {{2, 2, K, V}}};
      if (gate) inputs.push_back({gate == 1 ? Shape{2, T, 2} : Shape{2, T, 2, K}, -1, -0.1});
      compare_all(
          [](const std::vector<Tensor>& x) -> std::vector<Tensor> {
            const auto r = gated_linear_attention(x[0], x[1], x[2], {.g = x.size() > 4 ? x[4] : Tensor{}, .initial = x[3]});
            return {r.y, r.last_state};
          },
          inputs);
      inputs[0] = inputs[1] = {{2, T, 2, K}, 0.1, 1}, inputs[3] = {{2, 2, K, V + 1}, 0.1, 1};
      compare_all(
          [](const std::vector<Tensor>& x) -> std::vector<Tensor> {
            const auto r = gated_linear_attention(x[0], x[1], x[2],
                                                  {.g = x.size() > 4 ? x[4] : Tensor{}, .initial = x[3], .normalize = true, .eps = 0.1});
            return {r.y, r.last_state};
          },
          inputs);
    }
}

TEST_CASE("a kernel of many states on CUDA agrees with the CPU", "[cuda][dplr_kernel]") {
  for (const auto& [H, N, length] : {std::array<int64_t, 3>{5, 3, 40}, {2, 37, 17}, {3, 2, 1}}) {
    INFO("H " << H << ", N " << N << ", length " << length);
    const Uniform small{{H, N, 2}, -0.6 / std::sqrt(double(N)), 0.6 / std::sqrt(double(N))};
    compare_all(
        [length](const std::vector<Tensor>& x) -> std::vector<Tensor> { return {dplr_kernel(x[0], x[1], x[2], x[3], x[4], length)}; },
        {{{H, N, 2}, -0.6, 0.6}, small, small, {{H, N, 2}}, {{H, N, 2}}});
  }
}

TEST_CASE("RWKV's average over several chunks on CUDA agrees with the CPU", "[cuda][wkv]") {
  for (const auto& [T, C] : {std::array<int64_t, 2>{64, 3}, {130, 40}}) {
    INFO("T " << T << ", C " << C);
    compare_all(
        [](const std::vector<Tensor>& x) -> std::vector<Tensor> {
          const auto r = wkv(x[0], x[1], x[2], x[3], {x[4], x[5], zeros_like(x[4].detach())});
          return {r.y, r.last_state.numerator, r.last_state.denominator};
        },
        {{{C}, -2, -0.01}, {{C}}, {{2, T, C}, -2, 2}, {{2, T, C}}, {{2, C}}, {{2, C}, 0.5, 1.5}});
  }
}

TEST_CASE("a depthwise convolution of many windows on CUDA agrees with the CPU", "[cuda][convolution]") {
  const auto f = [](const std::vector<Tensor>& x) -> std::vector<Tensor> {
    return {conv1d(x[0], x[1], x[2], {.padding = 3, .groups = 40})};
  };
  compare_all(f, {{{3, 40, 150}}, {{40, 1, 4}}, {{40}}});
}
