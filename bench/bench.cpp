// Benchmarks by Google Benchmark; --help lists its flags, --benchmark_filter=WORD picks rows. What is measured against PyTorch is in
// peer.cpp: `bench --peer PYTHON`.
#include <benchmark/benchmark.h>
#include <omp.h>

#include <string_view>

#include <examples/gpt/model.h>
#include "peer.h"

using namespace retape;

namespace {

// ---- what an op costs beside its arithmetic -------------------------------------------------------------------------

Tensor chain(const Tensor& x, const Tensor& w, int64_t n) {
  Tensor h = x;
  for (int64_t i = 0; i < n; ++i) h = h * w;
  return h;
}
void chain_of_multiplications(benchmark::State& state, bool recorded) {
  Tensor x = full({4}, 0.5), w = ones({4});
  w.set_requires_grad();
  constexpr int64_t n = 1000;
  for (auto _ : state) {
    if (recorded) {
      backward(sum(chain(x, w, n)));
    } else {
      const NoGrad off;
      benchmark::DoNotOptimize(chain(x, w, n));
    }
  }
  state.counters["ns_per_op"] =
      benchmark::Counter(double(n) * 1e-9, benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kInvert);
}
BENCHMARK_CAPTURE(chain_of_multiplications, forward_backward, true)->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(chain_of_multiplications, without_recording, false)->Unit(benchmark::kMicrosecond);

void million_nodes(benchmark::State& state) {  // builds, runs backward and frees
  Tensor w = ones({4});
  w.set_requires_grad();
  for (auto _ : state) backward(sum(chain(w, w, 1'000'000)));
}
BENCHMARK(million_nodes)->Unit(benchmark::kMillisecond);

// ---- kernels, forward and backward ----------------------------------------------------------------------------------

using Function = Tensor (*)(const Tensor&);
void row_op(benchmark::State& state, Function f) {
  Tensor x = randn({state.range(0), 768});
  x.set_requires_grad();
  const Tensor dy = randn(x.shape());
  for (auto _ : state) {
    x.set_grad({});
    backward(f(x), {}, dy);
  }
  state.SetBytesProcessed(state.iterations() * x.numel() * 4 * 5);  // x, y; dy, x or y, dx
}
#define ROW_OP(name, expression)                                                        \
  BENCHMARK_CAPTURE(row_op, name, [](const Tensor& x) -> Tensor { return expression; }) \
      ->Arg(256)                                                                        \
      ->Arg(4096)                                                                       \
      ->Unit(benchmark::kMicrosecond)                                                   \
      ->UseRealTime()
ROW_OP(gelu, gelu(x));
ROW_OP(gelu_tanh, gelu_tanh(x));
ROW_OP(softmax, softmax(x, -1));
ROW_OP(layer_norm, layer_norm(x, {768}));
ROW_OP(rms_norm, rms_norm(x, {768}));
ROW_OP(dropout, dropout(x, 0.1));

void matrix_product(benchmark::State& state) {
  const int64_t m = state.range(0), n = state.range(1), k = state.range(2);
  const Tensor a = randn({m, k}), b = randn({n, k});
  const NoGrad off;
  for (auto _ : state) benchmark::DoNotOptimize(linear(a, b));
  state.counters["flops"] = benchmark::Counter(2.0 * double(m * n * k), benchmark::Counter::kIsIterationInvariantRate);
}
BENCHMARK(matrix_product)
    ->Args({768, 384, 128})
    ->Args({768, 512, 128})
    ->Args({4096, 1152, 384})
    ->Args({4096, 1536, 384})
    ->Unit(benchmark::kMicrosecond)
    ->UseRealTime();

void causal_attention(benchmark::State& state) {
  const Shape shape{state.range(0), state.range(1), state.range(2), state.range(3)};
  std::vector<Tensor> qkv;
  for (int i = 0; i < 3; ++i) qkv.push_back(randn(shape).set_requires_grad());
  const Tensor dy = randn(shape);
  for (auto _ : state) {
    for (auto& t : qkv) t.set_grad({});
    backward(scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], {.is_causal = true}), {}, dy);
  }
  const double t = double(shape[2]), products = double(shape[0] * shape[1] * shape[3]) * t * (t + 1) / 2;
  state.counters["flops"] =
      benchmark::Counter(products * 2 * 7, benchmark::Counter::kIsIterationInvariantRate);  // 2 products forward, 5 backward
}
BENCHMARK(causal_attention)
    ->Args({12, 4, 64, 32})
    ->Args({8, 6, 512, 64})
    ->Args({2, 8, 4096, 64})
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

// ---- whole steps ----------------------------------------------------------------------------------------------------

void gpt_step(benchmark::State& state, StepSettings settings) {
  GptStep step(settings);
  for (auto _ : state) step.run();
  state.counters["tokens_per_s"] =
      benchmark::Counter(double(settings.batch * settings.block), benchmark::Counter::kIsIterationInvariantRate);
}
BENCHMARK_CAPTURE(gpt_step, nano, StepSettings{})->Unit(benchmark::kMillisecond)->UseRealTime();

}  // namespace

int main(int argc, char** argv) {
  if (argc >= 2 && std::string_view(argv[1]) == "--peer") return compare_with_peer(argc > 2 ? argv[2] : "python3");
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::AddCustomContext("cpu_level", cpu_level());
  benchmark::AddCustomContext("threads", std::to_string(omp_get_max_threads()));
  benchmark::RunSpecifiedBenchmarks();
}
