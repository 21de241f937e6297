// Streams, events, page-locked memory, copies that nobody waits for, and captured graphs.
#include "../catch.h"

#ifdef RETAPE_EMULATE_CUDA
#include <cuda/emulation.h>
#endif
#include <retape/core/cuda_graph.h>
#include <retape/core/stream.h>

using namespace retape;
using namespace retape::testing;

namespace {
const Device gpu = Device::cuda();
Tensor on_cpu(const Tensor& x) { return to(x, Device::cpu()); }
}  // namespace

// ---- streams and events ------------------------------------------------------------------------------------------------

TEST_CASE("work on two streams is joined by an event", "[cuda][streams]") {
  const Tensor a = values({1000}, -1, 1, 1, DType::f32), x = to(a, gpu);
  cuda::Stream side;
  CHECK_FALSE(side == cuda::Stream::current());
  Tensor y;
  {
    side.wait(cuda::Stream::current());
    const cuda::StreamGuard guard(side);
    CHECK(cuda::Stream::current() == side);
    y = x * 2 + 1;
  }
  CHECK(cuda::Stream::current() == cuda::Stream::default_stream());
  const cuda::Event done = side.record();
  cuda::Stream::current().wait(done);
  const Tensor z = y * y;
  cuda::record_stream(y, cuda::Stream::current());
  y = {};
  CHECK(same_bits(on_cpu(z), square(a * 2 + 1)));
  CHECK(done.query());
  side.synchronize();
  CHECK(side.query());
}

TEST_CASE("a tensor freed while another stream reads it stays until that is done", "[cuda][streams]") {
  const cuda::Stream side;
  Tensor y;
  {
    Tensor x = full({4096}, 3.0, {.device = gpu});
    side.wait(cuda::Stream::current());
    {
      const cuda::StreamGuard guard(side);
      y = x + 1;
    }
    cuda::record_stream(x, side);
  }
  for (int i = 0; i < 4; ++i) full({4096}, -1.0, {.device = gpu});  // would take its place
  synchronize(gpu);
  side.synchronize();
  CHECK(sum(on_cpu(y)).item() == 4 * 4096);
}

TEST_CASE("events measure the device's time", "[cuda][streams]") {
  cuda::Event begin(gpu, true), end(gpu, true), plain;
  begin.record();
  const Tensor x = exp(zeros({1000}, {.device = gpu}));
  CHECK_THROWS_WITH(begin.elapsed_ms(end), ContainsSubstring("second event was never recorded"));
  end.record();
  end.synchronize();
  CHECK(begin.elapsed_ms(end) >= 0);
  plain.record();
  plain.synchronize();
  CHECK_THROWS_WITH(begin.elapsed_ms(plain), ContainsSubstring("without timing"));
}

TEST_CASE("streams are of CUDA devices", "[cuda][streams]") {
  CHECK_THROWS_WITH(cuda::Stream(Device::cpu()), ContainsSubstring("cpu has no streams"));
  CHECK_THROWS_WITH(cuda::Stream(Device::cuda(100)), ContainsSubstring("cuda:100 is not there"));
  CHECK_THROWS_WITH(cuda::record_stream(ones({2}), cuda::Stream()), ContainsSubstring("cpu") && ContainsSubstring("cuda:0"));
  void* const handle = [] { return cuda::Stream().handle(); }();
  CHECK(cuda::Stream().handle() == handle);  // given back, and taken again
}

// ---- page-locked memory ------------------------------------------------------------------------------------------------

TEST_CASE("copies from and to pinned memory do not wait", "[cuda][streams]") {
  const Tensor a = values({100}, -1, 1, 1, DType::f32), pinned = cuda::pin_memory(transpose(reshape(a, {4, 25})));
  CHECK(cuda::is_pinned(pinned));
  CHECK_FALSE(cuda::is_pinned(a));
  CHECK(same_bits(pinned, contiguous(transpose(reshape(a, {4, 25})))));
  const Tensor x = to(pinned, gpu, true), back = to(x * 2, Device::cpu(), true);
  CHECK(cuda::is_pinned(back));
  cuda::Stream::current().synchronize();
  CHECK(same_bits(back, pinned * 2));
  CHECK_THROWS_WITH(cuda::pin_memory(x), ContainsSubstring("is on cuda:0"));
}
TEST_CASE("pinned memory is not used again while a copy reads it", "[cuda][streams]") {
  Tensor x;
  {
    const Tensor p = cuda::pin_memory(full({2048}, 5.0));
    x = to(p, gpu, true);
  }
  const Tensor other = cuda::pin_memory(full({2048}, -1.0));
  CHECK(sum(on_cpu(x)).item() == 5 * 2048);
}
TEST_CASE("what is copied from the CPU may change at once", "[cuda][streams]") {
  Tensor a = full({100}, 7.0), pinned = cuda::pin_memory(a);
  const Tensor x = to(a, gpu), y = to(pinned, gpu);
  for (const Tensor& t : {a, pinned}) t.mutable_data<float>()[3] = 0;
  CHECK(sum(on_cpu(x)).item() == 700);
  CHECK(sum(on_cpu(y)).item() == 700);
}

// ---- graphs ------------------------------------------------------------------------------------------------------------

namespace {
struct Net : nn::Module {
  nn::Linear up{8, 16}, down{16, 4};
  Tensor forward(const Tensor& x) { return down(dropout(gelu(up(x)), 0.3)); }
  RETAPE_FIELDS(up, down)
};
struct Trained {
  std::vector<double> losses;
  std::vector<Tensor> weights;
};
// Seven steps of f16 training with loss scaling, a schedule and dropout.
Trained train(bool graph) {
  manual_seed(3);
  Net net;
  net.to(gpu);
  AdamW optimizer(net.parameters(), {.lr = 0.1});
  GradScaler scaler({.init_scale = 1e8, .growth_interval = 3});  // the first step overflows
  const auto step = [&](const std::vector<Tensor>& in) -> std::vector<Tensor> {
    optimizer.zero_grad();
    Tensor loss;
    {
      const Autocast amp(DType::f16);
      loss = cross_entropy(net(in[0]), in[1]);
    }
    backward(scaler.scale(loss));
    scaler.unscale_(optimizer);
    const Tensor norm = clip_grad_norm(net.parameters(), 1.0);
    scaler.step(optimizer);
    scaler.update();
    return {loss, norm};
  };
  cuda::Graph captured(step);
  Trained out;
  for (int i = 0; i < 7; ++i) {
    const Tensor x = values({5, 8}, -1, 1, 10 + i, DType::f32), y = tensor<int64_t>({0, 3, i % 4, 2, 1});
    optimizer.set_lr(0.1 / (i + 1));
    const auto result = graph ? captured({x, y}) : step({to(x, gpu), to(y, gpu)});
    out.losses.push_back(result[0].item());
    CHECK(captured.is_captured() == (graph && i > 0));
  }
  for (auto& p : net.parameters()) out.weights.push_back(on_cpu(p.detach()));
  out.weights.push_back(tensor({scaler.get_scale()}));
  out.weights.push_back(tensor({double(default_generator().state().offset)}));
  return out;
}
}  // namespace

TEST_CASE("a captured training step is the step itself, bit for bit", "[cuda][graph]") {
  const Trained plain = train(false), graph = train(true);
  CHECK(plain.losses == graph.losses);
  for (size_t i = 0; i < plain.weights.size(); ++i) CHECK(same_bits(plain.weights[i], graph.weights[i]));
  CHECK(plain.losses.back() != plain.losses.front());
}

TEST_CASE("a graph keeps what it reads and frees what it took", "[cuda][graph]") {
  synchronize(gpu);
  const int64_t before = memory_stats(gpu).live;
  std::vector<Tensor> last;
  {
    std::unique_ptr<cuda::Graph> graph;
    {
      const Tensor w = full({3}, 2.0, {.device = gpu});
      graph = std::make_unique<cuda::Graph>([w](const std::vector<Tensor>& in) -> std::vector<Tensor> { return {in[0] * w + 1}; });
      for (int i = 0; i < 2; ++i) (*graph)({ones({3})});
    }
    for (int i = 3; i < 6; ++i) CHECK(sum((*graph)({full({3}, double(i))})[0]).item() == 3 * (2 * i + 1));
    last = (*graph)({ones({3})});
  }
  CHECK(sum(last[0]).item() == 9);  // results stay after the graph
  last.clear();
  synchronize(gpu);
  CHECK(memory_stats(gpu).live == before);
}

TEST_CASE("tensors of a captured function take each other's place", "[cuda][graph]") {
  const auto chain = [](const std::vector<Tensor>& in) -> std::vector<Tensor> {
    const NoGrad off;
    Tensor x = in[0];
    for (int i = 0; i < 50; ++i) x = x + 1;
    return {x};
  };
  cuda::Graph graph(chain);
  const Tensor x = zeros({1 << 18}, {.device = gpu});
  graph({x});
  const int64_t before = memory_stats(gpu).live;
  CHECK(graph({x})[0].at({5}).item() == 50);
  CHECK(memory_stats(gpu).live - before <= 4 * (1 << 20) + 4096);  // input, result and two on the way: not fifty
  CHECK(graph({x + 1})[0].at({5}).item() == 51);
}

TEST_CASE("writes of a launch are seen by the tape", "[cuda][graph]") {
  const Tensor state = zeros({2}, {.device = gpu});
  cuda::Graph graph([&](const std::vector<Tensor>&) -> std::vector<Tensor> {
    const NoGrad off;
    copy_into(state * 1, state);
    copy_into(state + 1, state);
    return {};
  });
  for (int i = 0; i < 3; ++i) graph();
  CHECK(on_cpu(state).to_vector<float>() == std::vector<float>{3, 3});
  Tensor w = ones({2}, {.device = gpu}).set_requires_grad();
  const Tensor y = sum(w * state);
  graph();
  CHECK_THROWS_WITH(backward(y), ContainsSubstring("changed in place"));
}

TEST_CASE("a history that leaves a captured function outlives the graph", "[cuda][graph]") {
  const Tensor w = ones({64}, {.device = gpu}).set_requires_grad();
  Tensor loss;
  {
    cuda::Graph graph([&](const std::vector<Tensor>&) -> std::vector<Tensor> {
      loss = sum(dropout(w, 0.5));
      return {};
    });
    graph(), graph();
  }
  const double kept = loss.item();
  backward(loss);
  CHECK((kept > 0 && kept < 128));
  CHECK(sum(w.grad()).item() == kept);  // dropout is its own derivative
}

TEST_CASE("what cannot be captured is an Error after which all goes on", "[cuda][graph]") {
  const Tensor x = ones({3}, {.device = gpu});
  bool wait = false;
  cuda::Graph graph([&](const std::vector<Tensor>& in) -> std::vector<Tensor> {
    const Tensor y = in[0] * 2;
    if (wait) y.at({0}).item();
    return {y};
  });
  graph({x});
  wait = true;
  CHECK_THROWS_WITH(graph({x}), ContainsSubstring("a copy to the CPU cannot be part of a captured graph"));
  CHECK_FALSE(graph.is_captured());
  CHECK(sum(x * 3).item() == 9);
  wait = false;
  CHECK(sum(graph({x})[0]).item() == 6);
  CHECK(graph.is_captured());

  CHECK_THROWS_WITH(graph({ones({4})}),
                    ContainsSubstring("captured with inputs (f32 [3]) on cuda:0") && ContainsSubstring("called with (f32 [4])"));
  CHECK_THROWS_WITH(graph({x, x}), ContainsSubstring("called with (f32 [3], f32 [3])"));
  CHECK_THROWS_WITH(graph({cast(x, DType::f64)}), ContainsSubstring("f64 [3]"));
  CHECK_THROWS_WITH(graph({Tensor()}), ContainsSubstring("input 0 is undefined"));
  graph.reset();
  CHECK(sum(graph({ones({4})})[0]).item() == 8);
  CHECK_THROWS_WITH(cuda::Graph([](const std::vector<Tensor>& in) { return in; }, Device::cpu()), ContainsSubstring("cpu has no graphs"));
  cuda::Graph outer([&](const std::vector<Tensor>&) -> std::vector<Tensor> { return graph({x}); });
  graph.reset();
  outer();
  CHECK_THROWS_WITH(outer(), ContainsSubstring("another graph captures"));
}

TEST_CASE("a captured function may use several streams", "[cuda][graph]") {
  const cuda::Stream side;
  bool join = true;
  const auto two = [&](const std::vector<Tensor>& in) -> std::vector<Tensor> {
    side.wait(cuda::Stream::current());
    Tensor a;
    {
      const cuda::StreamGuard guard(side);
      a = in[0] * 2;
    }
    const Tensor b = in[0] + 5;
    if (!join) return {b};
    cuda::Stream::current().wait(side);
    return {a + b};
  };
  cuda::Graph graph(two), loose(two);
  for (int i = 0; i < 4; ++i) CHECK(graph({full({2}, double(i))})[0].at({1}).item() == 3 * i + 5);
  loose({ones({2})});
  join = false;
  CHECK_THROWS_WITH(loose({ones({2})}), ContainsSubstring("is not waited for"));
}

TEST_CASE("a wrong index in a launch is an Error at the next wait", "[cuda][graph]") {
  const Tensor table = ones({4, 2}, {.device = gpu});
  cuda::Graph graph([&](const std::vector<Tensor>& in) -> std::vector<Tensor> { return {embedding(table, in[0])}; });
  for (int i = 0; i < 3; ++i) graph({tensor<int64_t>({1, 2})});
  graph({tensor<int64_t>({1, 7})});
  CHECK_THROWS_WITH(synchronize(gpu), ContainsSubstring("embedding: index 7"));
  CHECK(sum(graph({tensor<int64_t>({1, 2})})[0]).item() == 4);
}

#ifdef RETAPE_EMULATE_CUDA
TEST_CASE("a graph is of one device", "[cuda][graph]") {
  const Tensor there = ones({2}, {.device = Device::cuda(1)});
  cuda::Graph graph([&](const std::vector<Tensor>&) -> std::vector<Tensor> { return {there + 1}; });
  graph();
  CHECK_THROWS_WITH(graph(), ContainsSubstring("cuda:1 is used while a graph of cuda:0 is captured"));
}

TEST_CASE("modules and ops are ranges for profilers", "[cuda]") {
  Net net;
  net.to(gpu);
  emulation::ranges.clear();
  {
    const cuda::EmitRanges guard;
    const cuda::Range mine("step");
    backward(sum(net(ones({1, 8}, {.device = gpu}))));
  }
  std::string all;
  for (auto& range : emulation::ranges) all += range + " ";
  CHECK_THAT(all, ContainsSubstring("+step +model +up +linear - - +gelu - +dropout - +down +linear - - - +sum - "));
  CHECK_THAT(all, ContainsSubstring("+backward of linear +"));
  CHECK(std::count(emulation::ranges.begin(), emulation::ranges.end(), "-") * 2 == int64_t(emulation::ranges.size()));
}
#endif
