#include "cuda_works.h"

#include <fmt/format.h>

#include <memory>

#include <retape/core/cuda_graph.h>
#include "timing.h"

namespace retape::bench {
namespace {

const char* name_in_torch(DType dtype) { return dtype == DType::bf16 ? "bfloat16" : "float32"; }

DeviceWork attention(Device device, int64_t batch, int64_t heads, int64_t length, int64_t dim) {
  const double pairs = double(batch * heads) * double(length) * double(length + 1) / 2;
  return {.name = fmt::format("causal attention bf16 B {} H {} T {} D {}, forward + backward", batch, heads, length, dim),
          .peer = fmt::format("attention_bf16 {} {} {} {}", batch, heads, length, dim),
          .at_least = 0.8,
          .make =
              [=] {
                std::vector<Tensor> qkv;
                for (int i = 0; i < 3; ++i) qkv.push_back(randn({batch, heads, length, dim}, {DType::bf16, device}));
                return forward_backward(qkv, [](auto& x) { return scaled_dot_product_attention(x[0], x[1], x[2], {.is_causal = true}); });
              },
          .flops = pairs * double(dim) * 2 * 7};  // 2 products forward, 5 backward
}

void add_streaming(std::vector<DeviceWork>& all, Device device, int64_t rows, int64_t columns, DType dtype) {
  const double tensor = double(rows * columns) * double(size_of(dtype));
  const std::string size = fmt::format("{} {} x {}", name_of(dtype), rows, columns),
                    peer_size = fmt::format("{} {} {}", rows, columns, name_in_torch(dtype));
  constexpr double goal = 0.85;
  all.push_back({.name = "gelu(x * 2 + 1) " + size,
                 .peer = "elementwise " + peer_size,
                 .make = [=]() -> Step {
                   return [x = randn({rows, columns}, {dtype, device})] {
                     const NoGrad off;
                     gelu(x * 2 + 1);
                   };
                 },
                 .bytes = 6 * tensor,  // three ops, each reads one tensor and writes one
                 .of_copy = goal});
  const auto add = [&](const char* name, auto f) {
    all.push_back({.name = fmt::format("{} {}, forward + backward", name, size),
                   .peer = fmt::format("rows {} {}", name, peer_size),
                   .make =
                       [=] {
                         const Options options{dtype, device};
                         std::vector<Tensor> inputs = {randn({rows, columns}, options)};
                         if (std::string_view(name) == "layer_norm")
                           inputs.insert(inputs.end(), {ones({columns}, options), zeros({columns}, options)});
                         return forward_backward(inputs, f);
                       },
                   .bytes = 5 * tensor,  // x, y; dy, x or y, dx
                   .of_copy = goal});
  };
  add("softmax", [](auto& x) { return softmax(x[0], -1); });
  add("layer_norm", [](auto& x) { return layer_norm(x[0], {x[0].size(-1)}, x[1], x[2]); });
}

DeviceWork adamw(Device device, int64_t count, int64_t elements) {
  return {.name = fmt::format("AdamW step, {:.1f} M parameters in {} tensors", double(count * elements) * 1e-6, count),
          .peer = fmt::format("adamw fused {} {}", count, elements),
          .make = [=] { return adamw_step(count, elements, device); },
          .bytes = 7.0 * 4 * double(count * elements),  // reads the value, its gradient and two moments; writes all but the gradient
          .of_copy = 0.85};
}

// Layers and a training step for images, and recurrent layers, in f32 as PyTorch's defaults have it.
void add_layers(std::vector<DeviceWork>& all, Device device, bool tiny) {
  const int64_t batch = tiny ? 2 : 64, channels = tiny ? 4 : 64, side = tiny ? 5 : 56;
  for (const bool depthwise : {false, true})
    all.push_back({.name = fmt::format("conv2d 3 x 3{}, {} images of {} x {} x {}, forward + backward", depthwise ? ", depthwise" : "",
                                       batch, channels, side, side),
                   .peer = fmt::format("conv {} {} {} {}", batch, channels, side, depthwise ? channels : 1),
                   .at_least = 1,
                   .make = [=] { return conv_step(batch, channels, side, depthwise ? channels : 1, device); },
                   .flops = 6.0 * 9 * double(batch * side * side * channels) * double(depthwise ? 1 : channels)});
  const double image = 4.0 * double(batch * channels * side * side);
  all.push_back({.name = fmt::format("BatchNorm2d, {} images of {} x {} x {}, forward + backward", batch, channels, side, side),
                 .peer = fmt::format("norm BatchNorm2d {} {} {}", batch, channels, side),
                 .at_least = 1,
                 .make = [=] { return batch_norm_step(batch, channels, side, device); },
                 .bytes = 8 * image});  // x twice, y; dy and x twice, dx
  const int64_t steps = tiny ? 3 : 100, inputs = tiny ? 4 : 128, units = tiny ? 5 : 256;
  all.push_back({.name = fmt::format("LSTM, 2 layers, B {} T {}, {} to {}, forward + backward", batch, steps, inputs, units),
                 .peer = fmt::format("recurrent LSTM {} {} {} {}", steps, batch, inputs, units),
                 .at_least = 1,
                 .make = [=] { return lstm_step(steps, batch, inputs, units, device); }});
  if (tiny && device.is_cuda()) return;  // eleven million weights are nothing for an emulation
  const int64_t pixels = tiny ? 40 : 224;
  all.push_back({.name = fmt::format("training step, ResNet-18, B {}, {} x {}", batch, pixels, pixels),
                 .peer = fmt::format("resnet18 {} {}", batch, pixels),
                 .at_least = 1,
                 .make = [=] { return resnet_step(batch, pixels, device); }});
}

// nanoGPT's CPU settings, where launches take longer than the arithmetic. What is captured is one launch; a CPU has no graphs.
DeviceWork small_step(Device device, bool tiny, bool captured) {
  StepSettings s;
  if (tiny) s = {.vocab = 8, .layers = 1, .heads = 2, .width = 8, .block = 4, .batch = 1};
  return {.name = fmt::format("training step, nanoGPT's CPU settings, f32, {}", captured ? "as a graph, against eager" : "eager"),
          .peer = "gpt " + numbers(s),
          .at_least = captured ? 3.0 : 0,
          .make = [=]() -> Step {
            const auto step = std::make_shared<GptStep>(s, device);
            if (!captured || !device.is_cuda()) return [step] { step->run(); };
            const auto graph = std::make_shared<cuda::Graph>([step](const std::vector<Tensor>& in) { return step->run(in); }, device);
            return [step, graph] { (*graph)(step->inputs()); };
          }};
}

}  // namespace

std::vector<DeviceWork> device_works(Device device, bool tiny) {
  std::vector<DeviceWork> all;
  if (tiny) {
    for (const int64_t dim : {64, 128}) all.push_back(attention(device, 1, 1, 20, dim));
    for (const DType dtype : {DType::f32, DType::bf16}) add_streaming(all, device, 8, 64, dtype);
    all.push_back(adamw(device, 3, 1000));
  } else {
    all.push_back(attention(device, 4, 32, 4096, 64));
    all.push_back(attention(device, 4, 16, 4096, 128));
    for (const DType dtype : {DType::f32, DType::bf16}) add_streaming(all, device, 32768, 4096, dtype);
    all.push_back(adamw(device, 148, 840'000));
  }
  add_layers(all, device, tiny);
  for (const bool captured : {false, true}) all.push_back(small_step(device, tiny, captured));
  return all;
}

namespace {
int64_t copied_elements(bool tiny) { return tiny ? 1 << 10 : 128 << 20; }
}  // namespace
int64_t copied_bytes(bool tiny) { return 2 * 4 * copied_elements(tiny); }
Step device_copy(Device device, bool tiny) {
  const Tensor x = randn({copied_elements(tiny)}, {.device = device}), y = empty_like(x);
  return [x, y] { copy_into(x, y); };
}

StepSettings gpt2_settings(int64_t batch, bool tiny) {
  if (tiny) return {.vocab = 16, .layers = 1, .heads = 2, .width = 16, .block = 8, .batch = batch};
  return {.vocab = 50304, .layers = 12, .heads = 12, .width = 768, .block = 1024, .batch = batch};
}
double flops_per_token(const StepSettings& s) {
  const double n = double(s.vocab * s.width + s.layers * (12 * s.width * s.width + 2 * s.width) + s.width);
  return 6 * n + 12 * double(s.layers * s.width * s.block);
}
int64_t largest_batch(Device device, int64_t most, bool tiny) {
  int64_t fits = 0;
  for (int64_t batch = 1; batch <= most; batch *= 2) {
    try {
      GptStep step(gpt2_settings(batch, tiny), device, DType::bf16);
      for (int i = 0; i < 2; ++i) step.run();  // the second finds the optimizer's state there
      synchronize(device);
      fits = batch;
    } catch (const Error& e) {
      if (std::string_view(e.what()).find("out of memory") == std::string_view::npos) throw;
      break;
    }
    empty_cache();
  }
  empty_cache();
  return fits;
}

double issue_seconds(Device device, int64_t count, bool recorded) {
  const Tensor x = full({4}, 0.5, {.device = device});
  Tensor w = ones({4}, {.device = device});
  if (recorded) w.set_requires_grad();
  std::vector<double> all;
  for (int i = 0; i < 22; ++i) {
    Tensor h = x;
    synchronize(device);
    all.push_back(seconds_of([&] {
      for (int64_t k = 0; k < count; ++k) h = h * w;
    }));
  }
  all.erase(all.begin(), all.begin() + 2);  // warm-up
  return median(all) / double(count);
}

}  // namespace retape::bench
