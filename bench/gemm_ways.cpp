// What it costs that a matrix product's bits do not depend on the number of threads: the products of training steps through Retape and
// through oneDNN's two calls, which pick plans by the threads that they find.
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
  Tensor a = randn(a_transposed ? Shape{s.k, s.m} : Shape{s.m, s.k}), b = randn(b_transposed ? Shape{s.n, s.k} : Shape{s.k, s.n});
  Tensor c = empty({s.m, s.n});
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
  dnnl::memory ma, mb, mc;
  dnnl::matmul primitive;

  explicit Product(const Shape3& shape) : s(shape) {
    using dnnl::memory;
    const auto describe = [](int64_t rows, int64_t cols, bool transposed) {
      return memory::desc({rows, cols}, memory::data_type::f32, transposed ? memory::dims{1, rows} : memory::dims{cols, 1});
    };
    const auto da = describe(s.m, s.k, a_transposed), db = describe(s.k, s.n, b_transposed), dc = describe(s.m, s.n, false);
    ma = memory(da, engine, a.mutable_data<float>()), mb = memory(db, engine, b.mutable_data<float>());
    mc = memory(dc, engine, c.mutable_data<float>());
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

const bool added = [] {
  const auto add = [](const char* model, int64_t m, int64_t n, int64_t k) {
    const auto row = [&](const char* name, Shape3 s) {
      const std::string title = fmt::format("gemm_ways/{}/{}/{}x{}x{}", model, name, s.m, s.n, s.k);
      benchmark::RegisterBenchmark(title.c_str(), [=](benchmark::State& state) { compare_ways(state, s); })->UseRealTime();
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
