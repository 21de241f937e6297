// What an out-of-memory Error says.
#include <retape/autograd/memory_report.h>

#include "../catch.h"

using namespace retape;
using retape::testing::error_of;

namespace {

// Wants more memory than there is, in forward or in backward.
struct Greedy {
  static constexpr auto name = "greedy";
  bool in_forward;
  static Tensor too_much() { return empty({int64_t{1} << 50}); }
  Tensor forward(const Tensor& x) {
    if (in_forward) too_much();
    return clone(x);
  }
  void backward(const Tensor& dy, Grads& dx) {
    too_much();
    dx.set(0, dy);
  }
};
struct Ask {  // what would free so many bytes
  static constexpr auto name = "ask";
  int64_t bytes;
  std::string* report;
  Tensor forward(const Tensor& in) {
    *report = detail::memory_report(Device::cpu(), bytes);
    return clone(in);
  }
  void backward(const Tensor& dy, Grads& dx) { dx.set(0, dy); }
};
struct Layer : nn::Module {
  nn::Linear up, down;
  Layer() : up(256, 1024), down(1024, 256) {}
  Tensor forward(const Tensor& x) { return x + down(gelu(up(x))); }
  RETAPE_FIELDS(up, down)
};
struct Head : nn::Module {
  bool greedy_forward = true;
  nn::Linear out{256, 16};
  Tensor forward(const Tensor& x) { return record(Greedy{greedy_forward}, out(x)); }
  RETAPE_FIELDS(out)
};
struct Model : nn::Module {
  std::vector<Layer> layers;
  Head head;
  Model() {
    for (int i = 0; i < 4; ++i) layers.emplace_back();
  }
  Tensor forward(Tensor x) {
    for (auto& layer : layers) x = layer(x);
    return head(x);
  }
  RETAPE_FIELDS(layers, head)
};

}  // namespace

TEST_CASE("an out-of-memory Error names op and module, the largest holders and the cheapest remedy", "[memory]") {
  Model model;
  const Tensor x = rand({512, 256});
  std::string error = error_of([&] { model(x); });
  INFO(error);
  CHECK_THAT(error, ContainsSubstring("out of memory: greedy (in head): 4.00 PiB could not be allocated. In use are "));
  // A layer's gelu keeps 2 MiB (its input); up keeps 0.5 MiB and down 2 MiB of inputs. Parameters: 8 x 1 MiB and biases.
  CHECK_THAT(error, ContainsSubstring("layers.*.down 12.0 MiB (4 modules: activations 8.00 MiB, parameters 4.00 MiB)"));
  CHECK_THAT(error, ContainsSubstring("layers.* 8.00 MiB (4 modules: activations 8.00 MiB)"));
  CHECK_THAT(error, ContainsSubstring("layers.*.up 6.02 MiB (4 modules: activations 2.00 MiB, parameters 4.02 MiB)"));
  CHECK_THAT(error, ContainsSubstring("Cheapest remedy: the new tensor alone is larger"));
  CHECK(error.find("(in head)") == error.rfind("(in head)"));
}

TEST_CASE("an out-of-memory Error in backward and in a checkpoint's replay names what runs, too", "[memory]") {
  Model model;
  model.head.greedy_forward = false;
  const Tensor x = rand({512, 256});
  const Tensor loss = sum(model(x));
  const std::string error = error_of([&] { backward(loss); });
  INFO(error);
  CHECK_THAT(error, ContainsSubstring("out of memory: backward of greedy (in head)"));
  CHECK_THAT(error, ContainsSubstring("layers.*.down 12.0 MiB"));
}

TEST_CASE("the report counts gradients and the optimizer's state, and finds the remedy that frees enough", "[memory]") {
  Model model;
  model.head.greedy_forward = false;
  AdamW optimizer(model.parameters());
  const int64_t before = detail::optimizer_bytes(Device::cpu()).load();
  for (auto& p : model.parameters()) p.set_grad(zeros_like(p));
  optimizer.step();
  CHECK(detail::optimizer_bytes(Device::cpu()).load() - before > 2 * 8 * (1 << 20));
  std::string report;
  const Tensor y = model(rand({512, 256}));
  record(Ask{int64_t{4} << 20, &report}, y);
  INFO(report);
  CHECK_THAT(report, ContainsSubstring("optimizer state "));
  CHECK_THAT(report, ContainsSubstring("gradients 4.00 MiB"));
  CHECK_THAT(report, ContainsSubstring("half of the batch at a time"));
  CHECK_THAT(report, ContainsSubstring(
                         "checkpoint() around each of the 4 layers.* frees about 11.5 MiB"));  // 18, less 4 x 0.5 that enter and a layer
  record(Ask{int64_t{12} << 20, &report}, y);
  CHECK_THAT(report, !ContainsSubstring("checkpoint() around"));
}
