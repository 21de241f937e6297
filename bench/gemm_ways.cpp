// What it costs that a matrix product's bits do not depend on the number of threads: the products of training steps through Retape and
// through oneDNN's two calls, which pick plans by the threads that they find. And the same products in half types, through Retape and
// through oneDNN, which emulates bf16 where the processor has none.
#include <benchmark/benchmark.h>
#include <fmt/format.h>
#include <oneapi/dnnl/dnnl.hpp>

#include <algorithm>

#include "timing.h"
#include "works.h"

namespace retape::bench {
namespace {

enum class Layout { nt, nn, tn };  // y = x w^T; dx = dy w; dw = dy^T x
struct Shape3 {
  Layout layout;
  int64_t m, n, k;
};
// Operands as row-major matrices, and the ways to multiply them. All of them overwrite c.
struct Product {
  Shape3 s;
  bool a_transposed = s.layout == Layout::tn, b_transposed = s.layout == Layout::nt;
  DType dtype = DType::f32;
  Tensor a = cast(randn(a_transposed ? Shape{s.k, s.m} : Shape{s.m, s.k}), dtype);
  Tensor b = cast(randn(b_transposed ? Shape{s.n, s.k} : Shape{s.k, s.n}), dtype);
  Tensor c = empty({s.m, s.n}, {dtype});
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
  dnnl::memory ma, mb, mc;
  dnnl::matmul primitive;

  explicit Product(const Shape3& shape, DType d = DType::f32) : s(shape), dtype(d) {
    using dnnl::memory;
    const auto type = d == DType::f32 ? memory::data_type::f32 : d == DType::bf16 ? memory::data_type::bf16 : memory::data_type::f16;
    const auto describe = [type](int64_t rows, int64_t cols, bool transposed) {
      return memory::desc({rows, cols}, type, transposed ? memory::dims{1, rows} : memory::dims{cols, 1});
    };
    const auto da = describe(s.m, s.k, a_transposed), db = describe(s.k, s.n, b_transposed), dc = describe(s.m, s.n, false);
    if (d == DType::f16) return;  // oneDNN 2.6 has no such product for processors
    ma = memory(da, engine, a->storage->data), mb = memory(db, engine, b->storage->data), mc = memory(dc, engine, c->storage->data);
#if DNNL_VERSION_MAJOR >= 3
    primitive = dnnl::matmul(dnnl::matmul::primitive_desc(engine, da, db, dc));
#else
    primitive = dnnl::matmul(dnnl::matmul::primitive_desc(dnnl::matmul::desc(da, db, dc), engine));
#endif
  }
  void retape() {
    const NoGrad off;
    matmul(a_transposed ? transpose(a) : a, b_transposed ? transpose(b) : b);
  }
  void sgemm() {
    dnnl_sgemm(a_transposed ? 'T' : 'N', b_transposed ? 'T' : 'N', s.m, s.n, s.k, 1, a.data<float>(), a.size(1), b.data<float>(), b.size(1),
               0, c.mutable_data<float>(), s.n);
  }
  void matmul_primitive() {
    primitive.execute(stream, {{DNNL_ARG_SRC, ma}, {DNNL_ARG_WEIGHTS, mb}, {DNNL_ARG_DST, mc}});
    stream.wait();
  }
};

void compare_ways(benchmark::State& state, Shape3 shape) {
  Product p(shape);
  double ours = 1e9, sgemm = 1e9, primitive = 1e9;  // best of each, taken in turn
  for (auto _ : state) {
    ours = std::min(ours, seconds_of([&] { p.retape(); }));
    sgemm = std::min(sgemm, seconds_of([&] { p.sgemm(); }));
    primitive = std::min(primitive, seconds_of([&] { p.matmul_primitive(); }));
  }
  const double flops = 2.0 * double(shape.m) * double(shape.n) * double(shape.k) * 1e-9;
  state.counters["retape"] = flops / ours;
  state.counters["sgemm"] = flops / sgemm;
  state.counters["matmul"] = flops / primitive;
  state.counters["of_best"] = std::min(sgemm, primitive) / ours;
}

void compare_half(benchmark::State& state, Shape3 shape) {
  Product f32(shape), bf16(shape, DType::bf16), f16(shape, DType::f16);
  double seconds[4] = {1e9, 1e9, 1e9, 1e9};
  for (auto _ : state) {
    seconds[0] = std::min(seconds[0], seconds_of([&] { f32.retape(); }));
    seconds[1] = std::min(seconds[1], seconds_of([&] { bf16.retape(); }));
    seconds[2] = std::min(seconds[2], seconds_of([&] { f16.retape(); }));
    seconds[3] = std::min(seconds[3], seconds_of([&] { bf16.matmul_primitive(); }));
  }
  const char* const names[] = {"f32_ms", "bf16_ms", "f16_ms", "onednn_bf16_ms"};
  for (int i = 0; i < 4; ++i) state.counters[names[i]] = seconds[i] * 1e3;
}

const bool added = [] {
  const auto add = [](const char* model, int64_t m, int64_t n, int64_t k) {
    const auto row = [&](const char* name, Shape3 s) {
      const std::string title = fmt::format("gemm_ways/{}/{}/{}x{}x{}", model, name, s.m, s.n, s.k);
      benchmark::RegisterBenchmark(title.c_str(), [=](benchmark::State& state) { compare_ways(state, s); })->UseRealTime();
      const std::string half = fmt::format("gemm_half/{}/{}/{}x{}x{}", model, name, s.m, s.n, s.k);
      benchmark::RegisterBenchmark(half.c_str(), [=](benchmark::State& state) { compare_half(state, s); })->UseRealTime();
    };
    row("y", {Layout::nt, m, n, k}), row("dx", {Layout::nn, m, k, n}), row("dw", {Layout::tn, n, k, m});
  };
  const auto add_model = [&](const char* model, int64_t rows, int64_t width, int64_t vocab) {
    add(model, rows, 3 * width, width), add(model, rows, width, width), add(model, rows, 4 * width, width);
    add(model, rows, width, 4 * width), add(model, rows, vocab, width);
  };
  add_model("nano", 768, 128, 65), add_model("six", 4096, 384, 65), add_model("gpt2", 256, 768, 50257);
  return true;
}();

}  // namespace
}  // namespace retape::bench
