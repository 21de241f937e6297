#include "works.h"

#include <fmt/format.h>

#include <fstream>
#include <memory>

#include "timing.h"
#include "translation.h"

namespace retape::bench {

namespace {
lm::Config config_of(const StepSettings& s) {
  return {.vocab = s.vocab, .block = s.block, .layers = s.layers, .heads = s.heads, .width = s.width};
}
}  // namespace

GptStep::GptStep(const StepSettings& s, Device device, std::optional<DType> amp)
    : model_(lm::make_model(config_of(s))),
      optimizer_((model_.to(device), model_.parameters()), {.lr = 1e-3, .betas = {0.9, 0.99}, .weight_decay = 0.1}),
      ids_(randint(0, s.vocab, {s.batch, s.block}, {DType::i64, device})),
      targets_(randint(0, s.vocab, {s.batch, s.block}, {DType::i64, device})),
      amp_(amp) {}
std::vector<Tensor> GptStep::run(const std::vector<Tensor>& inputs) {
  optimizer_.zero_grad();
  Tensor loss;
  {
    const Autocast guard(amp_.value_or(DType::bf16), amp_.has_value());
    loss = model_.loss(inputs[0], inputs[1]);
  }
  backward(loss);
  clip_grad_norm(model_.parameters(), 1);
  optimizer_.step();
  return {loss.detach()};
}

Step adamw_step(int64_t count, int64_t elements, Device device) {
  std::vector<Tensor> parameters;
  for (int64_t i = 0; i < count; ++i) {
    parameters.push_back(randn({elements}, {.device = device}).set_requires_grad());
    parameters.back().set_grad(randn({elements}, {.device = device}));
  }
  return [optimizer = std::make_shared<AdamW>(parameters, AdamWOptions{})] { optimizer->step(); };
}

Step resnet_step(int64_t batch, int64_t side, Device device) {
  auto model = std::make_shared<nn::ResNet>(nn::resnet18());
  model->to(device);
  auto optimizer = std::make_shared<SGD>(model->parameters(), SGDOptions{.lr = 0.1, .momentum = 0.9, .weight_decay = 1e-4});
  return [=, images = randn({batch, 3, side, side}, {.device = device}), labels = randint(0, 1000, {batch}, {DType::i64, device})] {
    optimizer->zero_grad();
    backward(cross_entropy((*model)(images), labels));
    optimizer->step();
  };
}
namespace {
// Forward and backward of a module whose parameters get gradients, too.
template <class M, class F> Step module_step(std::shared_ptr<M> module, Tensor x, F forward) {
  x.set_requires_grad();
  Tensor dy;
  {
    const NoGrad off;
    const Tensor y = forward(*module, x);
    dy = contiguous(randn_like(y), y.memory_format());
  }
  return [=] {
    module->zero_grad(), x.set_grad({});
    backward(forward(*module, x), {}, dy);
  };
}
template <class M> Step recurrent_step(std::shared_ptr<M> module, int64_t steps, int64_t batch, int64_t inputs, Device device) {
  module->to(device);
  return module_step(module, randn({steps, batch, inputs}, {.device = device}), [](M& m, const Tensor& x) { return m(x).first; });
}
template <class M> Step image_step(std::shared_ptr<M> module, int64_t batch, int64_t channels, int64_t side, Device device) {
  module->to(device);
  const Tensor x = contiguous(randn({batch, channels, side, side}, {.device = device}), MemoryFormat::channels_last);
  return module_step(module, x, [](M& m, const Tensor& in) { return m(in); });
}
}  // namespace
Step lstm_step(int64_t steps, int64_t batch, int64_t inputs, int64_t units, Device device) {
  return recurrent_step(std::make_shared<nn::LSTM>(inputs, units, nn::LSTMOptions{.num_layers = 2}), steps, batch, inputs, device);
}
Step conv_step(int64_t batch, int64_t channels, int64_t side, int64_t groups, Device device) {
  const nn::ConvOptions options{.kernel_size = 3, .padding = 1, .groups = groups, .bias = false};
  return image_step(std::make_shared<nn::Conv2d>(channels, channels, options), batch, channels, side, device);
}
Step batch_norm_step(int64_t batch, int64_t channels, int64_t side, Device device) {
  return image_step(std::make_shared<nn::BatchNorm2d>(channels), batch, channels, side, device);
}

std::string numbers(const StepSettings& s) {
  return fmt::format("{} {} {} {} {} {}", s.vocab, s.layers, s.heads, s.width, s.block, s.batch);
}

namespace {

// ---- ops on their own -----------------------------------------------------------------------------------------------

Step chain(bool recorded) {
  Tensor x = full({4}, 0.5), w = ones({4});
  if (recorded) w.set_requires_grad();
  return [=] {
    Tensor h = x;
    for (int i = 0; i < 1000; ++i) h = h * w;
    if (recorded) backward(sum(h));
    else do_not_optimize(h);
  };
}

using RowOp = Tensor (*)(const std::vector<Tensor>&);
void add_row_ops(std::vector<Work>& all) {
  struct Op {
    const char* name;
    int64_t tensors;  // read and written, forward and backward
    bool weight, bias;
    RowOp f;
  };
  const Op ops[] = {
      {"gelu", 5, false, false, [](auto& x) { return gelu(x[0]); }},
      {"softmax", 5, false, false, [](auto& x) { return softmax(x[0], -1); }},
      {"layer_norm", 5, true, true, [](auto& x) { return layer_norm(x[0], {768}, x[1], x[2]); }},
      {"rms_norm", 5, true, false, [](auto& x) { return rms_norm(x[0], {768}, x[1]); }},
      {"dropout", 4, false, false, [](auto& x) { return dropout(x[0], 0.1); }},
  };
  for (const int64_t rows : {256, 4096})
    for (const Op& op : ops)
      all.push_back({.name = fmt::format("{} {} x 768, forward + backward", op.name, rows),
                     .peer = fmt::format("row_op {} {}", op.name, rows),
                     .at_least = rows == 256 ? 2 : 1.3,
                     .make =
                         [=] {
                           std::vector<Tensor> inputs = {randn({rows, 768})};
                           if (op.weight) inputs.push_back(ones({768}));
                           if (op.bias) inputs.push_back(zeros({768}));
                           return forward_backward(inputs, op.f);
                         },
                     .roof = Roof::copy,
                     .amount = double(op.tensors * rows * 768 * 4),
                     .roof_bytes = rows * 768 * 4,
                     .of_roof = rows == 256 ? 0 : 0.75});
}

Work attention(int64_t batch, int64_t heads, int64_t length, int64_t dim, double of_peak) {
  const double pairs = double(batch * heads) * double(length) * double(length + 1) / 2;
  return {.name = fmt::format("causal attention B {} H {} T {} D {}, forward + backward", batch, heads, length, dim),
          .peer = fmt::format("attention {} {} {} {}", batch, heads, length, dim),
          .at_least = 1.2,
          .make =
              [=] {
                const Shape shape{batch, heads, length, dim};
                return forward_backward({randn(shape), randn(shape), randn(shape)},
                                        [](auto& x) { return scaled_dot_product_attention(x[0], x[1], x[2], {.is_causal = true}); });
              },
          .roof = Roof::fma,
          .amount = pairs * double(dim) * 2 * 7,  // 2 products forward, 5 backward
          .of_roof = of_peak};
}

// Options of attention, one at a time; PyTorch gets the same as a mask, or as grouped heads.
void add_attention_options(std::vector<Work>& all) {
  constexpr int64_t batch = 2, heads = 8, length = 4096, dim = 64, window = 512;
  struct Option {
    const char *name, *peer;
    int64_t kv_heads;
    double pairs;  // of a head
    AttentionParams params;
  };
  const double causal = double(length) * double(length + 1) / 2,
               narrow = double(window) * double(length) - double(window) * double(window - 1) / 2;
  const Option options[] = {
      {"with ALiBi", "alibi", heads, causal, {.is_causal = true, .alibi_slopes = nn::alibi_slopes(heads)}},
      {"in a window of 512", "window", heads, narrow, {.is_causal = true, .window_left = window - 1}},
      {"of 8 heads that share 2", "grouped", 2, causal, {.is_causal = true}},
  };
  for (const Option& o : options)
    all.push_back({.name = fmt::format("causal attention {}, B {} H {} T {} D {}, forward + backward", o.name, batch, heads, length, dim),
                   .peer = fmt::format("attention_{} {} {} {} {}", o.peer, batch, heads, length, dim),
                   .at_least = 1.2,
                   .make =
                       [=] {
                         const Shape q{batch, heads, length, dim}, kv{batch, o.kv_heads, length, dim};
                         return forward_backward({randn(q), randn(kv), randn(kv)}, [params = o.params](auto& x) {
                           return scaled_dot_product_attention(x[0], x[1], x[2], params);
                         });
                       },
                   .roof = Roof::fma,
                   .amount = double(batch * heads) * o.pairs * double(dim) * 2 * 7});
}

// Ops on images; both sides have them channels-last in memory.
void add_image_ops(std::vector<Work>& all) {
  struct Op {
    const char *name, *peer;
    double at_least;
    Shape x, weight;  // weight: none
    RowOp f;
  };
  const Shape image{16, 64, 56, 56};
  const Op ops[] = {
      {"conv_transpose2d 4 x 4, stride 2, of 28 x 28",
       "transposed",
       1,
       {16, 64, 28, 28},
       {64, 64, 4, 4},
       [](auto& x) { return conv_transpose2d(x[0], x[1], {}, {.stride = 2, .padding = 1}); }},
      {"max_pool2d 3 x 3, stride 2", "max_pool", 1.3, image, {}, [](auto& x) { return max_pool2d(x[0], 3, {.stride = 2, .padding = 1}); }},
      {"avg_pool2d 2 x 2", "avg_pool", 1.3, image, {}, [](auto& x) { return avg_pool2d(x[0], 2); }},
      {"interpolate, bilinear, to 112 x 112",
       "bilinear",
       1.3,
       image,
       {},
       [](auto& x) { return interpolate(x[0], {.scale_factor = 2, .mode = InterpolateMode::bilinear}); }},
      {"interpolate, nearest, to 112 x 112", "nearest", 1.3, image, {}, [](auto& x) { return interpolate(x[0], {.scale_factor = 2}); }},
      {"interpolate, bicubic, to 112 x 112",
       "bicubic",
       1.3,
       image,
       {},
       [](auto& x) { return interpolate(x[0], {.scale_factor = 2, .mode = InterpolateMode::bicubic}); }},
      {"grid_sample, bilinear",
       "grid_sample",
       1.3,
       image,
       {16, 2, 3},
       [](auto& x) { return grid_sample(x[0], affine_grid(0.5 * x[1], x[0].shape())); }},
  };
  for (const bool depthwise : {false, true}) {
    const int64_t groups = depthwise ? 64 : 1;
    all.push_back(
        {.name = fmt::format("conv2d 3 x 3, {}, 16 images of 56 x 56, forward + backward", depthwise ? "depthwise" : "64 to 64 channels"),
         .peer = fmt::format("conv 16 64 56 {}", groups),
         .at_least = depthwise ? 1.5 : 1,
         .make = [=] { return conv_step(16, 64, 56, groups); }});
    for (const DType dtype : {DType::f32, DType::bf16})
      all.push_back({.name = fmt::format("conv1d of 4, depthwise, causal, B 4 T 512 C 512, {}, forward + backward", name_of(dtype)),
                     .peer = fmt::format("conv1d_depthwise {}", name_of(dtype)),
                     .make = [=] {
                       return forward_backward(
                           {Tensor(cast(randn({4, 512, 512}), dtype).detach()), Tensor(cast(randn({512, 1, 4}), dtype).detach())},
                           [](auto& x) { return nn::causal_conv1d(x[0], x[1]); });
                     }});
  }
  for (const Op& op : ops)
    all.push_back({.name = fmt::format("{}, 16 images of 56 x 56, forward + backward", op.name),
                   .peer = fmt::format("image_op {}", op.peer),
                   .at_least = op.at_least,
                   .make = [=] {
                     std::vector<Tensor> inputs = {contiguous(randn(op.x), MemoryFormat::channels_last)};
                     if (op.weight.rank()) inputs.push_back(randn(op.weight));
                     return forward_backward(inputs, op.f);
                   }});
}

// What detectors add to them; the peer's are torchvision's.
void add_region_ops(std::vector<Work>& all) {
  all.push_back({.name = "deform_conv2d 3 x 3, 64 to 64 channels, with mask, 4 images of 56 x 56, forward + backward",
                 .peer = "region_op deform_conv2d",
                 .at_least = 1.3,
                 .make = [] {
                   const auto image = [](int64_t channels) {
                     return contiguous(randn({4, channels, 56, 56}), MemoryFormat::channels_last);
                   };
                   return forward_backward({image(64), image(18), randn({64, 64, 3, 3}), image(9)},
                                           [](auto& x) { return deform_conv2d(x[0], x[1], x[2], {}, {.padding = 1}, x[3]); });
                 }});
  all.push_back({.name = "roi_align 7 x 7, sampling_ratio 2, 512 boxes in 2 images of 256 channels and 50 x 68, forward + backward",
                 .peer = "region_op roi_align",
                 .at_least = 1.3,
                 .make = [] {
                   const Tensor corner = rand({512, 2}) * 40, size = 4 + rand({512, 2}) * 24, of = full({256, 1}, 0);
                   const Tensor boxes = cat({cat({of, of + 1}, 0), corner, corner + size}, 1);
                   return forward_backward({contiguous(randn({2, 256, 50, 68}), MemoryFormat::channels_last)},
                                           [=](auto& x) { return roi_align(x[0], boxes, 7, {.sampling_ratio = 2}); });
                 }});
}

// Recurrences along time. A selective scan is held against the time of its exponentials.
void add_recurrences(std::vector<Work>& all) {
  all.push_back({.name = "linear_recurrence B 2 T 256 C 1024, forward + backward",
                 .peer = "linear_recurrence 2 256 1024",
                 .at_least = 5,
                 .make =
                     [] {
                       return forward_backward({uniform({2, 256, 1024}, 0, 1), randn({2, 256, 1024})},
                                               [](auto& x) { return linear_recurrence(x[0], x[1]); });
                     },
                 .roof = Roof::copy,
                 .amount = 8.0 * 4 * 2 * 256 * 1024,  // a, b, h; dh, a, h, da, db
                 .roof_bytes = 4 * 2 * 256 * 1024});
  const auto scan_inputs = [](int64_t steps) -> std::vector<Tensor> {
    const Shape shape{2, steps, 1024}, row{2, steps, 16};
    return {randn(shape), uniform(shape, 0.001, 0.101), uniform({1024, 16}, -16, -1), randn(row), randn(row)};
  };
  const auto scan = [](auto& x) { return selective_scan(x[0], x[1], x[2], x[3], x[4]); };
  all.push_back({.name = "selective_scan B 2 T 2048 D 1024 N 16, forward",
                 .peer = "selective_scan_forward 2 2048 1024 16",
                 .at_least = 5,
                 .make = [=]() -> Step {
                   return [x = scan_inputs(2048), scan] {
                     const NoGrad off;
                     do_not_optimize(scan(x));
                   };
                 },
                 .roof = Roof::exp,
                 .amount = 2.0 * 2048 * 1024 * 16,
                 .of_roof = 1 / 1.5});
  for (const int64_t steps : {64, 2048})
    all.push_back({.name = fmt::format("selective_scan B 2 T {} D 1024 N 16, forward + backward", steps),
                   .peer = fmt::format("selective_scan 2 {} 1024 16", steps),
                   .at_least = 5,
                   .make = [=] { return forward_backward(scan_inputs(steps), scan); },
                   .roof = Roof::exp,
                   .amount = 2.0 * double(steps) * 1024 * 16,
                   .of_roof = 1 / (1.5 * 4.5)});  // backward in 3.5 times the time of forward
  for (const int64_t steps : {1024, 16384})
    for (const bool of_features : {false, true})
      all.push_back(
          {.name = fmt::format("gated_linear_attention B 1 T {} H 4 D 64, decay of {}, forward + backward", steps,
                               of_features ? "features" : "heads"),
           .peer = fmt::format("gated_linear_attention {} 1 {} 4 64 64", int(of_features), steps),
           .at_least = steps == 16384 ? 3.0 : 0.0,
           .make =
               [=] {
                 const Shape x{1, steps, 4, 64};
                 return forward_backward({randn(x), randn(x), randn(x), uniform(of_features ? x : Shape{1, steps, 4}, -0.1, 0)},
                                         [](auto& in) { return gated_linear_attention(in[0], in[1], in[2], {.g = in[3]}).y; });
               },
           .roof = Roof::fma,
           // of a chunk of 64 steps: forward two products with the state and the scores' triangle twice, backward twice that and more
           .amount = double(steps * 4) * (2 * 7 * 64 * 64 + 2 * 5 * 32 * 64)});
  // A layer whose time is linear in the length: the second row should take four times as long as the first.
  for (const int64_t steps : {4096, 16384})
    all.push_back({.name = fmt::format("nn::LinearAttention B 1 T {} C 256, 4 heads, forward + backward", steps),
                   .peer = fmt::format("linear_attention 1 {} 256 4", steps),
                   .at_least = steps == 16384 ? 3.0 : 0.0,
                   .make = [=] {
                     const auto layer = std::make_shared<nn::LinearAttention>(256, nn::LinearAttentionOptions{.num_heads = 4});
                     return forward_backward({randn({1, steps, 256})}, [=](auto& x) { return (*layer)(x[0]); });
                   }});
}

// ---- training steps -------------------------------------------------------------------------------------------------

struct Product {  // a linear layer: x (m, k), weight (n, k)
  int64_t m, n, k;
};
std::vector<Product> products_of(const StepSettings& s) {
  const int64_t m = s.batch * s.block, w = s.width;
  std::vector<Product> all;
  for (int64_t i = 0; i < s.layers; ++i) all.insert(all.end(), {{m, 3 * w, w}, {m, w, w}, {m, 4 * w, w}, {m, w, 4 * w}});
  all.push_back({m, s.vocab, w});
  return all;
}
double flops_of(const StepSettings& s) {  // of the linear layers, forward and backward
  double total = 0;
  for (const Product& p : products_of(s)) total += 6.0 * double(p.m) * double(p.n) * double(p.k);
  return total;
}
// The products in the order of a step, each on operands of its own.
Step products(const StepSettings& s) {
  struct Operands {
    Tensor x, weight, dy;
  };
  std::vector<Operands> all;
  for (const Product& p : products_of(s)) all.push_back({randn({p.m, p.k}), randn({p.n, p.k}), randn({p.m, p.n})});
  return [all] {
    const NoGrad off;
    for (const auto& [x, weight, dy] : all) linear(x, weight);
    for (auto p = all.rbegin(); p != all.rend(); ++p) {
      matmul(p->dy, p->weight);
      matmul(transpose(p->dy), p->x);
    }
  };
}
const StepSettings nano, six_layers{.layers = 6, .heads = 6, .width = 384, .block = 256, .batch = 16},
    gpt2{.vocab = 50257, .layers = 12, .heads = 12, .width = 768, .block = 64, .batch = 4};

Work training_step(const char* model, const StepSettings& s, double at_least, double of_peak, double of_whole) {
  return {.name = fmt::format("training step, {}", model),
          .peer = "gpt " + numbers(s),
          .at_least = at_least,
          .make = [s]() -> Step { return [step = std::make_shared<GptStep>(s)] { step->run(); }; },
          .roof = Roof::fma,
          .amount = flops_of(s),
          .make_products = [s] { return products(s); },
          .product_flops = flops_of(s),
          .products_of_peak = of_peak,
          .products_of_whole = of_whole};
}

// A step of pre-training by He et al. 2022: ViT-tiny on 32 x 32 images.
Work mae_step(double mask_ratio, double at_least) {
  constexpr int64_t batch = 64, patch = 4, side = 32;
  const nn::MAEConfig c{.encoder = {.image_size = side,
                                    .patch_size = patch,
                                    .hidden_size = 192,
                                    .num_hidden_layers = 12,
                                    .num_attention_heads = 3,
                                    .intermediate_size = 768,
                                    .position_embedding = nn::PositionEmbedding::sincos},
                        .decoder_hidden_size = 96,
                        .decoder_num_hidden_layers = 4,
                        .decoder_num_attention_heads = 3,
                        .decoder_intermediate_size = 384,
                        .mask_ratio = mask_ratio,
                        .norm_pix_loss = true};
  const int64_t patches = c.encoder.patches(), seen = 1 + int64_t(double(patches) * (1 - mask_ratio)), all = 1 + patches;
  const auto flops = [](int64_t tokens, int64_t width, int64_t depth) {
    return double(depth * tokens) * double(24 * width * width + 4 * tokens * width);
  };
  return {.name = fmt::format("training step, MAE of ViT-tiny, 32 x 32, patch 4, B 64, mask ratio {}", mask_ratio),
          .peer = fmt::format("mae {} {} {} {} {} {} {} {} {} {}", batch, side, patch, c.encoder.hidden_size, c.encoder.num_hidden_layers,
                              c.encoder.num_attention_heads, c.decoder_hidden_size, c.decoder_num_hidden_layers,
                              c.decoder_num_attention_heads, int64_t(100 * mask_ratio + 0.5)),
          .at_least = at_least,
          .make = [c]() -> Step {
            auto model = std::make_shared<nn::MaskedAutoencoder>(c);
            std::vector<Tensor> trained;
            for (auto& p : model->parameters())
              if (p.requires_grad()) trained.push_back(p);
            auto optimizer = std::make_shared<AdamW>(trained, AdamWOptions{.lr = 1e-3, .betas = {0.9, 0.95}, .weight_decay = 0.05});
            return [=, images = randn({batch, c.encoder.num_channels, side, side})] {
              optimizer->zero_grad();
              backward(model->loss(images));
              clip_grad_norm(trained, 1);
              optimizer->step();
            };
          },
          .roof = Roof::fma,
          .amount = 3 * double(batch) *
                    (flops(seen, c.encoder.hidden_size, c.encoder.num_hidden_layers) +
                     flops(all, c.decoder_hidden_size, c.decoder_num_hidden_layers))};
}

Work resnet18(int64_t batch, int64_t side) {
  return {.name = fmt::format("training step, ResNet-18, {} x {}, B {}", side, side, batch),
          .peer = fmt::format("resnet18 {} {}", batch, side),
          .at_least = 1.1,
          .make = [=] { return resnet_step(batch, side); },
          .roof = Roof::fma,
          .amount =
              6.0 * 148.5e6 * double(batch)};  // multiplications of an image's forward at 64 x 64, of which a step has three times as many
}

Work adamw(const char* form, double at_least, double of_roof) {
  constexpr int64_t count = 160, elements = 25'000'000 / count;
  return {.name = fmt::format("AdamW step, 25 M parameters in {} tensors, against {}", count, form),
          .peer = fmt::format("adamw {} {} {}", form, count, elements),
          .at_least = at_least,
          .make = [=] { return adamw_step(count, elements); },
          .roof = Roof::in_place,
          .amount = 7.0 * 4 * count * elements,  // reads the value, its gradient and two moments; writes all but the gradient
          .roof_bytes = 4 * count * elements,
          .of_roof = of_roof};
}

// Two layers, 128 inputs and 256 units, 100 steps of 32 sequences.
template <class M, class Options> Work recurrent(const char* name) {
  static constexpr int64_t steps = 100, batch = 32, inputs = 128, units = 256, gates = std::is_same_v<M, nn::LSTM> ? 4 : 3;
  return {
      .name = fmt::format("{}, 2 layers, B {} T {}, {} to {}, forward + backward", name, batch, steps, inputs, units),
      .peer = fmt::format("recurrent {} {} {} {} {}", name, steps, batch, inputs, units),
      .at_least = 1.5,
      .make = [=] { return recurrent_step(std::make_shared<M>(inputs, units, Options{.num_layers = 2}), steps, batch, inputs, Device{}); },
      .roof = Roof::fma,
      .amount = 6.0 * double(steps * batch * gates * units * (inputs + 3 * units))};
}

// N 16, 64 channels, 56 x 56, channels next to each other in memory.
template <class M> Work norm(const char* name, const M& module) {
  static constexpr int64_t n = 16, channels = 64, side = 56;
  return {.name = fmt::format("{}, N {}, {} x {} x {}, forward + backward", name, n, channels, side, side),
          .peer = fmt::format("norm {} {} {} {}", name, n, channels, side),
          .at_least = 1.3,
          .make = [clone = std::make_shared<M>(module.clone())] { return image_step(clone, n, channels, side, Device{}); },
          .roof = Roof::copy,
          .amount = 8.0 * 4 * double(n * channels * side * side),  // x twice, y; dy and x twice, dx
          .roof_bytes = 4 * (n * channels * side * side)};
}

Work cross_entropy_of_logits() {
  constexpr int64_t rows = 1024, classes = 50257;
  return {.name = fmt::format("cross_entropy {} x {}, forward + backward", rows, classes),
          .peer = fmt::format("cross_entropy {} {}", rows, classes),
          .at_least = 3,
          .make =
              [] {
                return forward_backward({randn({rows, classes}), randint(0, classes, {rows})},
                                        [](auto& x) { return cross_entropy(x[0], x[1]); });
              },
          .roof = Roof::copy,
          .amount = 3.0 * 4 * rows * classes,  // reads the logits twice, writes their gradient
          .roof_bytes = 4 * rows * classes};
}

Work loss(const std::string& name, const std::string& peer, std::function<Step()> make) {
  return {.name = name + ", forward + backward", .peer = peer, .at_least = 1.3, .make = std::move(make)};
}
void add_losses(std::vector<Work>& all) {
  all.push_back(loss("ctc_loss T 100 N 16 C 32, targets of 30", "ctc 100 16 32 30", [] {
    const Tensor targets = randint(1, 32, {16, 30});
    const std::vector<int64_t> frames(16, 100), lengths(16, 30);
    return forward_backward({randn({100, 16, 32})}, [=](auto& x) { return ctc_loss(log_softmax(x[0], 2), targets, frames, lengths); });
  }));
  all.push_back(loss("info_nce_loss B 256 D 128", "info_nce 256 128", [] {
    return forward_backward({randn({256, 128}), randn({256, 128})}, [](auto& x) { return info_nce_loss(x[0], x[1]); });
  }));
  all.push_back(loss("RLELoss B 64 K 17", "rle 64 17", [] {
    return forward_backward({randn({64, 17, 2}), uniform({64, 17, 2}, 0.5, 1), randn({64, 17, 2})},
                            [module = std::make_shared<nn::RLELoss>()](auto& x) { return (*module)(x[0], x[1], x[2]); });
  }));
  for (const bool logits : {false, true})
    all.push_back(loss(fmt::format("{} 4096 x 768", logits ? "binary_cross_entropy_with_logits" : "smooth_l1_loss"),
                       fmt::format("pointwise_loss {} 4096 768", int(logits)), [logits] {
                         return forward_backward({randn({4096, 768}), uniform({4096, 768}, 0, 1)}, [logits](auto& x) {
                           const Tensor target = x[1].detach();
                           return logits ? binary_cross_entropy_with_logits(x[0], target) : smooth_l1_loss(x[0], target);
                         });
                       }));
}

Work generation() {
  StepSettings s = nano;
  s.block = 512;
  const double weights = 4.0 * double(12 * s.layers * s.width * s.width + s.vocab * s.width);
  return {.name = "generation of 512 tokens, nanoGPT's CPU settings with a block of 512",
          .peer = "generate 512 " + numbers(s),
          .at_least = 5,
          .make = [s]() -> Step {
            auto model = std::make_shared<nn::LanguageModel>(lm::make_model(config_of(s)));
            return [model] {
              Generator generator(1);
              model->generate({0}, 512, {.temperature = 0.8}, generator);
            };
          },
          .roof = Roof::copy,
          .amount = 512 * weights,  // a token reads every weight once
          .roof_bytes = int64_t(weights)};
}

std::vector<Work> all_works() {
  std::vector<Work> all = {
      {.name = "chain of 1000 multiplications of 4 floats, forward + backward",
       .peer = "chain 1",
       .at_least = 8,
       .make = [] { return chain(true); },
       .rates = {{"an op of that chain", "ops/us", 1000 * 1e-6, 1}}},
      {.name = "the chain without recording",
       .peer = "chain 0",
       .make = [] { return chain(false); },
       .rates = {{"an op of that chain without recording", "ops/us", 1000 * 1e-6, 1 / 0.3}}},
  };
  add_row_ops(all);
  add_image_ops(all);
  add_region_ops(all);
  all.push_back(cross_entropy_of_logits());
  add_losses(all);
  all.push_back(norm("BatchNorm2d", nn::BatchNorm2d(64)));
  all.push_back(norm("GroupNorm", nn::GroupNorm(8, 64)));
  all.push_back(recurrent<nn::LSTM, nn::LSTMOptions>("LSTM"));
  all.push_back(recurrent<nn::GRU, nn::GRUOptions>("GRU"));
  add_recurrences(all);
  all.push_back(attention(8, 6, 512, 64, 0.4));
  all.push_back(attention(2, 8, 4096, 64, 0.6));
  add_attention_options(all);
  all.push_back(training_step("nanoGPT's CPU settings", nano, 1.5, 0, 1 / 1.5));
  all.push_back(training_step("6 layers, width 384, T 256, B 16", six_layers, 1.0, 0.75, 0.75));
  all.push_back(training_step("GPT-2 124M, T 64, B 4", gpt2, 1.2, 0, 0));
  for (const double ratio : {0.0, 0.5, 0.75, 0.9}) all.push_back(mae_step(ratio, ratio == 0.75 ? 1.4 : 0));
  all.push_back(resnet18(16, 64));
  all.push_back(adamw("fused", 0.95, 0.9));
  all.push_back(adamw("foreach", 4, 0));
  all.push_back(generation());
  all.push_back(translation_step());
  all.push_back(beam_decoding());
  return all;
}

int64_t status_bytes(const char* field) {  // of this process, from what Linux tells
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;)
    if (word == field) {
      int64_t kib = 0;
      status >> kib;
      return kib * 1024;
    }
  throw Error(fmt::format("bench: /proc/self/status has no {}", field));
}

}  // namespace

const std::vector<Work>& works() {
  static const std::vector<Work> all = all_works();
  return all;
}

const std::vector<FreshWork>& fresh_works() {
  static const std::vector<FreshWork> all = {
      {"nanoGPT's CPU settings", numbers(nano), nano},
      {"6 layers, width 384, T 256, B 16", numbers(six_layers), six_layers},
      {"GPT-2 124M, T 64, B 4", numbers(gpt2), gpt2},
  };
  return all;
}
int64_t memory_of_steps(const StepSettings& settings, int steps) {
  std::ofstream("/proc/self/clear_refs") << 5;  // forgets the peak so far
  const int64_t before = status_bytes("VmRSS:");
  GptStep step(settings);
  for (int i = 0; i < steps; ++i) step.run();
  return status_bytes("VmHWM:") - before;
}

}  // namespace retape::bench
