// The device around the kernels: what is not there, what goes wrong on it, memory, copies, and whole training steps.
#include "../catch.h"

#ifdef RETAPE_EMULATE_CUDA
#include <cuda/emulation.h>
#endif

using namespace retape;
using namespace retape::testing;

namespace {
const Device gpu = Device::cuda();
}

TEST_CASE("tensors go to a device and come back", "[cuda]") {
  const Tensor x = values({3, 5}, -1, 1, 1, DType::f32), y = to(transpose(x), gpu);
  CHECK(y.device() == gpu);
  CHECK(y.device().str() == "cuda:0");
  CHECK(same_bits(to(y, Device::cpu()), contiguous(transpose(x))));
  CHECK(slice(y, 0, 1, 5, 2).to_vector<float>() == slice(transpose(x), 0, 1, 5, 2).to_vector<float>());
  CHECK(to(x, gpu).at({1, 2}).item() == Approx(x.at({1, 2}).item()));
  CHECK_THROWS_WITH(y.data<float>(), ContainsSubstring("cuda:0") && ContainsSubstring("to()"));
  Tensor leaf = values({2}).set_requires_grad();
  backward(sum(square(to(leaf, gpu))));
  CHECK(leaf.grad().device().is_cpu());
  CHECK(difference(leaf.grad(), 2 * leaf.detach(), DType::f64) <= 1);
}

TEST_CASE("inputs on different devices are an Error", "[cuda]") {
  const Tensor x = ones({2, 3}), y = ones({3, 2}, {.device = gpu});
  const std::string said = error_of([&] { x + transpose(y); });
  CHECK_THROWS_WITH(matmul(x, y), ContainsSubstring("matmul") && ContainsSubstring("different devices"));
  for (const std::string& text : {error_of([&] { matmul(x, y); }), error_of([&] {
                                    cat({transpose(x), y});
                                  }),
                                  error_of([&] { embedding(y, tensor<int64_t>({0})); }), error_of([&] { layer_norm(y, {2}, ones({2})); })})
    CHECK_THAT(text, ContainsSubstring("[3, 2] on cuda:0") && ContainsSubstring("] on cpu"));
  CHECK_THAT(said, ContainsSubstring("add") && ContainsSubstring("[2, 3] on cpu") && ContainsSubstring("[2, 3] on cuda:0"));
}

TEST_CASE("a wrong index on the device is an Error at the next wait", "[cuda]") {
  const Tensor table = ones({4, 2}, {.device = gpu});
  const Tensor y = embedding(table, to(tensor<int64_t>({1, 9}), gpu));
  const std::string said = error_of([&] { synchronize(gpu); });
  CHECK_THAT(said, ContainsSubstring("embedding: index 9") && ContainsSubstring("index < 4"));
  CHECK(sum(table).item() == 8);  // the device goes on
}

TEST_CASE("devices are named as in PyTorch", "[cuda]") {
  CHECK(Device::parse("cuda:1") == Device::cuda(1));
  CHECK(Device::parse("cuda") == gpu);
  CHECK(Device::parse("cpu") == Device::cpu());
  for (const char* wrong : {"", "gpu", "cuda:", "cuda:-1", "cuda:1x", "cuda:999"})
    CHECK_THROWS_WITH(Device::parse(wrong), ContainsSubstring("no device") && ContainsSubstring("cuda:0"));
  const int n = cuda::device_count();
  CHECK_THROWS_WITH(zeros({2}, {.device = Device::cuda(n)}), ContainsSubstring("cuda:" + std::to_string(n) + " is not there"));
}

TEST_CASE("memory on the device is counted and given back", "[cuda]") {
  synchronize(gpu);
  const int64_t before = memory_stats(gpu).live;
  {
    const Tensor x = zeros({1000}, {.device = gpu});
    CHECK(memory_stats(gpu).live == before + 4000);
    reset_peak_memory(gpu);
    { const Tensor y = x + x; }
    CHECK(memory_stats(gpu).peak == before + 8000);
  }
  CHECK(memory_stats(gpu).live == before);
}

#ifdef RETAPE_EMULATE_CUDA
TEST_CASE("out of memory on the device is an Error after which the program goes on", "[cuda]") {
  const Tensor x = zeros({1000}, {.device = gpu});
  const Scoped little(emulation::settings.memory, memory_stats(gpu).live + 10000);
  CHECK_THROWS_WITH(zeros({10000}, {.device = gpu}), ContainsSubstring("out of memory") || ContainsSubstring("could not be allocated"));
  CHECK(sum(x + 1).item() == 1000);
}

TEST_CASE("two devices work side by side", "[cuda]") {
  const Tensor a = values({7}, -1, 1, 1, DType::f32), x = to(a, gpu) * 2, y = to(x, Device::cuda(1)) + 1;
  CHECK(y.device() == Device::cuda(1));
  CHECK(same_bits(to(y, Device::cpu()), a * 2 + 1));
}
#endif

namespace {
struct Net : nn::Module {
  nn::Embedding table{11, 8};
  nn::LayerNorm norm{8};
  nn::Linear up{8, 16}, down{16, 11};
  Tensor forward(const Tensor& ids) { return down(dropout(gelu(up(norm(table(ids)))), 0.2)); }
  RETAPE_FIELDS(table, norm, up, down)
};
// The loss and the weights after some steps on a device.
std::vector<Tensor> train(Device device, const std::function<void(const std::function<Tensor()>&)>& differentiate) {
  manual_seed(5);
  Net net;
  net.to(device);
  AdamW optimizer(net.parameters(), {.lr = 1e-2});
  const Tensor ids = to(tensor<int64_t>({1, 5, 3, 3, 10, 0}), device), next = to(tensor<int64_t>({5, 3, 3, 10, 0, 1}), device);
  std::vector<Tensor> out;
  for (int step = 0; step < 4; ++step) {
    optimizer.zero_grad();
    Tensor loss;
    differentiate([&] { return loss = cross_entropy(net(ids), next); });
    clip_grad_norm(net.parameters(), 1.0);
    optimizer.step();
    out.push_back(to(loss.detach(), Device::cpu()));
  }
  for (auto& p : net.parameters()) out.push_back(to(p.detach(), Device::cpu()));
  return out;
}
const auto plainly = [](const std::function<Tensor()>& f) { backward(f()); };
}  // namespace

TEST_CASE("training on the device follows the CPU", "[cuda]") {
  const auto a = train(Device::cpu(), plainly), b = train(gpu, plainly);
  for (size_t i = 0; i < a.size(); ++i) CHECK(difference(b[i], a[i], DType::f32) <= 10);
}

TEST_CASE("replay on the device gives the same bits", "[cuda]") {
  const auto a = train(gpu, plainly), b = train(gpu, [](const std::function<Tensor()>&f) {
                                        backward(checkpoint([&](const Tensor&) { return f(); }, zeros({}, {.device = gpu})));
                                      });
  for (size_t i = 0; i < a.size(); ++i) CHECK(same_bits(a[i], b[i]));
}

TEST_CASE("mixed precision on the device", "[cuda]") {
  for (const DType dtype : {DType::bf16, DType::f16}) {
    const auto amp = [&](const std::function<Tensor()>& f) {
      Tensor loss;
      {
        const Autocast guard(dtype);
        loss = f();
      }
      backward(loss);
    };
    const auto a = train(Device::cpu(), amp), b = train(gpu, amp);
    for (size_t i = 0; i < 4; ++i) CHECK(difference(b[i], a[i], dtype) <= 2);
  }
}

TEST_CASE("an overflow of f16 on the device is an Error for who asks", "[cuda]") {
  const Tensor x = to(cast(tensor<float>({1, 12}), DType::f16), gpu);
  const DetectAnomaly guard;
  CHECK_THROWS_WITH(exp(x), ContainsSubstring("exp: 1 of the 2 values of its result (f16 [2] on cuda:0)"));
}

TEST_CASE("matrix products round to TF32 if that is asked for", "[cuda]") {
  const Tensor a = values({16, 64}, -1, 1, 1, DType::f32), b = values({64, 8}, -1, 1, 2, DType::f32);
  const Tensor exact = matmul(cast(a, DType::f64), cast(b, DType::f64)), x = to(a, gpu), y = to(b, gpu);
  const auto error = [&] { return amax(abs(cast(to(matmul(x, y), Device::cpu()), DType::f64) - exact)).item(); };
  CHECK_FALSE(cuda::allow_tf32());
  CHECK(error() < 1e-5);
  cuda::set_allow_tf32(true);
  const double rounded = error();
  cuda::set_allow_tf32(false);
  CHECK((rounded > 1e-5 && rounded < 1e-2));
  CHECK(error() < 1e-5);
}

// ---- budgets -----------------------------------------------------------------------------------------------------------

namespace {
// The gradients of a chain of 24 layers, and the most that it held.
std::vector<Tensor> chain(int64_t* peak, const std::function<void(const std::function<Tensor()>&)>& differentiate) {
  std::vector<Tensor> w;
  for (int i = 0; i < 24; ++i) w.push_back(to(values({1000}, 0.5, 1.5, uint64_t(i + 1), DType::f32), gpu).set_requires_grad());
  const Tensor x = to(values({1000}, -1, 1, 99, DType::f32), gpu);
  synchronize(gpu);
  const int64_t before = memory_stats(gpu).live;
  reset_peak_memory(gpu);
  differentiate([&] {
    Tensor h = x;
    for (auto& v : w) h = sin(h * v);
    return sum(h);
  });
  *peak = memory_stats(gpu).peak - before;
  std::vector<Tensor> grads;
  for (auto& v : w) grads.push_back(to(v.grad(), Device::cpu()));
  return grads;
}
}  // namespace

TEST_CASE("a budget of the device holds, and gives the same bits", "[cuda]") {
  constexpr int64_t unit = 4000;
  int64_t whole = 0, peak = 0;
  const auto plain = chain(&whole, plainly);
  CHECK(whole >= 48 * unit);
  for (const Evict evict : {Evict::recompute, Evict::spill, Evict::bf16}) {
    INFO(int(evict));
    const int64_t limit = 40 * unit;
    const auto within = chain(&peak, [&](const std::function<Tensor()>& f) {
      const MemoryBudget other(memory_stats().live + (1 << 20)), guard(memory_stats(gpu).live + limit, {.evict = evict, .device = gpu});
      backward(f());
    });
    CHECK(peak <= limit);
    for (size_t i = 0; i < plain.size(); ++i)
      CHECK((evict == Evict::bf16 ? difference(within[i], plain[i], DType::bf16) <= 1 : same_bits(within[i], plain[i])));
  }
  const Tensor held = ones({100}, {.device = gpu});
  CHECK_THROWS_WITH(MemoryBudget(1, {.device = gpu}), ContainsSubstring("1 bytes on cuda:0 are too few"));
}

#ifdef RETAPE_EMULATE_CUDA
TEST_CASE("out of memory on the device says who holds it", "[cuda]") {
  Net net;
  net.to(gpu);
  AdamW optimizer(net.parameters());
  const Tensor x = ones({40, 8}, {.device = gpu}).set_requires_grad();
  backward(sum(net.up(x)));
  optimizer.step();
  const Tensor h = net.up(x);
  const Scoped little(emulation::settings.memory, memory_stats(gpu).live + 1000);
  const std::string said = error_of([&] { net.down(h); });
  CHECK_THAT(said, ContainsSubstring("out of memory: linear") && ContainsSubstring("on cuda:0"));
  CHECK_THAT(said, ContainsSubstring("optimizer state"));
  CHECK(sum(net.up.bias).item() < 100);  // the device goes on
}

TEST_CASE("what goes wrong on the device is an Error with the op's name", "[cuda]") {
  const Tensor x = ones({4}, {.device = gpu});
  {
    const Scoped other(emulation::settings.next_launch, cudaErrorNoKernelImageForDevice);
    CHECK_THROWS_WITH(exp(x), ContainsSubstring("exp: this build has no kernels for cuda:0, whose architecture is sm_90") &&
                                  ContainsSubstring("-DCMAKE_CUDA_ARCHITECTURES=90"));
  }
  {
    const Scoped broken(emulation::settings.next_wait, cudaErrorIllegalAddress);
    CHECK_THROWS_WITH(synchronize(gpu), ContainsSubstring("an illegal memory access was encountered") &&
                                            ContainsSubstring("a kernel that was launched before") &&
                                            ContainsSubstring("CUDA_LAUNCH_BLOCKING=1"));
  }
  CHECK(sum(x).item() == 4);
}
#endif
