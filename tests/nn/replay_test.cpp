// Every layer under every policy that saves memory: gradients, buffers and generator state are the same bits.
#include <map>

#include "../catch.h"
#include "../policies.h"

using namespace retape;
using namespace retape::testing;

namespace {

// Normalises by statistics of the batch and keeps a running mean of them, as batch normalisation does.
struct RunningNorm : nn::Module {
  Parameter weight{ones({6})};
  Buffer mean{zeros({6})}, steps{zeros({}, {DType::i64})};
  Tensor forward(const Tensor& x) {
    const Tensor m = retape::mean(x, {0, 1});
    mean = 0.9 * mean + 0.1 * m.detach();
    steps = steps + 1;
    return (x - m) * weight;
  }
  RETAPE_FIELDS(weight, mean, steps)
};
struct Tied : nn::Module {
  nn::Embedding in;
  nn::Linear hidden, out;
  Tied() : in(6, 6), hidden(6, 6), out(6, 6, {.bias = false}) { out.weight = in.weight; }
  Tensor forward(const Tensor& x) { return out(gelu(hidden(in(cast(floor(3 + 3 * select(x, -1, 0)), DType::i64))))); }
  RETAPE_FIELDS(in, hidden, out)
};
struct SelfAttention : nn::Module {
  nn::MultiheadAttention attention;
  SelfAttention() : attention(6, 2, {.dropout = 0.3}) {}
  Tensor forward(const Tensor& x) { return attention(x, x, x).output; }
  RETAPE_FIELDS(attention)
};
struct Rotated : nn::Module {
  nn::RotaryEmbedding rope{6};
  Tensor forward(const Tensor& x) { return square(rope(x)); }
  RETAPE_FIELDS(rope)
};
struct Nested : nn::Module {
  nn::Linear a, b;
  nn::Dropout drop{0.4};
  Nested() : a(6, 12), b(12, 6) {}
  Tensor forward(const Tensor& x) {
    return x + checkpoint([&](const Tensor& h) { return b(drop(gelu(a(h)))); }, x);
  }
  RETAPE_FIELDS(a, b, drop)
};

template <class M> nn::AnyModule layer(M m) { return nn::AnyModule(std::move(m)); }
std::vector<std::pair<std::string, std::function<nn::AnyModule()>>> layers() {
  return {
      {"Linear", [] { return layer(nn::Linear(6, 6)); }},
      {"LayerNorm", [] { return layer(nn::LayerNorm({6})); }},
      {"RMSNorm", [] { return layer(nn::RMSNorm({6})); }},
      {"Dropout", [] { return layer(nn::Dropout(0.4)); }},
      {"ReLU", [] { return layer(nn::ReLU()); }},
      {"GELU", [] { return layer(nn::GELU()); }},
      {"SiLU", [] { return layer(nn::SiLU()); }},
      {"Tanh", [] { return layer(nn::Tanh()); }},
      {"Sigmoid", [] { return layer(nn::Sigmoid()); }},
      {"Softplus", [] { return layer(nn::Softplus()); }},
      {"Softmax", [] { return layer(nn::Softmax(-1)); }},
      {"LogSoftmax", [] { return layer(nn::LogSoftmax(-1)); }},
      {"running statistics", [] { return layer(RunningNorm()); }},
      {"tied weights", [] { return layer(Tied()); }},
      {"MultiheadAttention", [] { return layer(SelfAttention()); }},
      {"CausalSelfAttention",
       [] {
         return layer(nn::CausalSelfAttention(6, {.num_heads = 1,
                                                  .dropout = 0.3,
                                                  .window = 3,
                                                  .position = nn::AttentionPosition::t5,
                                                  .num_buckets = 4,
                                                  .max_distance = 6,
                                                  .softcap = 2,
                                                  .qk_norm = true}));
       }},
      {"ViTBlock",
       [] {
         return layer(nn::ViTBlock({.hidden_size = 6,
                                    .num_attention_heads = 2,
                                    .intermediate_size = 12,
                                    .hidden_dropout_prob = 0.3,
                                    .attention_probs_dropout_prob = 0.2}));
       }},
      {"RotaryEmbedding", [] { return layer(Rotated()); }},
      {"a checkpoint inside", [] { return layer(Nested()); }},
  };
}

struct Outcome {
  NamedTensors tensors;
  RandomState generator;
};
Outcome outcome(const std::function<nn::AnyModule()>& make, const Policy& policy) {
  manual_seed(5);
  std::vector<nn::AnyModule> stack;  // twice, with more ops around, so that there is something between
  stack.push_back(make()), stack.push_back(make());
  const Tensor x = values({2, 4, 6}, -1, 1, 3, DType::f32).set_requires_grad();
  for (int step = 0; step < 2; ++step)
    policy.differentiate([&] {
      Tensor h = stack[0](tanh(x));
      h = stack[1](sin(h) * x);
      return mean(square(h));
    });
  Outcome o{{{"x.grad", x.grad()}}, default_generator().state()};
  for (auto& m : stack) {
    for (auto& [name, t] : m.module().named_parameters()) o.tensors.push_back({name + ".grad", t.grad()});
    for (auto& named : m.module().named_buffers()) o.tensors.push_back(named);
  }
  return o;
}

}  // namespace

TEST_CASE("layers compute the same bits under every policy that saves memory", "[replay][budget]") {
  for (auto& [name, make] : layers()) {
    const Outcome plain = outcome(make, keep_everything);
    for (auto& policy : lossless_policies()) {
      INFO(name << ", " << policy.name);
      const Outcome other = outcome(make, policy);
      CHECK(other.generator.offset == plain.generator.offset);
      REQUIRE(other.tensors.size() == plain.tensors.size());
      for (size_t i = 0; i < plain.tensors.size(); ++i) {
        INFO(plain.tensors[i].first);
        REQUIRE(bool(other.tensors[i].second) == bool(plain.tensors[i].second));
        if (plain.tensors[i].second) CHECK(same_bits(other.tensors[i].second, plain.tensors[i].second));
      }
    }
  }
}
