// Benchmarks of Retape alone, by Google Benchmark: --help lists its flags, --benchmark_filter=WORD picks rows. What is measured
// against PyTorch is in works.cpp: `bench --peer PYTHON`, and on a GPU in cuda_works.cpp: `bench --cuda`; memory against time in replay.cpp:
// `bench --replay`.
#include <benchmark/benchmark.h>
#include <omp.h>

#include <algorithm>
#include <functional>
#include <string>
#include <string_view>

#include <examples/lm/model.h>
#include "compare.h"
#include "cuda_compare.h"
#include "replay.h"
#include "timing.h"
#include "works.h"

using namespace retape;
using namespace retape::bench;

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

// ---- streaming: operands of 16 MB, as a fraction of what the machine can move ------------------------------------------

constexpr int64_t stream_size = 4 << 20;
// Bytes a second of one pass over memory that the op before has pushed out of the caches, as it finds its operands.
double one_copy() {
  static const Tensor from = randn({stream_size}), to = zeros({stream_size});
  const float* x = from.data<float>();
  float* y = to.mutable_data<float>();
  const double seconds = seconds_of([=] {
#pragma omp parallel for simd schedule(static)
    for (int64_t i = 0; i < stream_size; ++i) y[i] = x[i];
  });
  return 8.0 * stream_size / seconds;
}
double one_read() {
  typedef float Vector __attribute__((vector_size(64)));
  static const Tensor from = randn({stream_size});
  const auto* x = reinterpret_cast<const Vector*>(from.data<float>());
  const double seconds = seconds_of([=] {
#pragma omp parallel
    {
      Vector total{};
#pragma omp for schedule(static) nowait
      for (int64_t i = 0; i < stream_size / 16; ++i) total += x[i];
      const float sum = total[0];
      benchmark::DoNotOptimize(sum);
    }
  });
  return 4.0 * stream_size / seconds;
}
// The op and the roof take turns; `of_roof` compares the best of each. `bytes` is what the op has to read and write.
void streaming(benchmark::State& state, const std::function<void()>& f, double bytes, bool only_reads) {
  const NoGrad off;
  double best = 0, roof = 0;
  for (auto _ : state) {
    const double seconds = seconds_of(f);
    best = std::max(best, bytes / seconds), roof = std::max(roof, only_reads ? one_read() : one_copy());
    state.SetIterationTime(seconds);
  }
  state.counters["GB/s"] = best * 1e-9;
  state.counters["of_roof"] = best / roof;
}
struct Operands {  // made when the first row runs
  Tensor a = randn({2048, 2048}), b = randn({2048, 2048}), row = randn({2048}), at = transpose(a), half = cast(a, DType::bf16),
         mask = gt(a, b);
  Tensor cube = randn({16, 512, 512}), cube_t = permute(cube, {2, 0, 1}), half_t = transpose(half);
  Tensor rows = randperm(2048), places = randint(0, 2048, {2048, 2048});
};
const Operands& operands() {
  static const Operands all;
  return all;
}
void add_streaming_rows() {
  const double m = 4.0 * stream_size;
  const auto add = [](const char* name, double bytes, bool only_reads, void (*f)(const Operands&)) {
    benchmark::RegisterBenchmark((std::string("stream/") + name).c_str(),
                                 [=](benchmark::State& s) {
                                   streaming(
                                       s, [f] { f(operands()); }, bytes, only_reads);
                                 })
        ->UseManualTime()
        ->Unit(benchmark::kMicrosecond);
  };
  add("add", 3 * m, false, [](const Operands& o) { o.a + o.b; });
  add("add_number", 2 * m, false, [](const Operands& o) { o.a + 2; });
  add("add_row", 2 * m, false, [](const Operands& o) { o.a + o.row; });
  add("add_transposed", 3 * m, false, [](const Operands& o) { o.b + o.at; });
  add("exp", 2 * m, false, [](const Operands& o) { exp(o.a); });
  add("gelu", 2 * m, false, [](const Operands& o) { gelu(o.a); });
  add("relu_transposed", 2 * m, false, [](const Operands& o) { relu(o.at); });
  add("add_bf16", 1.5 * m, false, [](const Operands& o) { o.half + o.half; });
  add("compare", 2.25 * m, false, [](const Operands& o) { gt(o.a, o.b); });
  add("where", 3.25 * m, false, [](const Operands& o) { where(o.mask, o.a, o.b); });
  add("cast_bf16", 1.5 * m, false, [](const Operands& o) { cast(o.a, DType::bf16); });
  add("transposed_copy", 2 * m, false, [](const Operands& o) { contiguous(o.at); });
  add("compare_transposed", 2.25 * m, false, [](const Operands& o) { gt(o.b, o.at); });
  add("cast_bf16_transposed", 1.5 * m, false, [](const Operands& o) { cast(o.at, DType::bf16); });
  add("transposed_copy_bf16", m, false, [](const Operands& o) { contiguous(o.half_t); });
  add("permuted_copy", 2 * m, false, [](const Operands& o) { contiguous(o.cube_t); });
  add("erf", 2 * m, false, [](const Operands& o) { erf(o.a); });
  add("sum", m, true, [](const Operands& o) { sum(o.a); });
  add("sum_rows", m, true, [](const Operands& o) { sum(o.a, {1}); });
  add("sum_columns", m, true, [](const Operands& o) { sum(o.a, {0}); });
  add("amax_columns", m, true, [](const Operands& o) { amax(o.a, {0}); });
  add("argmax", m, true, [](const Operands& o) { argmax(reshape(o.a, {-1})); });
  add("argmax_rows", m, true, [](const Operands& o) { argmax(o.a, 1); });
  add("sum_transposed", m, true, [](const Operands& o) { sum(o.at); });
  add("sum_rows_transposed", m, true, [](const Operands& o) { sum(o.at, {1}); });
  add("argmax_columns", m, true, [](const Operands& o) { argmax(o.a, 0); });
  add("softmax", 2 * m, false, [](const Operands& o) { softmax(o.a, 1); });
  add("softmax_transposed", 2 * m, false, [](const Operands& o) { softmax(o.at, 1); });
  add("index_select", 2 * m, false, [](const Operands& o) { index_select(o.a, 0, o.rows); });
  add("gather", 4 * m, false, [](const Operands& o) { gather(o.a, 1, o.places); });
  add("index_add", 4 * m, false, [](const Operands& o) { index_add(o.a, 0, o.rows, o.b); });
  add("scatter_add", 6 * m, false, [](const Operands& o) { scatter_add(o.a, 1, o.places, o.b); });
  add("masked_select", 1.75 * m, false, [](const Operands& o) { masked_select(o.a, o.mask); });
  add("masked_fill", 2.25 * m, false, [](const Operands& o) { masked_fill(o.a, o.mask, 0); });
  add("cumsum", 2 * m, false, [](const Operands& o) { cumsum(o.a, 1); });
  add("cumsum_columns", 2 * m, false, [](const Operands& o) { cumsum(o.a, 0); });
  add("cumsum_transposed", 2 * m, false, [](const Operands& o) { cumsum(o.at, 1); });
}
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

// How long an estimate takes, and how near it is to what the allocator counts in a step.
void estimate_of_step(benchmark::State& state, const StepSettings& settings) {
  const int64_t before = memory_stats().live;
  GptStep step(settings);
  step.run();
  reset_peak_memory();
  step.run();
  const double measured = double(memory_stats().peak - before);
  double estimated = 0;
  for (auto _ : state) estimated = double(step.estimate().peak);
  state.counters["estimated_MiB"] = estimated / (1 << 20);
  state.counters["measured_MiB"] = measured / (1 << 20);
  state.counters["ratio"] = estimated / measured;
}
void add_estimates() {
  for (const FreshWork& w : fresh_works())
    benchmark::RegisterBenchmark(("estimate_memory/" + w.name).c_str(), estimate_of_step, w.settings)->Unit(benchmark::kMillisecond);
}

}  // namespace

int main(int argc, char** argv) {
  if (std::any_of(argv + 1, argv + argc, [](const char* flag) { return std::string_view(flag) == "--cuda"; }))
    return compare_on_device(argc, argv);
  for (int i = 1; i < argc; ++i)
    if (const std::string_view flag = argv[i]; flag.starts_with("--peer")) return compare(argc, argv);
    else if (flag == "--replay") return replay(argc, argv);
  add_streaming_rows();
  add_estimates();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::AddCustomContext("cpu_level", cpu_level());
  benchmark::AddCustomContext("threads", std::to_string(omp_get_max_threads()));
  benchmark::RunSpecifiedBenchmarks();
}
