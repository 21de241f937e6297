// Is the op right on the device, does it differentiate twice, and can a graph capture it?
#include <cstdio>

#include <retape/core/cuda_graph.h>
#include <retape/retape.h>

#include "squared_relu.h"

using namespace retape;

int main() {
  if (!cuda::is_available()) {
    std::printf("skipped: %s\n", cuda::why_unavailable().c_str());
    return 77;
  }
  const Device gpu = Device::cuda();
  Generator generator(1);
  const auto f = [](const std::vector<Tensor>& x) { return squared_relu(x[0], x[1]); };
  std::vector<Tensor> x = {to(uniform({3, 5}, 0.1, 2, {DType::f64}, generator), gpu),
                           to(uniform({5}, 0.1, 1, {DType::f64}, generator), gpu)};
  for (Tensor& t : x) t.set_requires_grad();
  const auto first = gradcheck(f, x), second = gradgradcheck(f, x);
  std::printf("gradcheck: %s, gradgradcheck: %s\n", first.passed ? "passed" : first.report.c_str(),
              second.passed ? "passed" : second.report.c_str());
  if (!first.passed || !second.passed) return 1;

  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    const Tensor a = cast(uniform({64, 33}, -2, 2, {}, generator), dtype), b = cast(uniform({33}, -1, 1, {}, generator), dtype);
    const Tensor here = cast(squared_relu(cast(a, DType::f32), cast(b, DType::f32)), dtype), there = squared_relu(to(a, gpu), to(b, gpu));
    const double error = amax(abs(cast(here, DType::f64) - cast(to(there, Device::cpu()), DType::f64))).item();
    std::printf("%s: differs by at most %g from the CPU\n", name_of(dtype), error);
    if (!(error <= 1e-6)) return 2;
  }

  cuda::Graph graph([&](const std::vector<Tensor>& in) -> std::vector<Tensor> { return {squared_relu(in[0], in[1].detach())}; });
  for (int i = 0; i < 3; ++i)
    if (sum(graph({full({2, 2}, double(i), {.device = gpu}), ones({2}, {.device = gpu})})[0]).item() != 4.0 * (i + 1) * (i + 1)) return 3;
  std::printf("captured\n");

  try {
    squared_relu(x[0], ones({4}, {DType::f64, gpu}));
  } catch (const Error& e) {
    std::printf("an error: %s\n", e.what());
    return 0;
  }
  return 4;
}
